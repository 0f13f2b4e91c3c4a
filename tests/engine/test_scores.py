"""Tests of renaissance.engine.scores."""

from pathlib import Path

import pytest
from PIL import Image
from support.running import TINY, write_spec

from renaissance.engine.run_parts import build_datasets
from renaissance.engine.scores import data_digest
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

CAPTIONS = [f"photo {index}" for index in range(5)]


def digest(
    folder: Path,
    captions: list[str] = CAPTIONS,
    files: str = "rows.csv",
    seed: int = 0,
    first_image: str = "a.png",
) -> str:
    """Return the digest of a table of captions, in a data folder of its own."""
    root = folder / "photos"
    root.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "a.png")
    lines = ["image,text", *(f"a.png,{caption}" for caption in captions)]
    lines[1] = f"{first_image},{captions[0]}"
    (root / "rows.csv").write_text("\n".join(lines))
    start, end = TINY.index("[[data.validate]]"), TINY.index("[[objectives]]")
    table = f'[[data.validate]]\ntype = "table"\nfiles = "{files.format(root=root)}"\n'
    columns = 'columns = { image = "image", text = "text" }\n\n'
    path = write_spec(folder, TINY[:start] + table + columns + TINY[end:])
    spec = load_spec([str(path), f"data.root={root}", f"run.seed={seed}"], load_plugins())
    return data_digest(spec, "validate", build_datasets(spec, spec.data.validate, "data.validate"))


def test_the_digest_of_the_data_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    named = [digest(tmp_path / folder, files="{root}/rows.csv") for folder in ("one", "two")]
    assert named[0] == named[1]


@pytest.mark.parametrize("captions", [CAPTIONS[:-1], [*CAPTIONS[:-1], "another"], CAPTIONS[::-1]])
def test_the_digest_of_other_samples_is_another(tmp_path: Path, captions: list[str]) -> None:
    assert digest(tmp_path / "here") != digest(tmp_path / "there", captions)


def test_the_digest_depends_on_the_seed(tmp_path: Path) -> None:
    assert digest(tmp_path / "here") != digest(tmp_path / "there", seed=1)


def test_a_record_that_cannot_be_read_costs_no_scores(tmp_path: Path) -> None:
    missing = [digest(tmp_path / name, first_image="b.png") for name in ("here", "there")]
    assert missing[0] == missing[1]
