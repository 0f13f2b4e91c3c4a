"""Recall over a whole split: pairs per second here, and with the whole model on every pair.

    python benchmarks/retrieval.py

Model: DeiT-tiny and ELECTRA-small shapes, random parameters, a co-attention fusion of 256. Data:
images of noise, with five captions each, which are random words of realistic length. Ours is all of
`Retrieval.evaluate_split`: reading, encoding each image and text once, fusing pairs, ranking. Plain
is the same model in batches of the same size, but it encodes image and text again for each pair, as
ViLT and METER do. It is timed on a sample of the pairs, half of it before and half after ours, and
its images need neither reading nor resizing.

The ratio grows with the encoders' share of the cost: try --fusion-layers and --image-size.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from PIL import Image
from step import caption_lengths
from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from renaissance import Dataset, Pairs, Sample
from renaissance.data.collate import RowBuilder
from renaissance.data.concatenation import Concatenation
from renaissance.engine.distributed import Ranks
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.run_parts import build_network, make_collator, resolve_spec
from renaissance.engine.whole_split import WholeSplit
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

SPEC = """
[model.text_encoder]
type = "hf-text"
architecture = "electra"
[model.text_encoder.config]
hidden_size = 256
embedding_size = 128
num_hidden_layers = 12
num_attention_heads = 4
intermediate_size = 1024

[model.image_encoder]
type = "hf-image"
architecture = "deit"
[model.image_encoder.config]
hidden_size = 192
num_hidden_layers = 12
num_attention_heads = 3
intermediate_size = 768

[data]
max_text_length = 40
train = [{ type = "shapes" }]

[[objectives]]
type = "retrieval"

[[objectives]]
type = "itc"
"""
VOCAB_SIZE, TEXTS_PER_IMAGE = 30522, 5
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


class Noise(Dataset):
    """Images of noise, each with captions of random words."""

    provides = frozenset({"text", "image"})

    @attrs.frozen
    class Options:
        """Nothing to set."""

    def __init__(self, num_images: int, num_texts: int, image_size: int) -> None:
        generator = np.random.default_rng(0)
        shape = (image_size, image_size, 3)
        self.images = [
            Image.fromarray(generator.integers(256, size=shape, dtype=np.uint8))
            for _ in range(num_images)
        ]
        lengths = np.minimum(generator.choice(caption_lengths()[0], size=num_texts), 40) - 2
        self.texts = [
            " ".join(f"w{word}" for word in generator.integers(4, VOCAB_SIZE, size=length))
            for length in lengths
        ]

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        image = index % len(self.images)
        return Sample(self.texts[index], None, (self.images[image],), (image,), source=str(index))


def make_tokenizer() -> PreTrainedTokenizerFast:
    names = [*SPECIAL_TOKENS, *(f"w{index}" for index in range(4, VOCAB_SIZE))]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@torch.no_grad()
def plain(
    network: MultiObjective, inputs: tuple[Tensor, Tensor, Tensor], size: int, num_pairs: int
) -> float:
    """Score random pairs with the whole model on each; return the seconds it took."""
    input_ids, attention_mask, pixels = inputs
    generator = torch.Generator().manual_seed(0)
    device = input_ids.device
    retrieval: Any = network.named_objectives()["retrieval"]
    started = time.perf_counter()
    for start in range(0, num_pairs, size):
        count = min(size, num_pairs - start)
        texts = torch.randint(len(input_ids), (count,), generator=generator).to(device)
        images = torch.randint(len(pixels), (count,), generator=generator).to(device)
        length = int(attention_mask[texts].sum(1).max())
        text = network.model.encode_text(input_ids[texts, :length], attention_mask[texts, :length])
        image = network.model.encode_image(network.normalize(pixels[images]))
        rows = torch.arange(count, device=device)
        (fused,) = network.model.fuse(text, image, [Pairs(rows, rows)])
        retrieval.match_score(fused.pooled).cpu()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument(
        "--plain-pairs", type=int, default=1024, help="pairs on which plain is timed"
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--fusion-layers", type=int, default=2)
    parser.add_argument("--shortlist", type=int, default=0, help="option of retrieval; only ours")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plugins = load_plugins()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.toml")
        path.write_text(SPEC)
        settings = [
            f"data.image_size={arguments.image_size}",
            "model.fusion.type=co-attention",
            f"model.fusion.num_layers={arguments.fusion_layers}",
            f"train.device={arguments.device}",
        ]
        written = load_spec([str(path), *settings, "data.tokenizer=dataset"], plugins)
    spec = resolve_spec(written, arguments.texts, world_size=1)
    tokenizer = make_tokenizer()
    ranks = Ranks(arguments.device)
    network = build_network(spec, tokenizer, load_weights=False).to(ranks.device).eval()
    retrieval: Any = network.named_objectives()["retrieval"]
    retrieval.options = attrs.evolve(retrieval.options, shortlist=arguments.shortlist)
    dataset = Noise(arguments.images, arguments.texts, arguments.image_size)
    datasets = Concatenation([("noise", dataset)])
    collator = make_collator(spec, network, tokenizer, datasets, training=False)
    split = WholeSplit(network, collator, "retrieval", spec, ranks, is_final=True)
    batch_size = spec.evaluate.micro_batch_size * (1 + retrieval.options.num_negatives)

    builder = RowBuilder(collator.reader)
    samples = [collator.reader.sample(0, index) for index in range(len(dataset))]
    for sample in samples:
        builder.text(sample)
        builder.image(sample)
    batch = builder.micro_batch(samples, {}, ()).to(ranks.device)
    inputs: Any = (batch.input_ids, batch.attention_mask, batch.pixel_values)
    half = arguments.plain_pairs // 2
    plain(network, inputs, batch_size, batch_size)  # warms up
    seconds = plain(network, inputs, batch_size, half)
    started = time.perf_counter()
    with torch.no_grad():
        retrieval.evaluate_split(split)
    ours = arguments.images * arguments.texts / (time.perf_counter() - started)
    seconds += plain(network, inputs, batch_size, half)
    print(
        f"images={arguments.images} texts={arguments.texts} image_size={arguments.image_size} "
        f"fusion_layers={arguments.fusion_layers} shortlist={arguments.shortlist} "
        f"batch={batch_size} load={os.getloadavg()[0]:.1f}"
    )
    print(f"plain_pairs={2 * half} plain_pairs_per_second={2 * half / seconds:.1f}")
    print(f"ours_pairs_per_second={ours:.1f}")
    print(f"ratio={ours * seconds / (2 * half):.2f}")


if __name__ == "__main__":
    main()
