"""Arrow files of random pictures with captions, and a spec that names them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from transformers import BertTokenizer

from support.running import TINY, write_spec

SCHEMA = pa.schema([("image", pa.binary()), ("caption", pa.list_(pa.string()))])
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "it"]
SHAPES_DATA = TINY[TINY.index("[[data.train]]") : TINY.index("[[objectives]]")]


def spec_with_files(folder: Path) -> Path:
    """Write the tiny spec with `train.arrow` for data, and a tokenizer."""
    BertTokenizer(vocab={w: i for i, w in enumerate(WORDS)}).save_pretrained(folder / "tokenizer")
    text = TINY.replace(
        SHAPES_DATA, '[[data.train]]\ntype = "image-text"\nfiles = "train.arrow"\n\n'
    )
    tokenizer = f'tokenizer = "{folder}/tokenizer"\nroot = "{folder}"'
    return write_spec(folder, text.replace('tokenizer = "dataset"', tokenizer))


def picture(seed: int) -> bytes:
    """Return a JPEG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def rows(number: int, num_captions: int = 1) -> list[dict[str, object]]:
    """Return records: a picture with its captions each."""
    captions = ["a photo of it"] * num_captions
    return [{"image": picture(i), "caption": captions} for i in range(number)]


def write_arrow(path: Path, records: list[dict[str, object]], schema: pa.Schema = SCHEMA) -> None:
    """Write an Arrow file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_table(pa.Table.from_pylist(records, schema=schema))
