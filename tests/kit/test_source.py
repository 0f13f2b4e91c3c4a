"""Broken sources: the kit says in words which promise is broken."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
from PIL import Image
from support import official_layouts

from renaissance import ImageFile, LeftOut, Record, Source, SourceContext, option
from renaissance.plugins.loading import load_plugins
from renaissance.prepare import choose_splits
from renaissance.testing import ContractError, check_source

SCHEMA = pa.schema(
    [("image", pa.binary()), ("caption", pa.list_(pa.string())), ("number", pa.int64())]
)


class SoundSource(Source):
    """Three pictures of a folder.

    The folder holds 0.png, 1.png and 2.png.
    """

    name = "sound"
    schema = SCHEMA

    @attrs.frozen
    class Options:
        """What can be set."""

        captions: tuple[str, ...] = option(("a picture",), help="The captions of each.")

    def __init__(self, options: Options, context: SourceContext) -> None:
        super().__init__(options, context)
        choose_splits(context, ("train",))
        self.options = options

    def records(self) -> Iterator[Record | LeftOut]:
        for index in range(3):
            captions = list(self.options.captions)
            image = ImageFile(f"{self.path}/{index}.png")
            values = {"caption": captions, "number": index}
            yield Record("sound", {"image": image}, values, len(captions))
        yield LeftOut("sound", "3.png", "no caption")


def breaking(**attributes: Any) -> type[SoundSource]:
    """Return a source that differs from the sound one in what is given."""
    documented = {"__doc__": SoundSource.__doc__, **attributes}
    return type("Broken", (SoundSource,), documented)


def changed(**changes: Callable[[Record], Any]) -> type[SoundSource]:
    """Return a source whose rows have other values."""

    def records(self: Any) -> Iterator[Record | LeftOut]:
        for entry in SoundSource.records(self):
            if isinstance(entry, Record):
                entry = attrs.evolve(entry, **{n: new(entry) for n, new in changes.items()})
            yield entry

    return breaking(records=records)


def with_value(column: str, value: Any) -> type[SoundSource]:
    return changed(values=lambda record: {**record.values, column: value})


def after_init(**attributes: Any) -> type[SoundSource]:
    def __init__(self: Any, options: Any, context: Any) -> None:  # noqa: N807
        SoundSource.__init__(self, options, context)
        for name, value in attributes.items():
            setattr(self, name, value)

    return breaking(__init__=__init__)


def without_path(self: Any, options: Any, context: Any) -> None:
    self.options = options


def without_splits(self: Any, options: Any, context: Any) -> None:
    Source.__init__(self, options, context)
    self.options = options


@attrs.frozen
class Nested:
    """An option that cannot be a flag."""

    sizes: dict[str, int] = option(factory=dict, help="Sizes.")


@attrs.frozen
class Taken:
    """An option with the name of a common flag."""

    output: str = option("", help="Output.")


BROKEN = [
    (breaking(__doc__="One line."), "its docstring is one line, expected .* the folder must hold"),
    (breaking(__doc__=None), "no docstring, which"),
    (breaking(Options=Nested), r"documentation: the option 'sizes' is of type dict\[str, int\]"),
    (
        breaking(Options=Taken),
        "the option 'output' has the name of a flag that the command already has",
    ),
    (breaking(records=lambda self, extra: ()), "records.* does not take the arguments"),
    (after_init(name="a/b"), "name is 'a/b', expected a word with which file names can start"),
    (breaking(__init__=without_path), r"path is None, expected .*super\(\).__init__\(options, con"),
    (after_init(schema=["image"]), r"schema is \['image'\], expected a pyarrow schema"),
    (after_init(rows_per_file=0), "rows_per_file is 0, expected a number above 0"),
    (after_init(beside={"words.json": {1, 2}}), "beside is .*expected the contents of JSON files"),
    (breaking(records=lambda self: ["row"]), r"records\(\)\[0\] is str, expected a Record"),
    (
        breaking(records=lambda self: []),
        r"records\(\) lists no row of .*, expected some; pass a download",
    ),
    (changed(table=lambda r: ""), r"records\(\)\[0\]: table is '', expected the name of its t"),
    (changed(table=lambda r: "a/b"), "table is 'a/b', expected the name"),
    (
        breaking(records=lambda self: [LeftOut("sound", "x", "")]),
        "record is 'x' and reason '', expected what was left out and why",
    ),
    (
        changed(values=lambda r: {"caption": ["a"]}),
        "are of the columns caption, image, expected each column of the schema once: image, cap",
    ),
    (
        changed(images=lambda r: {"image": f"{r.table}.png"}),
        r"images\['image'\] is str, expected an ImageFile",
    ),
    (
        after_init(schema=SCHEMA.set(0, pa.field("image", pa.string()))),
        "column 'image' of the schema is string, expected binary",
    ),
    (with_value("caption", ("a", "b")), "which JSON cannot hold unchanged"),
    (with_value("number", b"1"), "which JSON cannot hold unchanged"),
    (with_value("number", "one"), r"values\['number'\] is 'one', expected int64, the type of"),
    (with_value("number", 1.5), r"values\['number'\] is 1.5, expected int64"),
    (with_value("caption", "a"), r"values\['caption'\] is 'a', expected list<item: string>"),
    (changed(num_texts=lambda r: None), "num_texts is None, expected the number of texts"),
    (
        changed(values=lambda r: {**r.values, "number": random.randrange(1 << 60)}),
        r"records\(\) lists other rows, or in another order, the second time",
    ),
    (breaking(__init__=without_splits), "it accepted the split 'no-such-split', expected a DataE"),
    (
        changed(images=lambda r: {"image": ImageFile(f"scans/{r.values['number']}.png")}),
        r"unusable images: 3 \(scans/.\.png: no such file; .* correct the paths",
    ),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_a_sound_source_passes(pictures: Path) -> None:
    check_source(SoundSource, path=pictures)
    check_source(SoundSource, SoundSource.Options(captions=("a", "b")), path=str(pictures))


@pytest.mark.parametrize(("source", "text"), BROKEN)
def test_broken_sources(source: type[SoundSource], text: str, pictures: Path) -> None:
    with pytest.raises(ContractError, match=text):
        check_source(source, path=pictures)


def test_damaged_images_are_named(pictures: Path) -> None:
    whole = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(whole[:-24])
    with pytest.raises(ContractError, match=r"unusable images: 1 \(.*/1\.png: cut short: no"):
        check_source(SoundSource, path=pictures)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return official_layouts.write_all(tmp_path_factory.mktemp("official"))


@pytest.mark.parametrize("name", load_plugins(kinds=("source",)).registry.names("source"))
def test_builtin_sources(name: str, layouts: dict[str, Path]) -> None:
    component: Any = load_plugins(kinds=("source",)).require("source", name).component
    check_source(component, path=layouts[name])
