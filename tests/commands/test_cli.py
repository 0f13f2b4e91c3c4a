"""The command line: its commands, their exit codes, what they print."""

import io
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from support.command_line import renaissance
from support.running import metrics, write_spec
from transformers import BertTokenizer

from renaissance.engine.parallelism import with_parallel
from renaissance.engine.run_parts import build, resolve_spec
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.spec.write import spec_tables

FILES = [f"flickr8k_caption_karpathy_{split}.arrow" for split in ("train", "val", "test")]


@pytest.fixture
def flickr8k() -> Path:
    folder = os.environ.get("RENAISSANCE_SHARED_DATA")
    if not folder or not (Path(folder) / "flickr8k").is_dir():
        pytest.skip("RENAISSANCE_SHARED_DATA names no folder with flickr8k")
    return Path(folder) / "flickr8k"


def table_rows(output: str) -> list[list[str]]:
    return [line.split("\t") for line in output.splitlines() if "\t" in line]


@pytest.mark.parametrize(
    "command",
    [
        *("", "check", "evaluate", "schema", "validate-submission", "plugins", "plugins new"),
        *("data", "data inspect", "data prepare", "data prepare image-text"),
    ],
)
def test_no_word_of_a_help_page_is_taken_for_markup(command: str) -> None:
    page = renaissance(*command.split(), "--help")
    assert page.code == 0
    # Rich leaves an empty pair where a help text has brackets in brackets.
    assert not re.search(r"[^.]\[\]", page.out)
    if command == "evaluate":
        assert "data.validate" in page.out


def test_the_word_train_may_be_left_out(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    settings = [f"run.output_dir={tmp_path}", "train.max_steps=2", "data.validate=[]"]
    assert renaissance(spec, *settings).code == 0
    again = renaissance("train", spec, *settings[:2], "train.max_steps=4", "data.validate=[]")
    assert again.code == 0
    assert "resuming" in again.out
    assert [line["step"] for line in metrics(tmp_path / "tiny")] == [2, 4]


def test_the_spec_in_the_run_folder_is_the_resolved_one(tmp_path: Path) -> None:
    paths = [f"run.output_dir={tmp_path}", f"data.root={tmp_path}"]
    settings = [*paths, "train.max_steps=1", "data.validate=[]"]
    arguments = [str(write_spec(tmp_path)), *settings]
    assert renaissance(*arguments).code == 0
    plugins = load_plugins()
    parts = build(load_spec(arguments, plugins), world_size=1, load_weights=False)
    # Settled by the memory of a step, once the run has begun.
    ran = with_parallel(parts, "ddp").spec
    written = load_spec([str(tmp_path / "tiny/spec.toml")], plugins)
    assert resolve_spec(written, num_samples=50, world_size=1) == ran
    # Nothing is left to resolve.
    assert spec_tables(written) == spec_tables(ran)


@pytest.mark.parametrize("arguments", [["check"], ["data", "prepare", "karpathi"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    finished = renaissance(*arguments)
    assert finished.code == 2
    assert "Usage: " in finished.err
    assert "Traceback" not in finished.err


def test_prepare_karpathy_makes_files_to_train_on(tmp_path: Path, flickr8k: Path) -> None:
    finished = renaissance(
        "data", "prepare", "karpathy", "--source", str(flickr8k), "--output", str(tmp_path)
    )
    assert finished.code == 0, finished.err
    rows = table_rows(finished.out)
    assert rows[0] == ["file", "rows", "texts", "images", "MiB"]
    figures = {file: [int(number.replace(",", "")) for number in n] for file, *n, _ in rows[1:]}
    # What the annotations say, counted here from the JSON itself.
    images = json.loads((flickr8k / "karpathy/dataset_flickr8k.json").read_text())["images"]
    for file in FILES:
        entries = [i for i in images if file.endswith(f"_{i['split']}.arrow")]
        captions = sum(len(entry["sentences"]) for entry in entries)
        assert figures[file] == [len(entries), captions, len(entries)]
        with pa.memory_map(str(tmp_path / file)) as source:
            assert pa.ipc.open_file(source).read_all().num_rows == len(entries)
    assert finished.out.splitlines()[-1] == (
        f"manifest: {tmp_path}/flickr8k_caption_karpathy_manifest.json"
    )

    vocabulary = (flickr8k.parent / "bert-base-uncased-vocab.txt").read_text().splitlines()
    BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}).save_pretrained(tmp_path / "bert")
    train, validate = (f"[{{type='image-text', files='{tmp_path}/{name}'}}]" for name in FILES[:2])
    settings = [f"data.train={train}", f"data.tokenizer={tmp_path}/bert", "train.max_steps=2"]
    spec = str(write_spec(tmp_path))
    checked = renaissance("check", spec, *settings, f"data.validate={validate}")
    assert "train: 7,000 samples: 7,000 of data.train[0] ('image-text')" in checked.out
    assert "validate: 1,500 samples: 1,500 of data.validate[0] ('image-text')" in checked.out
    settings += ["data.validate=[]", f"run.output_dir={tmp_path}"]
    trained = renaissance(spec, *settings)
    assert trained.code == 0, trained.err
    assert [line["step"] for line in metrics(tmp_path / "tiny")] == [2]


def test_prepare_says_what_it_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "karpathy").mkdir(parents=True)
    (source / "photos").mkdir()
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    entries = []
    for index in range(3):
        name = f"{index}.jpg"
        (source / "photos" / name).write_bytes(file.getvalue() if index < 2 else b"")
        entries.append({"filename": name, "split": "train", "sentences": [{"raw": "black"}]})
    (source / "karpathy/dataset_own.json").write_text(json.dumps({"images": entries}))
    command = ["data", "prepare", "karpathy", "--source", str(source), "--output"]

    refused = renaissance(*command, str(tmp_path / "strict"))
    assert refused.code == 2
    assert "1 of 3 records cannot be used" in refused.err
    assert "2.jpg: the file is empty" in refused.err
    assert not list(tmp_path.glob("strict/*.arrow"))

    settings = ["--max-missing", "0.5", "--name", "mine"]
    finished = renaissance(*command, str(tmp_path / "lenient"), *settings)
    assert finished.code == 0, finished.err
    rows = table_rows(finished.out)
    assert rows[1][:4] == ["mine_train.arrow", "2", "2", "2"]
    assert rows[2] == ["left out of", "record", "reason"]
    assert rows[3] == ["mine_train", f"{source}/photos/2.jpg", "the file is empty"]


def test_prepare_without_annotations(tmp_path: Path) -> None:
    finished = renaissance(
        "data", "prepare", "karpathy", "--source", str(tmp_path), "--output", str(tmp_path / "out")
    )
    assert finished.code == 2
    assert finished.err.startswith(f"error: {tmp_path}: no annotation file; expected one ")
