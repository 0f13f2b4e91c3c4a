import re
from pathlib import Path

import pytest

from renaissance import DataError
from renaissance.data.class_file import read_class_file

EXPECTED = "expected the names of at least 2 classes, one per line, or a JSON list of them (.json)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "\ufeffdog\r\n tabby cat \r\n\r\nemu"),
        ("classes.json", '["dog", "tabby cat", "emu"]'),
    ],
)
def test_classes_in_their_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_class_file(tmp_path / name) == ("dog", "tabby cat", "emu")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "dog\n", f"classes.txt: line 1: 'dog' is the only class; {EXPECTED}"),
        ("classes.txt", "\n", f"classes.txt: no class there; {EXPECTED}"),
        (
            "classes.txt",
            "dog\ncat\n\ndog \n",
            "classes.txt: line 4: 'dog' is there twice (also line 1); expected distinct classes. "
            "Remove one of the two",
        ),
        ("classes.json", '["dog", 1]', f"classes.json: entry 1: 1 is not a name; {EXPECTED}"),
        ("classes.json", '["dog", " "]', f"classes.json: entry 1: ' ' is not a name; {EXPECTED}"),
        ("classes.json", '{"dog": 1}', f"classes.json: a JSON dict; {EXPECTED}"),
        ("classes.json", "[", "classes.json: cannot be read ("),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path}/{message}")):
        read_class_file(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"classes.txt: no such file; {EXPECTED}")):
        read_class_file(tmp_path / "classes.txt")
