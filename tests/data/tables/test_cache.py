"""What is made from a table is made once, whole, and only while the table stays the same."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.kills import is_killed
from support.running import environment

from renaissance import DataError
from renaissance.data.tables.cache import cached, default_cache
from renaissance.data.tables.files import TableFile
from renaissance.data.tables.table import Table


def csv_file(folder: Path, content: str = "w\na\nb\n") -> TableFile:
    path = folder / "t.csv"
    path.write_text(content)
    return TableFile(str(path), "csv")


def column(file: TableFile, cache: Path) -> list[str]:
    return list(Table([file], ["w"], cache).values("w"))


def test_a_table_is_converted_once(tmp_path: Path) -> None:
    file, cache = csv_file(tmp_path), tmp_path / "cache"
    assert column(file, cache) == ["a", "b"]
    (made,) = cache.iterdir()
    before = made.stat()
    assert column(file, cache) == ["a", "b"]
    assert made.stat() == before
    # The lock and the partial file are gone.
    assert list(cache.iterdir()) == [made]


@pytest.mark.parametrize("content", ["w\na\nbb\n", "w\nc\nd\n"])
def test_a_changed_table_is_converted_again_and_the_old_file_removed(
    tmp_path: Path, content: str
) -> None:
    file, cache = csv_file(tmp_path), tmp_path / "cache"
    column(file, cache)
    (before,) = cache.iterdir()
    csv_file(tmp_path, content)
    # Within the clock's resolution, two writes may have the same time.
    later = time.time_ns() + 10**9
    os.utime(file.path, ns=(later, later))
    assert column(file, cache) == content.split()[1:]
    (after,) = cache.iterdir()
    assert after != before


def test_tables_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    files = [csv_file(folder, f"w\n{folder.name}\n") for folder in folders]
    for file in files:
        os.utime(file.path, ns=(10**18, 10**18))
    assert [column(file, cache) for file in files] == [["a"], ["b"]]
    assert len(list(cache.iterdir())) == 2


def test_a_conversion_that_is_killed_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    file, cache = csv_file(tmp_path), tmp_path / "cache"
    operation = 0
    while is_killed(cache, operation, lambda: column(file, cache)):
        assert column(file, cache) == ["a", "b"]
        for path in cache.iterdir():
            path.unlink()
        operation += 1
    assert operation > 3


SLOW = """
import sys, time
from pathlib import Path
from renaissance.data.tables.cache import cached
from renaissance.data.tables.files import TableFile

def write(path):
    Path(sys.argv[2] + "/writers").open("a").write("w")
    time.sleep(0.5)
    path.write_text("whole")

print(cached(TableFile(sys.argv[1], "csv"), "rows", Path(sys.argv[2]), write).read_text())
"""


def test_several_processes_convert_once(tmp_path: Path) -> None:
    file, cache = csv_file(tmp_path), tmp_path / "cache"
    cache.mkdir()
    command = [sys.executable, "-c", SLOW, file.path, str(cache)]
    processes = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["whole\n"] * 3
    assert (cache / "writers").read_text() == "w"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cache: cannot keep what is made from .*t\.csv \(.*cache"):
        column(csv_file(tmp_path), tmp_path / "cache")


def test_no_room_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"No space left on device\); expected a folder with room"):
        cached(csv_file(tmp_path), "rows", tmp_path / "cache", write)
    assert not list((tmp_path / "cache").iterdir())


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == Path("/x/renaissance/tables")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == Path("/home/me/.cache/renaissance/tables")


def test_memory_does_not_grow_with_a_table(tmp_path: Path) -> None:
    """Converting a table of 60 MB needs little more memory than one of 15 MB."""
    import resource

    def convert(num_rows: int) -> int:
        path = tmp_path / f"{num_rows}.csv"
        with path.open("w") as file:
            file.write("w,n\n")
            for row in range(num_rows):
                file.write(f"{'x' * 1200},{row}\n")
        Table([TableFile(str(path), "csv")], ["w"], tmp_path / "cache")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    small = convert(12_000)
    assert convert(50_000) - small < 24 << 10
