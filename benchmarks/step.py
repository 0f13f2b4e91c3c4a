"""How much faster is a training step here than the plain way, on the same data?

    python benchmarks/step.py

Model: DeiT-tiny (distilled shapes) and ELECTRA-small with random parameters, six LXMERT layers of
256, masked language modelling and image-text matching. Every step is forward, backward and AdamW.

Plain: the whole model runs once per objective, as in ViLT and METER: two image encodes per sample
(matching has false images), text padded to 40, vocabulary logits at every position, the LXMERT
layers of Hugging Face, torch's default AdamW. Ours: the training network of this project.

`--model one-tower`: one stack of DeiT-tiny's shapes over text and image tokens, in place of towers
and fusion, on both sides.

Each side has a process of its own, as in use: `renaissance` sets how its process treats memory, and
a plain script does not. `plain_kept_memory` is the plain step with our settings. The sides take
turns; a ratio is the median over successive pairs of steps.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DeiTConfig,
    DeiTModel,
    ElectraConfig,
    ElectraModel,
    LxmertConfig,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)
from transformers.models.bert.modeling_bert import BertConfig, BertLMPredictionHead
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

from renaissance import (
    EncoderContext,
    Fusion,
    ObjectiveBatch,
    ObjectiveContext,
    Pairs,
)
from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_joint import HFJointEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.fusions.co_attention import CoAttention
from renaissance.builtin.fusions.lxmert import Lxmert
from renaissance.builtin.fusions.merged_attention import MergedAttention
from renaissance.builtin.heads.linear import Linear
from renaissance.builtin.heads.mlm import MLMHead
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.builtin.poolers.double import Double
from renaissance.data.micro_batch import MicroBatch, without_padding
from renaissance.data.shared_pairs import share_pairs
from renaissance.engine.bf16_copies import Bf16Copies, following_modules
from renaissance.engine.memory import keep_freed_memory
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.precision import autocast
from renaissance.model.base import VisionLanguageModel
from renaissance.model.one_tower import OneTower
from renaissance.model.two_tower import TwoTower

FUSIONS: dict[str, Any] = {
    "lxmert": Lxmert,
    "co-attention": CoAttention,
    "merged-attention": MergedAttention,
}
VARIANTS = ("plain", "plain_kept_memory", "ours", "ours_bf16")
VOCAB_SIZE, MASK_ID, FIRST_WORD_ID = 30522, 103, 1000
MAX_TEXT_LENGTH, IMAGE_SIZE, PAD_MULTIPLE = 40, 224, 8
CONTEXT = EncoderContext(IMAGE_SIZE, MAX_TEXT_LENGTH, VOCAB_SIZE)
MASK_PROBABILITY = 0.15
LEARNING_RATE = 1e-4
# DeiT-tiny's shapes.
ONE_TOWER: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}


@attrs.frozen
class Data:
    """One micro-batch, before either side arranges it.

    Attributes:
        input_ids: (samples, 40), int64.
        masked_ids: The same with 15% masked, (samples, 40), int64.
        mlm_labels: -100 where not masked, (samples, 40), int64.
        attention_mask: (samples, 40), bool.
        pixels: (samples, 3, 224, 224), uint8.
        matching_rows: Row of each sample's image for matching, true or false, (samples,).
        itm_labels: 1 where true, (samples,), int64.
    """

    input_ids: Tensor
    masked_ids: Tensor
    mlm_labels: Tensor
    attention_mask: Tensor
    pixels: Tensor
    matching_rows: Tensor
    itm_labels: Tensor


def caption_lengths() -> tuple[np.ndarray[Any, Any], str]:
    """Return lengths to draw from, in tokens with two special ones, and their source."""
    root = os.environ.get("RENAISSANCE_SHARED_DATA")
    path = Path(root or "", "flickr8k", "karpathy", "dataset_flickr8k.json")
    if root and path.is_file():
        images = json.loads(path.read_text())["images"]
        words = [len(s["raw"].split()) for image in images for s in image["sentences"]]
        # One token per word and two special tokens: slightly fewer than BERT's tokenizer makes.
        return np.array(words) + 2, f"{len(words)} Flickr8k captions"
    lengths = np.arange(5, 33)
    spread = np.exp(-((np.log(lengths) - np.log(14.5)) ** 2) / (2 * 0.3**2)) / lengths
    drawn = np.random.default_rng(0).choice(lengths, size=10_000, p=spread / spread.sum())
    return drawn, "a log-normal distribution about 13 words"


def make_data(batch_size: int, seed: int = 0) -> tuple[Data, str]:
    """Draw one micro-batch."""
    generator = np.random.default_rng(seed)
    lengths, source = caption_lengths()
    drawn = np.minimum(generator.choice(lengths, size=batch_size), MAX_TEXT_LENGTH)
    source = f"{source}; here {drawn.mean() - 2:.1f} words on average, {drawn.max() - 2} at most"
    position = np.arange(MAX_TEXT_LENGTH)
    real = position < drawn[:, None]
    ids = generator.integers(FIRST_WORD_ID, VOCAB_SIZE, size=real.shape) * real
    inner = (position > 0) & (position < drawn[:, None] - 1)
    chosen = inner & (generator.random(real.shape) < MASK_PROBABILITY)
    chosen[:, 1] = True  # at least one per sample
    # Every other sample is matched with its neighbour's image.
    rows = np.arange(batch_size)
    false = rows % 2 == 1
    tensors = (
        ids,
        np.where(chosen, MASK_ID, ids),
        np.where(chosen, ids, -100),
        real,
        generator.integers(256, size=(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8),
        np.where(false, (rows + 1) % batch_size, rows),
        (~false).astype(np.int64),
    )
    return Data(*map(torch.from_numpy, tensors)), source


def text_encoder() -> ElectraModel:
    return ElectraModel(ElectraConfig(intermediate_size=1024, num_attention_heads=4))


class Plain(nn.Module):
    """A model that runs as a whole for each objective."""

    mlm_head: nn.Module
    itm_head: nn.Module

    def infer(self, input_ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of the text's tokens, and text and image pooled together."""
        raise NotImplementedError

    def forward(self, data: Data) -> Tensor:
        mask, pixels = data.attention_mask, normalize(data.pixels)
        text, _ = self.infer(data.masked_ids, mask, pixels)
        logits = self.mlm_head(text)
        mlm = F.cross_entropy(logits.flatten(0, 1), data.mlm_labels.flatten(), ignore_index=-100)
        # The images of matching, true and false, are a separate batch.
        _, pooled = self.infer(data.input_ids, mask, pixels[data.matching_rows])
        return mlm + F.cross_entropy(self.itm_head(pooled), data.itm_labels)


class PlainTwoTower(Plain):
    """Both towers and LXMERT layers of transformers."""

    def __init__(self, attention_dropout: float) -> None:
        super().__init__()
        self.text_encoder = text_encoder()
        self.image_encoder = DeiTModel(deit_config(), add_pooling_layer=False)
        self.text_projection = nn.Linear(256, 256)
        self.image_projection = nn.Linear(192, 256)
        self.token_types = nn.Embedding(2, 256)
        config = LxmertConfig(
            hidden_size=256,
            num_attention_heads=4,
            intermediate_size=1024,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=attention_dropout,
        )
        self.layers = nn.ModuleList(LxmertXLayer(config) for _ in range(6))
        self.text_pooler = nn.Linear(256, 256)
        self.image_pooler = nn.Linear(256, 256)
        self.mlm_head = BertLMPredictionHead(BertConfig(hidden_size=256, vocab_size=VOCAB_SIZE))
        self.itm_head = nn.Linear(512, 2)

    def infer(self, input_ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        text = self.text_encoder(input_ids, attention_mask=mask).last_hidden_state
        image = self.image_encoder(pixels).last_hidden_state
        text = self.text_projection(text) + self.token_types.weight[0]
        image = self.image_projection(image) + self.token_types.weight[1]
        additive = (~mask)[:, None, None, :] * torch.finfo(text.dtype).min
        for layer in self.layers:
            text, image = layer(text, additive, image, None)
        first = [self.text_pooler(text[:, 0]).tanh(), self.image_pooler(image[:, 0]).tanh()]
        return text, torch.cat(first, dim=-1)


class PlainOneTower(Plain):
    """A vision transformer of transformers over the tokens of text and image, as in ViLT."""

    def __init__(self, attention_dropout: float) -> None:
        super().__init__()
        config = ViTConfig(**ONE_TOWER, image_size=IMAGE_SIZE)
        config.attention_probs_dropout_prob = attention_dropout
        self.image = ViTModel(config, add_pooling_layer=False)
        width = config.hidden_size
        self.words = nn.Embedding(VOCAB_SIZE, width)
        self.positions = nn.Embedding(MAX_TEXT_LENGTH, width)
        self.token_types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.text_pooler, self.image_pooler = nn.Linear(width, width), nn.Linear(width, width)
        self.mlm_head = BertLMPredictionHead(BertConfig(hidden_size=width, vocab_size=VOCAB_SIZE))
        self.itm_head = nn.Linear(2 * width, 2)

    def infer(self, input_ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        text = self.norm(self.words(input_ids) + self.positions.weight)
        image = self.image.embeddings(pixels)
        types = self.token_types.weight
        states = torch.cat([text + types[0], image + types[1]], dim=1)
        real = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
        for layer in self.image.layers:
            states = layer(states, attention_mask=real[:, None, None, :])
        states = self.image.layernorm(states)
        text, image = states[:, :MAX_TEXT_LENGTH], states[:, MAX_TEXT_LENGTH:]
        first = [self.text_pooler(text[:, 0]).tanh(), self.image_pooler(image[:, 0]).tanh()]
        return text, torch.cat(first, dim=-1)


def deit_config() -> DeiTConfig:
    return DeiTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=IMAGE_SIZE
    )


def normalize(pixels: Tensor) -> Tensor:
    return (pixels.float() - 127.5) / 127.5


class TextEncoder(HFTextEncoder):
    """Ours, of the shape of the plain one."""

    def __init__(self) -> None:
        config = {"intermediate_size": 1024, "num_attention_heads": 4}
        super().__init__(self.Options(architecture="electra", config=config), CONTEXT)


class ImageEncoder(HFImageEncoder):
    """Ours, of the shape of the plain one."""

    def __init__(self) -> None:
        config = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        super().__init__(self.Options(architecture="deit", config=config), CONTEXT)


def make_task(fusion: Fusion) -> MultiObjective:
    model = TwoTower(TextEncoder(), ImageEncoder(), fusion, Double(Double.Options(), 256))
    return with_objectives(model)


def make_one_tower(attention_dropout: float) -> MultiObjective:
    config = {**ONE_TOWER, "attention_probs_dropout_prob": attention_dropout}
    options = HFJointEncoder.Options(architecture="vit", config=config)
    encoder = HFJointEncoder(options, EncoderContext(IMAGE_SIZE, MAX_TEXT_LENGTH, VOCAB_SIZE))
    return with_objectives(OneTower(encoder, Double(Double.Options(), encoder.hidden_size)))


def with_objectives(model: VisionLanguageModel) -> MultiObjective:
    words = {f"[{i}]": i for i in range(VOCAB_SIZE)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[0]")), mask_token=f"[{MASK_ID}]"
    )

    def context(head: Any) -> ObjectiveContext:
        return ObjectiveContext(
            model.sizes, tokenizer, lambda inputs, outputs: head(head.Options(), inputs, outputs)
        )

    objectives = {
        "mlm": MLM(MLM.Options(), context(MLMHead)),
        "itm": ITM(ITM.Options(), context(Linear)),
    }
    return MultiObjective(model, nn.ModuleDict(objectives), mean=(0.5,) * 3, std=(0.5,) * 3)


def collate(data: Data) -> MicroBatch:
    """Collate as this project does: masked texts first, then plain ones."""
    batch_size = len(data.input_ids)
    longest = int(data.attention_mask.sum(1).max())
    length = min(-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE, MAX_TEXT_LENGTH)
    rows = torch.arange(batch_size)
    pair_indices, positions = torch.nonzero(data.mlm_labels >= 0, as_tuple=True)
    mlm = ObjectiveBatch(
        num_targets=len(positions),
        pairs=Pairs(text_rows=rows, image_rows=rows, outputs=frozenset({"text"})),
        tensors={
            "pair_indices": pair_indices,
            "positions": positions,
            "labels": data.mlm_labels[pair_indices, positions],
        },
    )
    itm = ObjectiveBatch(
        num_targets=batch_size,
        pairs=Pairs(text_rows=rows + batch_size, image_rows=data.matching_rows),
        tensors={"labels": data.itm_labels},
    )
    objectives = {"mlm": mlm, "itm": itm}
    is_real = torch.cat([data.attention_mask] * 2)
    batch = MicroBatch(
        indices=rows,
        input_ids=torch.cat([data.masked_ids, data.input_ids])[:, :length],
        attention_mask=is_real[:, :length],
        pixel_values=data.pixels,
        objectives=objectives,
        shared_pairs=share_pairs(objectives),
    )
    return without_padding(batch, is_real.sum(1).tolist())


def moved(data: Data, device: torch.device) -> Data:
    names = attrs.fields_dict(Data)
    return Data(**{name: getattr(data, name).to(device) for name in names})


def plain_step(
    model: Plain, data: Data, device: torch.device, bf16: bool = False
) -> Callable[[], None]:
    model.to(device).train()
    # On a GPU, whoever trains plainly in bf16 takes the fused optimizer as well.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=bf16 or None)
    data = moved(data, device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast("bf16" if bf16 else "fp32", device, training=True):
            loss = model(data)
        loss.backward()
        optimizer.step()

    return step


def our_step(
    network: MultiObjective, batch: MicroBatch, device: torch.device, bf16: bool
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    copies = Bf16Copies(following_modules(network) if bf16 else [])

    def step() -> None:
        optimizer.zero_grad()
        copies.refresh()
        with copies.in_use():
            with autocast("bf16" if bf16 else "fp32", device, training=True):
                outputs = network(batch)
            losses = [
                output.loss_sum / batch.objectives[name].num_targets
                for name, output in outputs.items()
            ]
            torch.stack(losses).sum().backward()
        optimizer.step()

    return step


def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the speed that the machine reaches in the matrix product of a fusion layer."""
    rows, width = torch.randn(6336, 256, dtype=dtype), torch.randn(256, 1024, dtype=dtype)
    rows, width = rows.to(device), width.to(device)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        rows @ width
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * 6336 * 256 * 1024 / statistics.median(seconds) / 1e9


def count_flops(step: Callable[[], None]) -> int:
    """Count a step's multiplications in matrix products; attention in its unfused form."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops()


def make_step(variant: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """Build one side's model and return its step."""
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    data, _ = make_data(arguments.batch)
    dropout, fusion = arguments.attention_dropout, FUSIONS[arguments.fusion]
    is_two_tower = arguments.model == "two-tower"
    if variant in ("plain", "plain_kept_memory"):
        plain = PlainTwoTower(dropout) if is_two_tower else PlainOneTower(dropout)
        return plain_step(plain, data, device)
    if is_two_tower:
        network = make_task(fusion(fusion.Options(attention_dropout=dropout)))
    else:
        network = make_one_tower(dropout)
    batch = collate(data).to(device)
    return our_step(network.to(device).train(), batch, device, bf16=variant == "ours_bf16")


def answer(connection: Connection, variant: str, arguments: argparse.Namespace) -> None:
    """Do a step each time that the other end asks for one, or count one's multiplications."""
    device = torch.device(arguments.device)
    if variant != "plain":
        keep_freed_memory(device)
    torch.set_num_threads(arguments.threads)
    step = make_step(variant, arguments)
    while (asked := connection.recv()) != "end":
        if asked == "count":
            connection.send(count_flops(step))
            continue
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        connection.send(time.perf_counter() - start)


class Side:
    """A process that does the steps of one side.

    Args:
        variant: Which of VARIANTS.
        arguments: The command's.
    """

    def __init__(self, variant: str, arguments: argparse.Namespace) -> None:
        self._connection, other_end = multiprocessing.Pipe()
        # The command line sets it, and PyTorch reads it at its first allocation.
        os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(variant != "plain"))
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=answer, args=(other_end, variant, arguments))
        self._process.start()
        other_end.close()

    def ask(self, request: str) -> Any:
        """Send "step" or "count" and return the answer."""
        self._connection.send(request)
        return self._connection.recv()

    def end(self) -> None:
        """Let the process end."""
        self._connection.send("end")
        self._process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=16, help="samples per step")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed rounds")
    parser.add_argument("--model", choices=["two-tower", "one-tower"], default="two-tower")
    parser.add_argument("--fusion", choices=sorted(FUSIONS), default="lxmert", help="only ours")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="in the fusion")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    print(make_data(arguments.batch)[1])
    torch.set_num_threads(arguments.threads)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        print(f"matmul_{name}_gflops={matmul_gflops(torch.device(arguments.device), dtype):.0f}")
    sides = {variant: Side(variant, arguments) for variant in VARIANTS}
    print(f"flops_ratio={sides['plain'].ask('count') / sides['ours'].ask('count'):.2f}")
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repeat in range(arguments.repeats + 1):
        for variant, side in sides.items():
            taken = side.ask("step")
            if repeat > 0:  # the first warms up
                seconds[variant].append(taken)
    for side in sides.values():
        side.end()
    for name, times in seconds.items():
        print(f"{name}_samples_per_second={arguments.batch / statistics.median(times):.2f}")
    for key, plain, ours in (
        ("ratio", "plain", "ours"),
        ("ratio_bf16", "plain", "ours_bf16"),
        ("kept_memory_ratio", "plain_kept_memory", "ours"),
        ("kept_memory_ratio_bf16", "plain_kept_memory", "ours_bf16"),
    ):
        ratios = [p / o for p, o in zip(seconds[plain], seconds[ours], strict=True)]
        print(f"{key}={statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
