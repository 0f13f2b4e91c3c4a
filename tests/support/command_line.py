"""Run the `renaissance` command in this process."""

import contextlib
import io
import sys
from unittest import mock

import attrs
import pytest

from renaissance.cli import main


@attrs.frozen
class Finished:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def renaissance(*arguments: str) -> Finished:
    """Run a command to its end."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["renaissance", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as caught,
    ):
        main()
    code = caught.value.code
    assert isinstance(code, int)
    return Finished(code, out.getvalue(), err.getvalue())
