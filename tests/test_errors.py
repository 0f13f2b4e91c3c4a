"""How errors are described to users."""

from pathlib import Path

import pytest

from renaissance.errors import describe


def test_a_full_disk_is_no_bug() -> None:
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_text("x")
    expected = "No space left on device; free space, or write to another folder"
    assert describe(caught.value) == expected
    assert describe(OSError(28, "No space left on device", "a/b")) == f"a/b: {expected}"
    assert "--debug" in describe(OSError(5, "Input/output error", "a/b"))
