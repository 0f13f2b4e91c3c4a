"""A dataset of rows with labels of any kind, in a plugin of one file, and specs that use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.running import TINY, one_tower_spec, write_spec

ROWS = '''
"""Rows of a JSON file: "text", the grey level "level" of a picture, and labels."""

import json
from pathlib import Path

import attrs
from PIL import Image
from renaissance import Dataset, Sample, hookimpl, option

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Rows(Dataset):
    """The rows of a file."""

    @attrs.frozen
    class Options:
        """Options of `rows`."""

        file: str = option(help="The file.")

    def __init__(self, options, context):
        self.path = context.root / options.file
        self.rows = json.loads(self.path.read_text())
        keys = set(self.rows[0])
        self.provides = frozenset(keys - {"level"} | ({"image"} if "level" in keys else set()))
        self.vocabulary = SPECIAL + ["zero", "one", "two", "three", "four", "five", "six"]

    def __len__(self):
        return len(self.rows)

    def sample(self, index, generator):
        row = self.rows[index]
        labels = {n: v for n, v in row.items() if n not in ("text", "level")}
        level = row.get("level")
        images = () if level is None else (Image.new("RGB", (32, 32), (level,) * 3),)
        return Sample(
            row.get("text"), None, images, (level,) * len(images), labels,
            source=f"{self.path.name}: row {index}",
        )

    def label_values(self, name):
        return [row[name] for row in self.rows]


class Unlisted(Rows):
    """The same, but it cannot list its labels."""

    label_values = Dataset.label_values


@hookimpl
def register_datasets(register):
    register("rows", Rows)
    register("unlisted", Unlisted)
'''

WORDS = ("zero", "one", "two", "three", "four", "five", "six")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of a dataset."""
    path.write_text(json.dumps(list(rows)))


def labelled_spec(
    folder: Path,
    objective: str,
    train: Sequence[dict[str, Any]],
    validate: Sequence[dict[str, Any]],
    one_tower: bool = False,
) -> Path:
    """Write a tiny spec of one objective, its dataset and its rows.

    Args:
        folder: Where to write them.
        objective: The table of the objective, as TOML without its heading.
        train: The training rows.
        validate: The validation rows.
        one_tower: Use the one-tower model.
    """
    text = one_tower_spec() if one_tower else TINY
    start, end = text.index("[[data.train]]"), text.index("[optimizer]")
    data = "".join(
        f'[[data.{split}]]\ntype = "rows"\nfile = "{split}.json"\n\n'
        for split in ("train", "validate")
    )
    text = f"{text[:start]}{data}[[objectives]]\n{objective}\n\n{text[end:]}"
    text = text.replace('name = "tiny"', 'name = "tiny"\nplugins = ["./rows.py"]')
    text = text.replace("[data]", f"[data]\nroot = {json.dumps(str(folder))}")
    path = write_spec(folder, text)
    (folder / "rows.py").write_text(ROWS)
    write_rows(folder / "train.json", train)
    write_rows(folder / "validate.json", validate)
    return path
