import contextlib
import io
import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from renaissance import DataError, ImageFile, LeftOut, Record, Source, SourceContext
from renaissance.data.open_image import ImageLimits
from renaissance.data.prepare import image_reader
from renaissance.data.prepare.image_files import (
    decode_fault,
    image_fault,
    read_image,
    resized,
    stamp,
)
from renaissance.data.prepare.manifest import Report
from renaissance.data.prepare.options import Part, PrepareOptions
from renaissance.data.prepare.writer import write_tables
from renaissance.errors import SpecError
from renaissance.files import locked
from renaissance.limits import ReadLimits, reading_within
from renaissance.prepare import CAPTION_SCHEMA, captioned, json_elements, json_lines, text_fault


def photos(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def records_of(folder: Path) -> Iterator[Record | LeftOut]:
    for path in sorted(folder.glob("*.jpg")):
        values = {"image_id": path.name, "split": "train"}
        table = "odd" if int(path.stem) % 2 else "even"
        yield from captioned(table, ImageFile(str(path)), [f"photo {path.stem}"], values)


class Photos(Source):
    """Photos of a folder, in two tables."""

    name = "photos"
    schema = CAPTION_SCHEMA
    rows_per_file = 30
    beside: Mapping[str, Any] = {"photos_words.json": ["a", "b"]}

    def __init__(self, folder: Path) -> None:
        super().__init__(None, SourceContext(str(folder)))

    def records(self) -> Iterator[Record | LeftOut]:
        return records_of(Path(self.path))


def write(source: Source, output: Path, **options: Any) -> Report:
    return write_tables(source, PrepareOptions(output=output, progress=False, **options))


def prepare_folder(folder: Path, output: Path, **options: Any) -> None:
    write(Photos(folder), output, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(path: Path) -> list[dict[str, object]]:
    with pa.memory_map(str(path)) as mapped:
        return list(pa.ipc.open_file(mapped).read_all().to_pylist())


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100)
    (folder / "0007.jpg").write_bytes(b"broken")
    for workers in (1, 2, 7):
        prepare_folder(folder, tmp_path / str(workers), workers=workers, max_missing=0.1)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "7")
    assert sorted(contents(tmp_path / "1")) == [
        "even_0.arrow",
        "even_1.arrow",
        "odd_0.arrow",
        "odd_1.arrow",
        "photos_manifest.json",
        "photos_words.json",
    ]


def test_parts_write_the_files_of_one_machine_and_the_last_one_joins_them(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100)
    # Left out while listing, and while reading.
    (folder / "0007.jpg").write_bytes(b"not a picture")
    options = {"max_missing": 0.1}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    expected = write(Photos(folder), whole, **options)
    assert len(expected.left_out) == 1
    for index, num_missing in ((2, 3), (3, 2), (2, 2), (1, 0)):
        report = write(Photos(folder), parted, part=Part(index, 3), **options)
        assert report.num_missing == num_missing
        assert (parted / "photos_manifest.json").exists() == (num_missing == 0)
    assert contents(parted) == contents(whole)
    # The whole preparation goes on from a part.
    write(Photos(folder), tmp_path / "lost", part=Part(1, 2), **options)
    write(Photos(folder), tmp_path / "lost", **options)
    assert contents(tmp_path / "lost") == contents(whole)


def test_parts_that_end_together_join_once(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    write(Photos(folder), whole)
    parts = [
        multiprocessing.Process(
            target=prepare_folder, args=(folder, parted), kwargs={"part": Part(index, 5)}
        )
        for index in range(1, 6)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join(60)
    assert [part.exitcode for part in parts] == [0] * 5
    assert contents(parted) == contents(whole)


def test_no_whole_preparation_beside_a_part(tmp_path: Path) -> None:
    folder, output = photos(tmp_path / "photos", 3), tmp_path / "output"
    output.mkdir()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(hold, (output / "photos.2-of-3.lock",))
        with pytest.raises(DataError, match=r"another process is preparing photos\.2-of-3 "):
            write(Photos(folder), output)
        with pytest.raises(DataError, match=r"another process is preparing photos\.2-of-3 "):
            write(Photos(folder), output, part=Part(2, 3))
        assert write(Photos(folder), output, part=Part(1, 3)).num_missing == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/", "-1/2", "1/2/3", "\u00b2/3", ""])
def test_what_is_not_a_part(text: str) -> None:
    with pytest.raises(SpecError, match=r"--part: got .*, expected INDEX/COUNT, counted from 1"):
        Part.of_text(text)


HELD = contextlib.ExitStack()


def hold(path: Path) -> None:
    """Hold a lock until this process ends."""
    HELD.enter_context(locked(path, AssertionError()))


def test_numbered_files_share_one_shuffle(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100)
    prepare_folder(folder, tmp_path / "out")
    parts = [rows_of(tmp_path / "out" / f"even_{number}.arrow") for number in range(2)]
    assert [len(part) for part in parts] == [30, 20]
    ids = [str(row["image_id"]) for part in parts for row in part]
    assert sorted(ids) == [f"{number:04d}.jpg" for number in range(0, 100, 2)]
    assert min(ids[30:]) < max(ids[:30])


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        "[" * 100_000,
        '{"tables": [], "left_out": {}}',
        '{"tables": {"odd_9.arrow": null, "x": {}}, "left_out": [1, {}]}',
        '{"tables": {"../mine": {"table": "odd"}, "even_0.arrow": {"table": ["odd"]}}}',
    ],
)
def test_an_earlier_manifest_that_makes_no_sense(tmp_path: Path, content: str) -> None:
    folder = photos(tmp_path / "photos", 4)
    (tmp_path / "mine").write_text("kept")
    output = tmp_path / "out"
    output.mkdir()
    (output / "photos_manifest.json").write_text(content)
    prepare_folder(folder, output)
    # No file is deleted because a manifest names it.
    assert (tmp_path / "mine").read_text() == "kept"
    tables = json.loads((output / "photos_manifest.json").read_text())["tables"]
    assert sorted(tables) == ["even_0.arrow", "odd_0.arrow"]


def kill_after(folder: Path, output: Path, seconds: float) -> bool:
    """Prepare in a process of its own; say whether it was killed on the way."""
    process = multiprocessing.get_context("fork").Process(
        target=prepare_folder, args=(folder, output)
    )
    process.start()
    # The clock starts with the first sign of work.
    while not output.exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def test_killed_at_any_moment_it_ends_with_the_same_files(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 600, (160, 120))
    prepare_folder(folder, tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed")
    killed = 0
    for attempt, delay in enumerate((0.01, 0.04, 0.08, 0.16)):
        output = tmp_path / str(attempt)
        killed += kill_after(folder, output, delay)
        prepare_folder(folder, output)
        assert contents(output) == expected
    assert killed


def prepare_slowly(folder: Path, output: Path, waiting: Any, go_on: Any) -> None:
    class SlowPhotos(Photos):
        def records(self) -> Iterator[Record | LeftOut]:
            yield from records_of(folder)
            waiting.set()
            go_on.wait(30)

    write(SlowPhotos(folder), output)


@pytest.mark.parametrize("killed", [False, True])
def test_one_preparation_of_a_name_at_a_time(tmp_path: Path, killed: bool) -> None:
    folder, output = photos(tmp_path / "photos", 10, (16, 16)), tmp_path / "out"
    fork = multiprocessing.get_context("fork")
    waiting, go_on = fork.Event(), fork.Event()
    first = fork.Process(target=prepare_slowly, args=(folder, output, waiting, go_on))
    first.start()
    assert waiting.wait(30)
    with pytest.raises(DataError) as error:
        prepare_folder(folder, output)
    assert str(error.value) == (
        f"{output}: another process is preparing photos in this folder; expected one at a time. "
        "Wait until it has ended, or choose another output"
    )

    # Another name may go in beside it.
    class Others(Photos):
        name, beside = "others", {}

        def records(self) -> Iterator[Record | LeftOut]:
            records = [entry for entry in records_of(folder) if isinstance(entry, Record)]
            return (attrs.evolve(record, table=f"other-{record.table}") for record in records)

    write(Others(folder), output)
    if killed:
        first.kill()
    else:
        go_on.set()
    first.join()
    assert first.exitcode == (-signal.SIGKILL if killed else 0)
    # What the first one wrote, or left, is in nobody's way.
    prepare_folder(folder, output)
    assert not list(output.glob("*.lock"))
    assert not list(output.glob("*.partial"))


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int) -> None:
    """Let the n-th call of a method end the preparation as a kill would: nothing cleans up."""
    whole: Callable[..., object] = getattr(owner, name)
    calls = iter(range(1, 10**9))

    def stopping(*arguments: object, **options: object) -> object:
        if next(calls) == number:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize("number", range(1, 17))
def test_stopped_between_any_two_renames_it_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = photos(tmp_path / "photos", 100, (16, 16))
    prepare_folder(folder, tmp_path / "undisturbed")
    with monkeypatch.context() as patched:
        stop_at(patched, type(tmp_path), "replace", number)
        # Four files, their notes, four times into place, the list beside, the manifest.
        if number <= 14:
            with pytest.raises(KeyboardInterrupt):
                prepare_folder(folder, tmp_path / "out")
        else:
            prepare_folder(folder, tmp_path / "out")
    prepare_folder(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_finished_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos", 100, (16, 16))
    with monkeypatch.context() as patched:
        # Three files of four and their notes are finished then.
        stop_at(patched, type(tmp_path), "replace", 7)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(folder, tmp_path / "out")
    read: list[str] = []

    def spy(file: ImageFile, max_bytes: int) -> bytes:
        read.append(file.path)
        return read_image(file, max_bytes)

    monkeypatch.setattr(image_reader, "read_image", spy)
    prepare_folder(folder, tmp_path / "out")
    assert len(read) == 20
    assert all(int(Path(path).stem) % 2 for path in read)


@pytest.mark.parametrize("change", ["an image", "an option"])
def test_what_was_made_from_other_data_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = photos(tmp_path / "photos", 100, (16, 16))
    with monkeypatch.context() as patched:
        stop_at(patched, type(tmp_path), "replace", 9)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(folder, tmp_path / "out")
    if change == "an image":
        Image.new("RGB", (9, 9)).save(folder / "0002.jpg")
    options = {"seed": 1} if change == "an option" else {}
    prepare_folder(folder, tmp_path / "out", **options)
    prepare_folder(folder, tmp_path / "undisturbed", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_other_splits_stay_on_record_and_superfluous_files_go(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 100, (16, 16))
    prepare_folder(folder, tmp_path / "out")

    class EvenPhotos(Photos):
        rows_per_file = 100

        def records(self) -> Iterator[Record | LeftOut]:
            return (entry for entry in records_of(folder) if entry.table == "even")

    report = write(EvenPhotos(folder), tmp_path / "out")
    manifest = json.loads(report.manifest.read_text())
    assert sorted(manifest["tables"]) == ["even_0.arrow", "odd_0.arrow", "odd_1.arrow"]
    assert not (tmp_path / "out" / "even_1.arrow").exists()
    assert manifest["tables"]["even_0.arrow"]["rows"] == 50


def test_another_source_does_not_replace_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (photos(tmp_path / name, 4, (16, 16)) for name in ("first", "second"))
    output = tmp_path / "out"
    prepare_folder(first, output)
    before = contents(output)
    for folder, name in ((second, "photos"), (first, "pictures")):
        source = Photos(folder)
        source.name = name
        with pytest.raises(DataError) as caught:
            write(source, output)
        assert str(caught.value) == (
            f"{output}/even_0.arrow: prepared from {first} (photos_manifest.json), expected "
            f"{folder}; it would be replaced. Choose another output, or delete "
            f"{output}/photos_manifest.json to replace it"
        )
        assert contents(output) == before
    # The same folder by another path is the same source.
    monkeypatch.chdir(tmp_path)
    write(Photos(Path("second/../first")), output)


def test_resized_photos_have_the_shorter_side_asked_for(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 4, (160, 120))
    Image.new("RGB", (30, 20), "red").save(folder / "0004.jpg")
    small = (folder / "0004.jpg").read_bytes()
    prepare_folder(folder, tmp_path / "out", resize=48)
    sizes = {}
    for name in ("even_0.arrow", "odd_0.arrow"):
        for row in rows_of(tmp_path / "out" / name):
            image = Image.open(io.BytesIO(row["image"]))
            sizes[row["image_id"]] = image.size
            if row["image_id"] == "0004.jpg":
                assert row["image"] == small
    assert sizes == {f"{n:04d}.jpg": (64, 48) for n in range(4)} | {"0004.jpg": (30, 20)}


def test_resizing_sets_photos_upright_and_stays_close_to_the_original() -> None:
    gradient = np.linspace(0, 255, 400 * 300).reshape(300, 400).astype(np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient).convert("RGB").save(file, "JPEG", quality=95, exif=exif)
    picture = Image.open(io.BytesIO(resized(file.getvalue(), 150, ImageLimits())))
    assert picture.size == (150, 200)
    expected = (
        Image.fromarray(gradient)
        .resize((200, 150), Image.Resampling.LANCZOS)
        .rotate(-90, expand=True)
    )
    difference = np.abs(np.asarray(picture.convert("L"), float) - np.asarray(expected, float))
    assert difference.mean() < 1


def test_full_decoding_finds_what_the_header_and_the_end_do_not_show(tmp_path: Path) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    whole = file.getvalue()
    middle = len(whole) // 2
    broken = whole[:middle] + bytes(100) + whole[middle + 100 :]
    assert decode_fault(whole, ImageLimits()) is None
    assert image_fault(broken, ImageLimits()) is None
    assert str(decode_fault(broken, ImageLimits())).startswith("image cannot be decoded (")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0000.jpg").write_bytes(broken)
    with pytest.raises(DataError, match=r"1 of 1 records cannot be used .*cannot be decoded"):
        prepare_folder(tmp_path / "photos", tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()


def test_captions_that_are_no_text_are_left_out() -> None:
    image = ImageFile("x.jpg")
    found = list(captioned("t", image, ["a", "", "\ud800", None, "b"], {}))
    assert [e.reason for e in found if isinstance(e, LeftOut)] == [
        "caption 1 is empty",
        "caption 2 is not valid Unicode",
        "caption 3 is not text but NoneType",
    ]
    (record,) = (e for e in found if isinstance(e, Record))
    assert (record.values, record.num_texts) == ({"caption": ["a", "b"]}, 2)


def test_part_of_a_file_and_addresses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_image(ImageFile(str(path), 2, 3), 10) == b"234"
    assert read_image(ImageFile(str(path)), 10) == b"0123456789"
    assert read_image(ImageFile(f"file://{path}", 2, 3), 10) == b"234"
    assert read_image(ImageFile(f"file://{path}"), 10) == b"0123456789"
    assert stamp(ImageFile(str(path))) is not None
    assert stamp(ImageFile(str(tmp_path / "y"))) is None


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_json_is_read_element_by_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("renaissance.data.prepare.json_arrays.CHUNK_CHARS", chunk)
    elements = [12, -3.5e2, 'a\\"]},[', None, True, {"x": [1, {"y": "é\u4e2d"}]}, [], [[1], 2]]
    path = tmp_path / "a.json"
    for indent in (None, 2):
        path.write_text(json.dumps(elements, indent=indent) + "\n")
        assert list(json_elements(path)) == elements
        content = {"info": {"a": [0]}, "other": [7], "images": elements, "n": 17, "more": []}
        path.write_text(json.dumps(content, indent=indent))
        assert list(json_elements(path, "images")) == elements
        assert list(json_elements(path, "absent")) == []


def test_a_byte_order_mark_in_json_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeff[1, 2]")
    assert list(json_elements(path)) == [1, 2]
    path.write_text('\ufeff{"a": 1}\n{"a": 2}\n')
    assert [content for _, content in json_lines(path)] == [{"a": 1}, {"a": 2}]


def test_json_of_any_size_and_depth_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    deep = r"not valid JSON \(nested too deeply; expected at most"
    with pytest.raises(DataError, match=rf"a\.json: {deep} 100 \(data\.max_nesting\)\)"):
        list(json_elements(path))
    path.write_text('{"a": ' + "[" * 100_000 + "\n")
    with pytest.raises(DataError, match=rf"a\.json: line 1: {deep} 100"):
        list(json_lines(path))
    limits = ReadLimits(record_bytes=1000, nesting=3, of_command=True)
    path.write_text('[{"a": [[]]}]\n')
    assert list(json_elements(path)) == [{"a": [[]]}]
    # An array of the file is no level of its elements, which is what is read at once.
    path.write_text('[{"a": [{"b": [[]]}]}]')
    with (
        reading_within(limits),
        pytest.raises(DataError, match=rf"a\.json: {deep} 3 \(--max-nesting\)\)"),
    ):
        list(json_elements(path))
    monkeypatch.setattr("renaissance.data.prepare.json_arrays.CHUNK_CHARS", 100)
    path.write_text(json.dumps([1, "x" * 10_000]))
    long = (
        r"more than 1,000 characters in one value, at character 4; expected at most 1,000 \(--max-"
    )
    with reading_within(limits), pytest.raises(DataError, match=long):
        list(json_elements(path))
    path.write_text('{"a": 1}\n' + json.dumps({"a": "x" * 10_000}))
    long = r"a\.json: line 2 has more than 1,000 bytes; expected one record per line, of at most 1,"
    with reading_within(limits), pytest.raises(DataError, match=long):
        list(json_lines(path))


def test_a_large_value_is_read_in_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renaissance.data.prepare.json_arrays.CHUNK_CHARS", 10)
    path = tmp_path / "a.json"
    # In steps of 10 characters, 100,000 attempts would be made to parse it.
    path.write_text(json.dumps(["x" * 1_000_000, 2]))
    assert [len(str(element)) for element in json_elements(path)] == [1_000_000, 1]


def test_a_text_that_is_no_caption_is_left_out() -> None:
    assert text_fault("x" * 100_000) is None
    expected = "has 50,000,000 characters; expected at most 100,000 (data.max_text_characters)"
    assert text_fault("x" * 50_000_000) == expected


def test_json_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = json.dumps({"info": {"a": 1}, "images": [{"b": "c"}, 12]})
    path = tmp_path / "a.json"
    generator = random.Random(0)
    for end in generator.sample(range(len(whole)), 20):
        path.write_text(whole[:end])
        with pytest.raises(DataError, match=r"a\.json: not valid JSON \(.* at character \d+\)"):
            list(json_elements(path, "images"))
    path.write_text(whole + "]")
    with pytest.raises(DataError, match=f"more text after its end, at character {len(whole)}"):
        list(json_elements(path, "images"))
