import io
import itertools
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli
import torch
from PIL import Image
from support.collating import collator, epoch_of, make, word_pieces
from support.command_line import renaissance
from support.killing import kill_tree
from support.running import TINY, environment, metrics, run_here, torchrun_command, weights
from support.table_files import (
    WRITERS,
    Row,
    columns_in,
    picture,
    rows_of,
    write_all,
    write_csv,
    write_photos,
)
from transformers import BertTokenizer

from renaissance import DataError, DatasetContext, SpecError
from renaissance.arrow import TableSplit
from renaissance.builtin.datasets.table import Table
from renaissance.builtin.objectives.itm import ITM
from renaissance.builtin.objectives.mlm import MLM
from renaissance.data.micro_batch import MicroBatch
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec
from renaissance.testing import check_dataset


def table(root: Path, files: str | tuple[str, ...], training: bool = True, **options: Any) -> Table:
    name = files if isinstance(files, str) else files[0]
    options = {"columns": columns_in(name), "cache": str(root / "cache"), **options}
    made = Table.Options(files=files, **options)
    return Table(made, DatasetContext(root=root, seed=0, training=training))


def samples(dataset: Table) -> list[Any]:
    return [dataset.sample(index, np.random.default_rng(0)) for index in range(len(dataset))]


def seen(dataset: Table) -> list[tuple[str, bytes, Any]]:
    """Return text, pixels and labels of every sample."""
    return [(s.text, np.asarray(s.images[0]).tobytes(), dict(s.labels)) for s in samples(dataset)]


def expected(rows: Sequence[Row]) -> list[tuple[str, bytes, Any]]:
    def pixels(name: str) -> bytes:
        return np.asarray(Image.open(io.BytesIO(picture(name)))).tobytes()

    return [(row["caption"], pixels(row["img"]), {"label": row["label"]}) for row in rows]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_all(folder, rows_of(20, num_images=13))
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_that_were_written(everything: Path, name: str) -> None:
    rows = rows_of(20, num_images=13)
    dataset = table(everything, name)
    assert dataset.provides == {"text", "image", "label"}
    assert seen(dataset) == expected(rows)
    # Rows 0 and 13 have the same image; no other row has it.
    ids = [sample.image_ids[0] for sample in samples(dataset)]
    assert len(set(ids)) == 13
    assert ids[0] == ids[13]
    assert list(dataset.label_values("label")) == [row["label"] for row in rows]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_keeps_the_contract(everything: Path, name: str) -> None:
    options = Table.Options(files=name, columns=columns_in(name), cache=str(everything / "cache"))
    check_dataset(Table, options, root=everything)


def micro_batches(dataset: Table) -> list[MicroBatch]:
    tokenizer = word_pieces()
    objectives = {"mlm": make(MLM, tokenizer), "itm": make(ITM, tokenizer, negatives="dataset")}
    made = collator(dataset, objectives, tokenizer)
    return [
        made[epoch_of(20, epoch)[start : start + 5]] for epoch in (0, 1) for start in (0, 5, 15)
    ]


def tensors_of(batch: MicroBatch) -> list[torch.Tensor]:
    found = [batch.indices, batch.input_ids, batch.attention_mask, batch.pixel_values]
    for objective in batch.objectives.values():
        found += objective.tensors.values()
        if objective.pairs is not None:
            found += [objective.pairs.text_rows, objective.pairs.image_rows]
    assert all(isinstance(tensor, torch.Tensor) for tensor in found)
    return found  # type: ignore[return-value]


def test_every_format_gives_the_same_micro_batches(everything: Path) -> None:
    first, *others = (micro_batches(table(everything, name)) for name in WRITERS)
    for batches in others:
        for ours, theirs in zip(batches, first, strict=True):
            for a, b in zip(tensors_of(ours), tensors_of(theirs), strict=True):
                assert torch.equal(a, b)


# --- whole runs ---


def write_run(folder: Path, name: str, data: Path) -> Path:
    """Write a spec that trains and validates on a table, and a tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "it", "x", "y"]
    BertTokenizer(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder / "tokenizer")
    start, end = TINY.index("[[data.train]]"), TINY.index("[[objectives]]")
    columns = ", ".join(f'{key} = "{column}"' for key, column in columns_in(name).items())
    tables = "".join(
        f'[[data.{split}]]\ntype = "table"\nfiles = "{name}"\ncolumns = {{ {columns} }}\n'
        f'cache = "{folder}/cache"\nsplit = {{ hold_out = 0.3, by = "caption" }}\n\n'
        for split in ("train", "validate")
    )
    settings = f'root = "{data}"\ntokenizer = "{folder / "tokenizer"}"'
    text = TINY[:start].replace('tokenizer = "dataset"', settings) + tables + TINY[end:]
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_every_format_gives_the_same_losses(everything: Path, tmp_path: Path) -> None:
    curves = {}
    for name in WRITERS:
        folder = tmp_path / name
        folder.mkdir()
        assert run_here(write_run(folder, name, everything), folder, "train.max_steps=2") == 0
        curves[name] = metrics(folder / "tiny")
    assert curves["t.csv"][-1]["loss"] > 0
    assert all(curve == curves["t.csv"] for curve in curves.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.tar", "t.parquet"])
def test_killed_and_resumed_is_bit_identical(everything: Path, tmp_path: Path, name: str) -> None:
    spec = write_run(tmp_path, name, everything)
    more = ["train.max_steps=12", "model.fusion.dropout=0.1", "checkpoint.every_steps=2"]
    more += ["checkpoint.keep_last=99", "data.num_workers=1"]
    for folder in ("whole", "killed"):
        command = torchrun_command(2, [str(spec), f"run.output_dir={tmp_path / folder}", *more])
        if folder == "killed":
            shutil.rmtree(tmp_path / "cache")
            start_and_kill(command, tmp_path / "killed/tiny/checkpoints/step-00000002")
            assert not (tmp_path / "killed/tiny/checkpoints/step-00000012").exists()
        result = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert "resuming" in result.stdout
    assert metrics(tmp_path / "whole/tiny") == metrics(tmp_path / "killed/tiny")
    whole, killed = (weights(tmp_path / folder / "tiny", 12) for folder in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def start_and_kill(command: list[str], checkpoint: Path) -> None:
    """Start a run and SIGKILL all of it as soon as a checkpoint stands."""
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (checkpoint / "manifest.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_tree(process)


# --- which rows ---


def test_a_split_by_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("w,fold,split\none,1,train\ntwo,2,val\nthree,1,train\n")
    columns = {"text": "w"}

    def texts(split: TableSplit | str) -> list[str]:
        return [s.text for s in samples(table(tmp_path, "t.csv", columns=columns, split=split))]

    assert texts(TableSplit(column="split", value="train")) == texts("train") == ["one", "three"]
    assert texts(TableSplit(column="fold", value=2)) == ["two"]
    assert texts(TableSplit(column="split", value=("val", "train"))) == ["one", "two", "three"]
    with pytest.raises(DataError) as error:
        texts("tran")
    assert str(error.value) == (
        f"{tmp_path}/t.csv: no row has split = 'tran'; it has 'train' (2 rows), 'val' (1 rows); "
        "did you mean 'train'?"
    )


def sides(root: Path, name: str, by: str = "image") -> dict[bool, list[Any]]:
    """Return the pixels of the images on each side."""
    split = TableSplit(hold_out=0.4, by=by)
    return {
        training: [pixels for _, pixels, _ in seen(table(root, name, training, split=split))]
        for training in (True, False)
    }


@pytest.mark.parametrize("name", WRITERS)
def test_no_image_is_on_both_sides_whatever_the_order(
    everything: Path, tmp_path: Path, name: str
) -> None:
    rows = rows_of(20, num_images=13)
    before = sides(everything, name)
    assert sorted(before[True] + before[False]) == sorted(p for _, p, _ in expected(rows))
    assert 0 < len(set(before[False])) < 13
    assert set(before[True]).isdisjoint(before[False])
    random.Random(1).shuffle(rows)
    write_photos(tmp_path, rows)
    WRITERS[name](tmp_path / name, rows)
    after = sides(tmp_path, name)
    assert sorted(after[False]) == sorted(before[False])


def test_paths_of_one_image_that_are_written_differently_are_one_image(tmp_path: Path) -> None:
    names = [f"photos/{i}.png" for i in range(30)]
    write_photos(tmp_path, [{"img": name} for name in names])
    (tmp_path / "lists").mkdir()
    lines = [
        spelling
        for name in names
        for spelling in (name, f"./{name}", str(tmp_path / name), name.replace("/", "\\"),
                         f"../{name}", name.replace("photos/", "photos/../photos/"))
    ]  # fmt: skip
    (tmp_path / "lists/t.csv").write_text("\n".join(["img", *lines]) + "\n")
    columns = {"image": "img"}
    split = TableSplit(hold_out=0.5)
    train, held_out = (
        table(tmp_path, "lists/t.csv", training, columns=columns, split=split)
        for training in (True, False)
    )
    ids = [{s.image_ids[0] for s in samples(side)} for side in (train, held_out)]
    assert len(ids[0]) + len(ids[1]) == 30
    assert min(map(len, ids)) > 5
    assert ids[0].isdisjoint(ids[1])


def test_the_division_never_changes(tmp_path: Path) -> None:
    # Later releases must divide as this one does, or results could not be compared.
    (tmp_path / "t.csv").write_text("w\n" + "\n".join(f"w{i}" for i in range(12)) + "\n")
    split = TableSplit(hold_out=0.25, by="text", side="held-out")
    held_out = samples(table(tmp_path, "t.csv", columns={"text": "w"}, split=split))
    assert [s.text for s in held_out] == ["w6", "w7"]
    both = [
        samples(table(tmp_path, "t.csv", columns={"text": "w"}, split=TableSplit(
            hold_out=0.25, by="w", side=side
        )))
        for side in ("train", "held-out")
    ]  # fmt: skip
    assert len(both[0]) + len(both[1]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out": 0.1, "column": "a", "value": "b"}, "expected either column and value"),
        ({}, "expected either column and value"),
        ({"column": "a"}, "expected column and value"),
        ({"hold_out": 1.0}, r"got 1\.0, expected a fraction between 0 and 1"),
    ],
)
def test_splits_that_say_nothing_or_too_much(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableSplit(**options)


def test_hold_out_by_images_needs_images(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("w\na\n")
    with pytest.raises(DataError, match=r"split\.by = 'image', but columns has no 'image'; it has"):
        table(tmp_path, "t.csv", columns={"text": "w"}, split=TableSplit(hold_out=0.1))


def test_the_spec_is_read_and_its_faults_are_told_one_by_one(tmp_path: Path) -> None:
    plugins = load_plugins()
    path = tmp_path / "run.toml"
    start, end = TINY.index("[[data.train]]"), TINY.index("[[objectives]]")

    def options(lines: str) -> Any:
        path.write_text(f'{TINY[:start]}[[data.train]]\ntype = "table"\n{lines}\n{TINY[end:]}')
        return load_spec([str(path)], plugins).data.train[0].options

    read = options(
        'files = ["a.csv", "b.csv"]\ncolumns = { text = "t", toxic = "y" }\n'
        'split = { hold_out = 0.1, by = "text" }'
    )
    assert read.columns == {"text": "t", "toxic": "y"}
    assert read.split == TableSplit(hold_out=0.1, by="text")
    assert options('files = "a.csv"\ncolumns = { text = "t" }\nsplit = "test"').split == "test"
    with pytest.raises(SpecError) as error:
        options(
            'files = "a.csv"\ncolumns = { text = 3, image_3 = "a" }\n'
            "split = { holdout = 0.1, hold_out = 3 }"
        )
    assert "data.train[0].columns.text: got 3 (integer), expected string" in str(error.value)
    assert "data.train[0].split.holdout: unknown key; known: column," in str(error.value)
    assert "data.train[0].split.hold_out: got 3.0, expected a fraction" in str(error.value)
    with pytest.raises(SpecError, match=r"columns: got image_3, expected image\b"):
        options('files = "a.csv"\ncolumns = { image_3 = "a" }')
    with pytest.raises(SpecError, match=r"columns: got an empty table, expected columns by what"):
        options('files = "a.csv"\ncolumns = { }')


# --- empty cells, labels, identifiers ---


def write_gaps(folder: Path, name: str) -> None:
    rows: list[Row] = [
        {"img": "a.png", "caption": "one", "label": 1},
        {"img": "b.png", "caption": "", "label": 2},
        {"img": "c.png", "caption": " \t", "label": 3},
        {"img": "", "caption": "four", "label": 4},
        {"img": "e.png", "caption": "five", "label": None},
    ]
    write_photos(folder, [row for row in rows if row["img"]])
    if name == "t.parquet":
        images = [picture(row["img"]) if row["img"] else None for row in rows]
        columns = {key: [row[key] for row in rows] for key in ("caption", "label")}
        pq.write_table(pa.table({"img": images, **columns}), folder / name)
    else:
        WRITERS[name](folder / name, rows)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_empty_cells_are_refused_or_left_out_and_counted(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gaps(tmp_path, name)
    place = {"t.csv": "line 3", "t.jsonl": "line 2", "t.parquet": "row 1"}[name]
    with pytest.raises(DataError) as error:
        table(tmp_path, name)
    assert str(error.value) == (
        f"{tmp_path}/{name}: empty cells: 1 in column 'img' (image), 2 in column 'caption' (text), "
        f"the first in {name}: {place}; expected a text or image in each. Complete them, or leave "
        'out these rows: on_empty = "skip"'
    )
    dataset = table(tmp_path, name, on_empty="skip")
    assert [(s.text, s.labels["label"]) for s in samples(dataset)] == [("one", 1), ("five", None)]
    assert list(dataset.label_values("label")) == [1, None]
    assert capsys.readouterr().err == (
        f"table: {tmp_path}/{name}: 3 of 5 rows left out for empty cells: 1 in column 'img' "
        f"(image), 2 in column 'caption' (text), the first in {name}: {place}\n"
    )


def test_labels_are_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "w,whole,real,zip,word,mixed,none\n"
        "a,1,1.5,007,yes,1,\n"
        "b,-2,2,100,,x,\n"
    )  # fmt: skip
    names = ("whole", "real", "zip", "word", "mixed", "none")
    dataset = table(tmp_path, "t.csv", columns={"text": "w", **{name: name for name in names}})
    assert [dict(s.labels) for s in samples(dataset)] == [
        {"whole": 1, "real": 1.5, "zip": "007", "word": "yes", "mixed": "1", "none": None},
        {"whole": -2, "real": 2.0, "zip": "100", "word": None, "mixed": "x", "none": None},
    ]
    assert [type(v) for v in dataset.label_values("real")] == [float, float]
    (tmp_path / "t.jsonl").write_text(
        '{"w": "a", "y": [1, "b"]}\n{"w": "b", "y": true}\n{"w": "c"}\n{"w": "d", "y": {"z": 1}}\n'
    )
    labels = [*table(tmp_path, "t.jsonl", columns={"text": "w", "y": "y"}).label_values("y")]
    assert labels == [[1, "b"], True, None, {"z": 1}]
    with pytest.raises(DataError, match=r"t\.csv: no label 'x'; it has whole, real"):
        list(dataset.label_values("x"))


def test_columns_of_any_kind_and_number(tmp_path: Path) -> None:
    rows = [{"l": f"{i}.png", "r": f"{i + 5}.png", "p": f"p{i}", "h": f"h{i}"} for i in range(3)]
    write_photos(tmp_path, [{"img": row[side]} for row in rows for side in "lr"])
    lines = [",".join(row.values()) for row in rows]
    (tmp_path / "t.csv").write_text("\n".join(["l,r,p,h", *lines]) + "\n")
    both = {"image": "l", "image_2": "r", "text": "p", "text_pair": "h", "id": "p"}
    dataset = table(tmp_path, "t.csv", columns=both)
    assert dataset.provides == {"image", "text", "text_pair", "id"}
    sample = samples(dataset)[2]
    assert (sample.text, sample.text_pair, sample.labels) == ("p2", "h2", {"id": "p2"})
    assert [Path(str(i)).name for i in sample.image_ids] == ["2.png", "7.png"]
    for columns in (both, {"image": "l"}, {"text": "p"}, {"text_pair": "p"}, {"score": "h"}):
        made = Table.Options(files="t.csv", columns=columns, cache=str(tmp_path / "cache"))
        check_dataset(Table, made, root=tmp_path)


def test_identifiers_must_differ(tmp_path: Path) -> None:
    columns = {"text": "w", "id": "key"}
    (tmp_path / "t.csv").write_text("w,key\na,x\nb,y\nc,x\n")
    with pytest.raises(DataError) as error:
        table(tmp_path, "t.csv", columns=columns)
    assert str(error.value) == (
        "t.csv: line 4: column 'key' (id) is 'x', as in t.csv: line 2; expected a different "
        "identifier in each row. Correct it, or use the column as a label of another name"
    )
    (tmp_path / "t.csv").write_text("w,key\na,x\nb,\n")
    with pytest.raises(DataError, match=r"t\.csv: line 3: column 'key' \(id\) is empty; expected"):
        table(tmp_path, "t.csv", columns=columns)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    rows = rows_of(9)
    write_photos(tmp_path, rows)
    (tmp_path / "parts").mkdir()
    write_csv(tmp_path / "parts/b.csv", rows[3:6])
    write_csv(tmp_path / "parts/a.csv", rows[:3])
    (tmp_path / "b.csv").write_text("img,caption,label\n" + "photos/0.png,x,many\n")
    for files in ("parts/*.csv", "parts", ("parts/a.csv", "parts/b.csv")):
        assert seen(table(tmp_path, files)) == expected(rows[:6])
    dataset = table(tmp_path, ("parts/a.csv", "b.csv"))
    assert [s.source for s in samples(dataset)][-2:] == [
        "a.csv: line 6",  # A cell before it has a line break.
        "b.csv: line 2",
    ]
    # A column is one of numbers only if it is so in all files.
    assert list(dataset.label_values("label")) == [*(str(r["label"]) for r in rows[:3]), "many"]


def test_rows_of_a_tar_with_one_image_per_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in (
            ("1.jpg", picture("a")), ("1.txt", b"ein Bild"), ("1.cls", b"3"),
            ("2.json", b'{"tags": ["x"], "image": "no"}'), ("2.png", picture("b")),
            ("2.txt", b"two"), ("2.cls", b"4"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    columns = {"image": "image", "text": "txt", "label": "cls", "tags": "tags", "id": "__key__"}
    first, second = samples(table(tmp_path, "t.tar", columns=columns))
    assert (first.text, first.labels) == ("ein Bild", {"label": 3, "tags": None, "id": "1"})
    assert (second.text, second.labels) == ("two", {"label": 4, "tags": ["x"], "id": "2"})
    assert [s.source for s in (first, second)] == ["t.tar: key 1", "t.tar: key 2"]


def test_the_same_files_at_an_address(everything: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    shutil.copytree(everything, tmp_path / "copy")
    # Not beside the table: paths are relative to it.
    for name in ("t.csv", "t.jsonl", "t.parquet", "t.arrow", "t.tar"):
        dataset = table(tmp_path, f"file://{tmp_path}/copy/{name}", columns=columns_in(name))
        assert seen(dataset) == expected(rows_of(20, num_images=13))
    assert seen(table(tmp_path, f"file://{tmp_path}/copy/*.csv"))


def test_paths_of_a_table_at_an_address_are_relative_to_it_alone(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    rows = rows_of(2)
    write_photos(tmp_path, rows)
    (tmp_path / "remote").mkdir()
    write_csv(tmp_path / "remote" / "t.csv", rows)
    address = f"file://{tmp_path}/remote"
    # Beside a local table, they would be found in data.root.
    assert samples(table(tmp_path, "remote/t.csv"))
    with pytest.raises(DataError, match=r"t\.csv: line 2: .* cannot be read") as error:
        samples(table(tmp_path, f"{address}/t.csv"))
    assert f"{address}/{rows[0]['img']}" in str(error.value)


def test_compressed_arrow_files_and_other_layouts_are_read(tmp_path: Path) -> None:
    rows = rows_of(6)
    columns = {
        "img": [picture(row["img"]) for row in rows],
        "caption": pa.array([row["caption"] for row in rows]).dictionary_encode(),
        "label": [row["label"] for row in rows],
    }
    batch = pa.record_batch(columns)
    for name, options in (("z.arrow", {"compression": "zstd"}), ("d.arrow", {})):
        with pa.ipc.new_file(
            tmp_path / name, batch.schema, options=pa.ipc.IpcWriteOptions(**options)
        ) as writer:
            writer.write_batch(batch)
        assert seen(table(tmp_path, name)) == expected(rows)


def test_all_rows_in_order_as_often_as_asked(everything: Path) -> None:
    # Any row at any time, in any process: no state is kept between them.
    dataset = table(everything, "t.tar")
    rows = expected(rows_of(20, num_images=13))
    for index in itertools.chain((19, 0, 7), range(20)):
        sample = dataset.sample(index, np.random.default_rng(0))
        assert (sample.text, np.asarray(sample.images[0]).tobytes()) == rows[index][:2]
    for wrong in (-1, 20):
        with pytest.raises(IndexError, match=f"sample: got {wrong}, expected 0 <= sample < 20"):
            dataset.sample(wrong, np.random.default_rng(0))


def test_evaluate_reads_another_split_of_the_same_table(tmp_path: Path) -> None:
    rows = rows_of(24)
    write_photos(tmp_path, rows)
    lines = [
        f"{row['img']},a photo of {index},{split}"
        for index, (row, split) in enumerate(zip(rows, ["train", "val", "test"] * 8, strict=True))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["img,caption,split", *lines]) + "\n")
    spec = write_run(tmp_path, "t.jsonl", tmp_path)
    text = spec.read_text().replace("t.jsonl", "t.csv").replace(', label = "label"', "")
    held_out = 'split = { hold_out = 0.3, by = "caption" }'
    text = text.replace(held_out, 'split = { column = "split", value = "train" }', 1)
    spec.write_text(text.replace(held_out, 'split = "val"'))
    assert run_here(spec, tmp_path, "train.max_steps=1") == 0
    finished = renaissance("evaluate", str(tmp_path / "tiny"), "--split", "test")
    assert finished.code == 0, finished.err
    kept = tomli.loads((tmp_path / "tiny/spec.toml").read_text())["data"]
    assert kept["train"][0]["split"] == {"column": "split", "value": "train", "by": "image"}
    assert kept["validate"][0]["split"] == "val"
    finished = renaissance("evaluate", str(tmp_path / "tiny"), "--split", "dev")
    assert "no row has split = 'dev'; it has 'train' (8 rows), 'val' (8 rows), 'test' (8" in (
        finished.err
    )


@pytest.mark.skipif(
    "RENAISSANCE_SHARED_DATA" not in os.environ,
    reason="RENAISSANCE_SHARED_DATA names no folder of real data",
)
def test_a_real_tar_of_images_from_the_web(tmp_path: Path) -> None:
    root = Path(os.environ["RENAISSANCE_SHARED_DATA"], "cc12m")
    columns = {"image": "image", "text": "txt", "id": "__key__"}
    made = Table.Options(files="cc12m-*.tar", columns=columns, cache=str(tmp_path))
    dataset = Table(made, DatasetContext(root=root, seed=0, training=True))
    with tarfile.open(next(root.glob("*.tar"))) as tar:
        members = {member.name: member for member in tar}
        assert len(dataset) == sum(name.endswith(".jpg") for name in members) > 0
        for sample in samples(dataset):
            file = tar.extractfile(members[f"{sample.labels['id']}.jpg"])
            text = tar.extractfile(members[f"{sample.labels['id']}.txt"])
            assert file is not None
            assert text is not None
            assert sample.text == text.read().decode()
            assert sample.images[0].tobytes() == Image.open(file).tobytes()
