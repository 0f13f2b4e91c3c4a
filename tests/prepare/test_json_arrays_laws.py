"""Reading JSON element by element gives what reading all of it at once gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renaissance.data.prepare import json_arrays
from renaissance.data.prepare.json_arrays import json_elements

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Chunks of a few characters: every token is cut somewhere.
CHUNKS = st.integers(1, 40)
INDENTS = st.sampled_from([None, 0, 2])
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.json"


@SAME_FOLDER
@given(values=st.lists(VALUES, max_size=6), chunk=CHUNKS, indent=INDENTS)
def test_an_array(file: Path, values: list[Any], chunk: int, indent: int | None) -> None:
    file.write_text(json.dumps(values, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "CHUNK_CHARS", chunk)
        assert list(json_elements(file)) == json.loads(file.read_text())


@SAME_FOLDER
@given(
    table=st.dictionaries(st.text(), VALUES | st.lists(VALUES, max_size=4), max_size=4),
    chunk=CHUNKS,
    indent=INDENTS,
)
def test_the_arrays_of_an_object(
    file: Path, table: dict[str, Any], chunk: int, indent: int | None
) -> None:
    file.write_text(json.dumps(table, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "CHUNK_CHARS", chunk)
        for key, value in table.items():
            expected = value if isinstance(value, list) else []
            assert list(json_elements(file, key)) == expected
