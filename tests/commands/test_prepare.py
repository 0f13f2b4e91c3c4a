"""`renaissance data prepare`: a command for every registered source."""

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.installing import install_source
from typer.testing import CliRunner

from renaissance.commands.data import app
from renaissance.errors import PluginError
from renaissance.plugins.loading import load_plugins

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
BUILT_IN = ["coco", "f30k", "gcc", "image-text", "karpathy", "nlvr2", "refcoco", "refcoco+",
            "refcocog", "sbu", "snli-ve", "vg", "vqav2"]  # fmt: skip
PYPROJECT = """
[project]
name = "postcards"
version = "0.3"

[project.entry-points.renaissance]
postcards = "postcards"
"""
POSTCARDS = '''
import json
from pathlib import Path
from typing import Literal

import attrs
from renaissance import ImageFile, Source, fraction, hookimpl, option, positive
from renaissance.prepare import CAPTION_SCHEMA, captioned, choose_splits, find_file


class Postcards(Source):
    """Postcards [old ones] with captions (Doe et al., 2026).

    The folder holds the scans
    and one file:

        scans/
        postcards.json

    Writes `postcards.arrow`.
    """

    name = "postcards"
    schema = CAPTION_SCHEMA

    @attrs.frozen
    class Options:
        language: Literal["en", "fr"] = option(help="Language of the captions.")
        stamps: tuple[str, ...] = option((), help="Only [some] stamps.")
        most: int | None = option(None, help="Most cards.", validator=positive)
        share: float = option(0.5, help="Share of the scan.", validator=fraction)
        seal: str = option("red", help="Colour of the seal.")
        album: Path = option(factory=lambda: Path("album"), help="Folder of the album.")
        back: bool = option(False, help="Take the back.")

    def __init__(self, options, context):
        super().__init__(options, context)
        self.splits = choose_splits(context, ("sent", "unsent"))
        self.options = options
        self.file = find_file(context.path, ["postcards.json"], "Scan them")
        settings = {**attrs.asdict(options), "album": str(options.album)}
        self.beside = {"options.json": {**settings, "splits": self.splits}}

    def records(self):
        for name, captions in json.loads(self.file.read_text()).items():
            scan = Path(self.path, "scans", name)
            texts = captions[self.options.language]
            values = {"image_id": name, "split": "sent"}
            yield from captioned("postcards", ImageFile(str(scan)), texts, values)


@hookimpl
def register_sources(register):
    register("postcards", Postcards)
'''
CARDS = {"1.png": {"en": ["a sunny beach"], "fr": ["une plage", "du soleil"]}}

Postcards = Callable[[str], Path]


@pytest.fixture
def postcards(tmp_path: Path, installed: Callable[[str], Path]) -> Postcards:
    """Return a function that installs a source from elsewhere, and writes its download."""

    def write(code: str) -> Path:
        distribution = tmp_path / "distribution"
        distribution.mkdir()
        (distribution / "pyproject.toml").write_text(PYPROJECT)
        (distribution / "postcards.py").write_text(code)
        install_source(distribution, installed("failing-import"))
        download = tmp_path / "download"
        (download / "scans").mkdir(parents=True)
        Image.new("RGB", (8, 8), "blue").save(download / "scans" / "1.png")
        (download / "postcards.json").write_text(json.dumps(CARDS))
        return download

    return write


def run(*arguments: object) -> tuple[int, str]:
    """Return the exit code and what was printed, on one line and without boxes."""
    finished = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if isinstance(finished.exception, PluginError):
        return finished.exception.exit_code, str(finished.exception)
    return finished.exit_code, " ".join(finished.output.replace("│", " ").split())


def test_help_lists_every_source_with_its_first_line(postcards: Postcards) -> None:
    postcards(POSTCARDS)
    code, text = run("--help")
    assert code == 0
    names = sorted([*BUILT_IN, "postcards"])
    positions = [text.index(f" {name} ") for name in names]
    assert positions == sorted(positions)
    assert " postcards Postcards [old ones] with captions (Doe et al., 2026). " in text
    assert " vqav2 VQA v2 (Goyal et al., 2017): questions about images" in text
    assert "sbu SBU captioned photos (Ordonez et al., 2011). snli-ve SNLI-VE (Xie" in text
    registry = load_plugins(kinds=("source",)).registry
    assert registry.names("source") == names


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_source_says_what_it_reads_and_has_a_section(name: str) -> None:
    code, text = run(name, "--help")
    assert code == 0
    # Each shows names of files that it writes, and the common flags.
    assert ".arrow`" in text
    flags = ("--source", "--output", "--splits", "--workers", "--resize", "--check")
    for flag in (*flags, "--max-missing"):
        assert f" {flag} " in text
    assert ("Options of vqav2" in text) == (name == "vqav2")
    assert f"`{name}`" in DOCUMENT.read_text()


def test_the_layout_keeps_its_lines_and_other_paragraphs_do_not(postcards: Postcards) -> None:
    postcards(POSTCARDS)
    finished = CliRunner().invoke(app, ["prepare", "postcards", "--help"])
    lines = [line.rstrip() for line in finished.output.splitlines()]
    start = lines.index(" The folder holds the scans and one file:")
    assert lines[start + 1 : start + 4] == ["", "     scans/", "     postcards.json"]


def test_options_become_flags(postcards: Postcards) -> None:
    postcards(POSTCARDS)
    _, text = run("postcards", "--help")
    panel = text[text.index("Options of postcards") :]
    for words in (
        r"\* --language .* Language of the captions\. \[required\]",
        r"--stamps .* Only \[some\] stamps\.",
        r"--most .* Most cards\.",
        r"--share .* Share of the scan\. \[default: 0\.5\]",
        r"--seal .* Colour of the seal\. \[default: red\]",
        r"--album .* Folder of the album\. \[default: album\]",
        r"--back .*--no-back .* Take the back\.",
    ):
        assert re.search(words, panel), words


def test_a_source_is_made_with_the_values_of_its_flags(
    postcards: Postcards, tmp_path: Path
) -> None:
    command = ["postcards", "--source", postcards(POSTCARDS), "--output", tmp_path / "out"]
    code, text = run(*command, "--language", "fr")
    assert code == 0, text
    assert "postcards.arrow 1 2 1 " in text
    options = {"language": "fr", "stamps": [], "most": None, "share": 0.5, "seal": "red"}
    options |= {"album": "album", "back": False, "splits": ["sent", "unsent"]}
    assert json.loads((tmp_path / "out" / "options.json").read_text()) == options
    more = ["--language", "en", "--stamps", "a,b", "--stamps", "c", "--most", 3, "--share", 0.25]
    more += ["--seal", "[blue]", "--album", "x/y", "--back", "--splits", "unsent, sent"]
    assert run(*command, *more)[0] == 0
    options = {"language": "en", "stamps": ["a,b", "c"], "most": 3, "share": 0.25}
    options |= {"seal": "[blue]", "album": "x/y", "back": True, "splits": ["unsent", "sent"]}
    assert json.loads((tmp_path / "out" / "options.json").read_text()) == options


@pytest.mark.parametrize(
    ("kind", "flag", "limit", "text"),
    [
        ("jsonl", "--max-record-bytes", 50, "c.jsonl: line 2 has more than 50 bytes; expected one "
         "record per line, of at most 50 (--max-record-bytes). Correct the line, or raise the"),
        ("csv", "--max-record-bytes", 50, "c.csv: line 2 has more than 50 bytes; expected one"),
        ("jsonl", "--max-nesting", 2, "c.jsonl: cannot be read (line 2: nested too "
         "deeply; expected at most 2 (--max-nesting))"),
        ("jsonl", "--max-text-characters", 20, "(c.jsonl: line 2) | caption 1 has 26 characters; "
         "expected at most 20 (--max-text-characters)"),
        ("tar", "--max-record-bytes", 20, "c.tar: 1 | txt: 26 bytes; expected at most 20 (--max-"
         "record-bytes)"),
        ("tar", "--max-nesting", 1, "c.tar: 0 | json: not valid JSON (nested too "
         "deeply; expected at most 1 (--max-nesting))"),
        ("tar", "--max-tar-members", 3, "c.tar: more than 3 members; expected at most 3 (--max-tar-"
         "members). Divide the tar, or raise the limit"),
        ("tar", "--max-image-bytes", 60, "at byte 512 | image file of more than 60 bytes, the "
         "limit (--max-image-bytes)"),
        ("jsonl", "--max-image-pixels", 60, "image of 8 x 8 = 64 pixels; expected at most 60 "
         "(--max-image-pixels)"),
    ],
)  # fmt: skip
def test_each_limit_of_what_is_read_has_its_flag(
    tmp_path: Path, kind: str, flag: str, limit: int, text: str
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    long, source = "a very long caption indeed", tmp_path / f"c.{kind}"
    (tmp_path / "0.png").write_bytes(buffer.getvalue())
    if kind == "tar":
        members = {"0.png": buffer.getvalue(), "0.json": b'{"text": ["a"]}'}
        members |= {"1.png": buffer.getvalue(), "1.txt": long.encode()}
        with tarfile.open(source, "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    elif kind == "csv":
        source.write_text(f"image,caption\n0.png,{long * 2}\n")
    else:
        lines = [{"image": "0.png", "text": "a"}, {"image": "./0.png", "text": [["b"], long]}]
        source.write_text("\n".join(map(json.dumps, lines)))
    command = ["image-text", "--source", source, "--output", tmp_path / "out", "--max-missing", 1]
    assert run(*command)[0] == 0
    finished = CliRunner().invoke(app, ["prepare", *map(str, [*command, flag, limit])])
    left_out = [
        f"{entry['record']} | {entry['reason']}"
        for path in (tmp_path / "out").glob("*_manifest.json")
        for entry in json.loads(path.read_text())["left_out"]
    ]
    found = "\n".join([str(finished.exception), *left_out]).replace(f"{tmp_path}/", "")
    assert text in found


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--most", 0], "Invalid value for --most: got 0, expected a number above 0"),
        (["--share", 1], "Invalid value for --share: got 1.0, expected 0 <= value < 1"),
        (["--language", "de"], "--language"),
        (["--most", "x"], "--most"),
        (["--workers", 0], "--workers"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_values_that_are_refused(
    postcards: Postcards, tmp_path: Path, flags: list[object], text: str
) -> None:
    command = ["postcards", "--source", postcards(POSTCARDS), "--output", tmp_path / "out"]
    code, output = run(*command, "--language", "fr", *flags)
    assert code == 2
    assert text in output
    assert "Try '" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("declaration", "text"),
    [
        (
            'most: dict[str, int] = option(factory=dict, help="Most.")',
            "the option 'most' is of type dict[str, int], which cannot be given on the command "
            "line; use bool, int, float, str, Path, Literal of strings, a tuple such as "
            "tuple[str, ...], or one of these with None",
        ),
        (
            'workers: int = option(1, help="Clerks.")',
            "the option 'workers' has the name of a flag that the command already has (--source, "
            "--output, --splits, --workers, --resize, --check, --max-image-pixels, "
            "--max-image-bytes, --max-record-bytes, --max-text-characters, --max-nesting, "
            "--max-tar-members, --max-missing, --part); rename the option",
        ),
    ],
)
def test_options_that_cannot_be_flags_stop_only_their_source(
    postcards: Postcards, tmp_path: Path, declaration: str, text: str
) -> None:
    line = 'most: int | None = option(None, help="Most cards.", validator=positive)'
    assert line in POSTCARDS
    download = postcards(POSTCARDS.replace(line, declaration))
    assert run("--help")[0] == run("coco", "--help")[0] == 0
    code, output = run("postcards", "--source", download, "--output", tmp_path / "out")
    assert (code, output) == (2, f"postcards 0.3: source 'postcards': {text}")


def test_an_unknown_source_names_the_nearest_and_the_plugins_that_failed(
    postcards: Postcards,
) -> None:
    postcards(POSTCARDS)
    code, text = run("postcard", "--source", "x", "--output", "y")
    assert code == 2
    assert "unknown source 'postcard'; known: coco, f30k, " in text
    assert "vqav2; did you mean 'postcards'? (or fix or uninstall the plugin that failed" in text
    assert "renaissance-failing-import 0.3" in text


@pytest.mark.parametrize("command", [["prepare", "--help"], ["inspect", "--help"]])
def test_help_does_without_what_takes_seconds_to_import(command: list[str]) -> None:
    script = (
        "import sys; from renaissance.cli import main\n"
        f"sys.argv = ['renaissance', 'data', *{command}]\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print([m for m in ('torch', 'transformers', 'torchmetrics') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.stdout.splitlines()[-2:] == ["0", "[]"], finished.stderr


def test_a_part_says_what_is_still_to_come(tmp_path: Path) -> None:
    for split in ("train", "val"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{split}.png")
    lines = [{"image": f"{s}.png", "caption": "a picture", "split": s} for s in ("train", "val")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ["prepare", "image-text", "--source", str(tmp_path / "captions.jsonl")]
    command += ["--output", str(tmp_path / "output")]
    first, second = (CliRunner().invoke(app, [*command, "--part", f"{i}/2"]) for i in (1, 2))
    expected = "1 file is still to come from other parts; the last one writes the manifest"
    assert first.output.splitlines()[-1] == expected
    assert "manifest: " in second.output.splitlines()[-1]
    assert (tmp_path / "output/image_text_manifest.json").exists()
