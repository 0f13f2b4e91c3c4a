"""What a training step asks of a GPU, counted without one.

    python benchmarks/count.py

One micro-batch of masked language modelling and matching runs forward and backward on the meta
device, which computes shapes but no values, under CUDA's rules for bf16 autocast. Printed are

    gflop_per_sample  operations of matrix products and attention, forward and backward
    kernels           operations that would launch something on a GPU
    mb_per_sample     bytes that they read and write
    activation_casts  fp32 states that are copied to bf16, forward
    weight_casts      parameters that are copied to bf16 one by one, forward
    weight_copies     calls that copy a list of parameters to bf16, forward
    mask_conversions  masks that become something to add to attention scores, forward
    host_waits        values that the host reads, for which it waits; forward and backward

for ViT-B + BERT-B with co-attention (`base`) and DeiT-tiny + ELECTRA-small with LXMERT layers
(`small`). Text lengths are drawn from a distribution close to that of COCO's captions.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import BertProcessing
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedTokenizerFast

from renaissance import ObjectiveBatch, Pairs
from renaissance.data.micro_batch import MicroBatch, without_padding
from renaissance.data.shared_pairs import share_pairs
from renaissance.engine.bf16_copies import Bf16Copies, following_modules
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

aten = torch.ops.aten
VOCAB_SIZE, MASK_PROBABILITY = 30522, 0.15
SPECIAL_TOKENS = ("pad", "unk", "cls", "sep", "mask")
LONGEST_TEXT, PAD_MULTIPLE = 32, 8
# Memory-efficient attention takes a mask whose rows begin at multiples of so many elements.
MASK_ALIGNMENT = 8

MODELS = {
    "base": {
        "text": "architecture = 'bert'",
        "image": "architecture = 'vit'",
        "fusion": "type = 'co-attention'\nhidden_size = 768\nnum_layers = 6\nnum_heads = 12",
    },
    "small": {
        "text": "architecture = 'electra'\nconfig = { num_attention_heads = 4 }",
        "image": "architecture = 'deit'\nconfig = { hidden_size = 192, num_attention_heads = 3, "
        "intermediate_size = 768 }",
        "fusion": "type = 'lxmert'\nhidden_size = 256\nnum_layers = 6\nnum_heads = 4",
    },
}
SPEC = """
[model]
type = "two-tower"
[model.text_encoder]
type = "hf-text"
{text}
[model.image_encoder]
type = "hf-image"
{image}
[model.fusion]
{fusion}
[data]
image_size = 224
tokenizer = "{tokenizer}"
train = [{{ type = "shapes", num_samples = 8 }}]
[[objectives]]
type = "mlm"
[[objectives]]
type = "itm"
[train]
global_batch_size = 8
precision = "bf16"
device = "cpu"
"""

# Operations that launch nothing: views, and memory that is not written.
FREE = frozenset(
    {
        "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal",
        "empty", "empty_like", "empty_strided", "expand", "is_same_size", "lift_fresh", "narrow",
        "new_empty", "new_empty_strided", "permute", "reshape", "select", "slice", "split",
        "split_with_sizes", "squeeze", "sym_numel", "sym_size", "sym_stride", "t", "transpose",
        "unbind", "unfold", "unsafe_split", "unsqueeze", "view",
    }
)  # fmt: skip
# Those that launch more than one kernel.
KERNELS = {
    "_scaled_dot_product_efficient_attention_backward": 3,
    "_scaled_dot_product_flash_attention_backward": 3,
    "native_layer_norm_backward": 2,
    "embedding_dense_backward": 8,
    "index_put_": 3,
    "_index_put_impl_": 3,
}
GATHERS = frozenset({"index", "embedding", "index_select", "gather"})
WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select"})


@attrs.define
class Counts:
    """The figures of one step; see the top of this file."""

    gflop_per_sample: float = 0.0
    kernels: int = 0
    mb_per_sample: float = 0.0
    activation_casts: int = 0
    weight_casts: int = 0
    weight_copies: int = 0
    mask_conversions: int = 0
    host_waits: int = 0


class _Operations(TorchDispatchMode):
    """Adds up what each operation costs."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.counts = Counts()
        self.is_forward = True
        self.calls: Counter[str] = Counter()
        self._num_samples = num_samples

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name in WAITS:
            self.counts.host_waits += 1
        if name not in FREE:
            self.calls[name] += 1
            self.counts.kernels += KERNELS.get(name, 1)
            inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
            if func._overloadpacket in flop_registry:
                flops = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
                self.counts.gflop_per_sample += flops / self._num_samples / 1e9
            # A gather reads as much as it writes.
            read = sum(map(_num_bytes, outputs if name in GATHERS else inputs))
            written = sum(map(_num_bytes, inputs[:1] if name.endswith("_") else outputs))
            self.counts.mb_per_sample += (read + written) / self._num_samples / 1e6
            if self.is_forward:
                self._count_conversions(name, inputs, outputs)
        return result

    def _count_conversions(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        counts = self.counts
        if name == "_foreach_copy_":
            counts.weight_copies += 1
        if not inputs or not outputs or not outputs[0].is_floating_point():
            return
        source, dtypes = inputs[0], (inputs[0].dtype, outputs[0].dtype)
        is_conversion = name in ("_to_copy", "where") and source.dtype == torch.bool
        if is_conversion or name == "masked_fill":
            counts.mask_conversions += 1
        if name == "_to_copy" and dtypes == (torch.float32, torch.bfloat16):
            base = source if source._base is None else source._base
            if isinstance(base, torch.nn.Parameter):
                counts.weight_casts += 1
            else:
                counts.activation_casts += 1


def _num_bytes(tensor: Tensor) -> int:
    """Return what reading a tensor takes; what is broadcast is read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


class _CudaAutocast(TorchFunctionMode):
    """Does on the meta device what CUDA does under autocast to bf16.

    Autocast to bf16 on the CPU, which does nothing to meta tensors, says whether it is on.
    """

    HALF = frozenset({F.linear, torch.matmul, F.conv2d, torch.conv2d, torch.bmm})
    FULL = frozenset(
        {F.layer_norm, F.softmax, F.log_softmax, F.cross_entropy, F.nll_loss, F.mse_loss}
    )

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        is_on = torch.is_autocast_enabled("cpu")
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*(map(self._half, args) if is_on else args), **kwargs)
        if is_on and func in self.HALF:
            args = [self._half(value) for value in args]
            kwargs = {name: self._half(value) for name, value in kwargs.items()}
        elif is_on and func in self.FULL:
            args = [_full(value) for value in args]
            kwargs = {name: _full(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _half(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        # Autocast keeps the copies of trained parameters until the end of the forward pass.
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(torch.bfloat16)
        return self._copies[id(value)]


def _full(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if is_half else value


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p else input


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: object,
) -> Tensor:
    """Call the kernel that CUDA would choose, after what is done to the mask for it."""
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    if attn_mask.dtype == torch.bool:
        minus_infinity = torch.scalar_tensor(-torch.inf, dtype=query.dtype, device="meta")
        attn_mask = torch.where(attn_mask, 0.0, minus_infinity)
    attn_mask = attn_mask.to(query.dtype)
    length = attn_mask.shape[-1]
    if any(stride % MASK_ALIGNMENT for stride in attn_mask.stride()[:-1]):
        attn_mask = F.pad(attn_mask, (0, -length % MASK_ALIGNMENT))[..., :length]
    attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


def build_network(
    model: str, fusion: str | None = None, device: str = "meta", settings: Sequence[str] = ()
) -> MultiObjective:
    """Build one of `MODELS` with its objectives: on the meta device, without values.

    Args:
        model: Its name.
        fusion: The fusion's type, instead of the model's own.
        device: Where.
        settings: Keys of the run spec to set.
    """
    parts = dict(MODELS[model])
    if fusion is not None:
        parts["fusion"] = f"type = '{fusion}'\n" + parts["fusion"].split("\n", 1)[1]
    plugins = load_plugins()
    with tempfile.TemporaryDirectory() as folder:
        words = {f"[{index}]": index for index in range(VOCAB_SIZE)}
        tokenizer = Tokenizer(WordLevel(words, unk_token="[0]"))
        tokenizer.post_processor = BertProcessing(("[3]", 3), ("[2]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            **{f"{name}_token": f"[{index}]" for index, name in enumerate(SPECIAL_TOKENS)},
        ).save_pretrained(folder)
        spec = Path(folder, "spec.toml")
        spec.write_text(SPEC.format(tokenizer=folder, **parts))
        with torch.device(device):
            run = load_spec([str(spec), *settings], plugins)
            return build(run, 1, load_weights=False).network.train()


def text_lengths(num_texts: int) -> np.ndarray[Any, Any]:
    """Draw lengths in tokens with two special ones: log-normal, 14 on average, the longest 32.

    The mean of COCO's captions is 14.0.
    """
    normal = np.random.default_rng(0).normal(np.log(13.7), 0.2, num_texts)
    lengths = np.clip(np.exp(normal).round().astype(int), 7, LONGEST_TEXT)
    lengths[0] = LONGEST_TEXT
    return lengths


def make_batch(num_samples: int, matched: str = "plain", image_size: int = 224) -> MicroBatch:
    """Return a micro-batch like the collator's: masked texts first, then plain ones, if matched."""
    lengths = text_lengths(num_samples)
    masked = np.maximum(1, np.round((lengths - 2) * MASK_PROBABILITY)).astype(int)
    rows = torch.arange(num_samples)
    width = -(-int(lengths.max()) // PAD_MULTIPLE) * PAD_MULTIPLE
    num_views = 1 if matched == "masked" else 2
    is_real = torch.arange(width) < torch.from_numpy(np.tile(lengths, num_views))[:, None]
    num_targets = int(masked.sum())
    # Every other sample is matched with its neighbour's image.
    images = torch.where(rows % 2 == 1, (rows + 1) % num_samples, rows)
    texts = rows if matched == "masked" else rows + num_samples
    mlm = ObjectiveBatch(
        num_targets,
        Pairs(rows, rows, outputs=frozenset({"text"})),
        {
            "pair_indices": torch.from_numpy(np.repeat(np.arange(num_samples), masked)),
            "positions": torch.ones(num_targets, dtype=torch.int64),
            "labels": torch.zeros(num_targets, dtype=torch.int64),
        },
    )
    itm = ObjectiveBatch(num_samples, Pairs(texts, images), {"labels": rows % 2})
    objectives = {"mlm": mlm, "itm": itm}
    batch = MicroBatch(
        indices=rows,
        input_ids=torch.zeros(is_real.shape, dtype=torch.int64),
        attention_mask=is_real,
        pixel_values=torch.empty(num_samples, 3, image_size, image_size, dtype=torch.uint8),
        objectives=objectives,
        shared_pairs=share_pairs(objectives),
    )
    return without_padding(batch, is_real.sum(1).tolist())


def count(network: MultiObjective, batch: MicroBatch) -> Counts:
    """Count one forward and backward pass."""
    operations = _Operations(len(batch.indices))
    batch = batch.to(torch.device("meta"))
    copies = Bf16Copies(following_modules(network))
    with ExitStack() as stack:
        stack.enter_context(operations)
        copies.refresh()
        stack.enter_context(copies.in_use())
        with _CudaAutocast(), torch.autocast("cpu", torch.bfloat16):
            outputs = network(batch)
            losses = [
                output.loss_sum / batch.objectives[name].num_targets
                for name, output in outputs.items()
            ]
            loss = torch.stack(losses).sum()
        operations.is_forward = False
        loss.backward()
    network.zero_grad()
    return operations.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), help="one of the two; both by default")
    parser.add_argument("--batch", type=int, default=256, help="samples per step")
    parser.add_argument(
        "--matched", choices=["plain", "masked"], default="plain", help="as itm's option `text`"
    )
    parser.add_argument("--fusion", help="instead of the model's own")
    arguments = parser.parse_args()
    batch = make_batch(arguments.batch, arguments.matched)
    for model in [arguments.model] if arguments.model else MODELS:
        counts = count(build_network(model, arguments.fusion), batch)
        for name, value in attrs.asdict(counts).items():
            print(f"{model}_{name}={value:.1f}".removesuffix(".0"))


if __name__ == "__main__":
    main()
