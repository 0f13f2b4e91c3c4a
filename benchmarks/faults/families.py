"""Try every Hugging Face family as a tower: it encodes as the library does, or is refused at once.

    python benchmarks/faults/families.py text|image [FAMILY ...]

Each family is built with a tiny config; where its own rules forbid that one, with its default. It
has a process of its own, and a minute.
"""

import argparse
import collections
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
import transformers
from support.tiny_models import context, images, texts
from torch import Tensor
from transformers import CONFIG_MAPPING

from renaissance.builtin.encoders.hf_image import HFImageEncoder
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.builtin.encoders.huggingface.image_input import image_states
from renaissance.errors import RenaissanceError, named

SECONDS = 60
# A multiple of the patches of nearly all families: 14, 16 and 32 pixels.
IMAGE_SIZE = 224
WORKS, REFUSED, LARGE, FAILED = "works", "refused", "large", "FAILED"
# Keys that one family or another has, with the value of a tiny model.
TINY = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "embedding_size"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["intermediate_size", "hidden_dim", "d_inner", "d_ff", "ffn_dim"], 40),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 40),
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def difference(kind: str, family: str, config: Mapping[str, int]) -> float:
    """Return by how much an encoder differs from the library's own output, relative to its size."""
    if kind == "text":
        text = HFTextEncoder(
            HFTextEncoder.Options(architecture=family, config=dict(config)), context()
        ).eval()
        input_ids, is_real = texts()
        actual = text.encode_text(input_ids, is_real).hidden_states[is_real]
        plain = text.model(input_ids=input_ids, attention_mask=is_real.long())
        expected: Tensor = plain.last_hidden_state[is_real]
    else:
        image = HFImageEncoder(
            HFImageEncoder.Options(architecture=family, config=dict(config)),
            context(image_size=IMAGE_SIZE),
        ).eval()
        pixels = images(IMAGE_SIZE)
        actual = image.encode_image(pixels).hidden_states
        expected = image_states(image.model, pixels, image.image_form)
        if expected.dim() == 4:
            expected = expected.flatten(2).transpose(1, 2)
    # Of a deep model with random weights, all may be 0 or not a number.
    if torch.allclose(actual, expected, rtol=0, atol=0, equal_nan=True):
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def outcome(kind: str, family: str) -> tuple[str, str]:
    """Return what comes of a family, and why."""
    names = {field.name for field in fields(CONFIG_MAPPING[family])}
    tiny = {name: value for name, value in TINY.items() if name in names}
    try:
        try:
            error = difference(kind, family, tiny)
        except RenaissanceError as refusal:
            if "config" not in str(refusal):
                raise
            error = difference(kind, family, {})
    except RenaissanceError as refusal:
        return REFUSED, str(refusal)
    # Anything else is a fault of ours.
    except Exception as fault:
        return FAILED, named(fault)
    return (WORKS, "") if error < 1e-4 else (FAILED, f"differs from the library by {error:.1e}")


def apart(function: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Call a function in a process of its own, which is ended after a while."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        signal.alarm(SECONDS)
        os.write(writing, json.dumps(function()).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code == -signal.SIGALRM:
        return LARGE, f"its default config takes more than {SECONDS} s to build"
    if not data:
        return FAILED, f"ended with exit code {code}"
    what, why = json.loads(data)
    return what, why


def main() -> None:
    """Print a line for each family, and how many of them work or are refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("text", "image"))
    parser.add_argument("families", nargs="*", default=list(CONFIG_MAPPING))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    for family in arguments.families:
        started = time.perf_counter()
        what, why = apart(lambda family=family: outcome(arguments.kind, family))  # type: ignore[misc]
        counts[what] += 1
        seconds = time.perf_counter() - started
        print(f"{what:8}{seconds:5.1f} s  {family}  {' '.join(why.split())}", flush=True)
    total = counts.total()
    print(f"{counts[WORKS]} work, {counts[REFUSED]} refused, {counts[LARGE]} too large to try")
    print(f"{arguments.kind}: {total - counts[FAILED]} of {total}")
    sys.exit(counts[FAILED] > 0)


if __name__ == "__main__":
    main()
