"""Assertions that several tests of whole runs share."""

from pathlib import Path

import pytest
import torch

from support.command_line import Finished
from support.running import metrics, weights


def assert_same_figures(ours: Path, theirs: Path, tolerance: float) -> None:
    ours_lines, theirs_lines = metrics(ours), metrics(theirs)
    assert len(ours_lines) == len(theirs_lines) > 0
    for a, b in zip(ours_lines, theirs_lines, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if key == "split":
                assert a[key] == b[key]
            else:
                assert a[key] == pytest.approx(b[key], abs=tolerance, rel=tolerance), (a, b, key)


def assert_same_weights(ours: Path, theirs: Path, step: int, tolerance: float) -> None:
    ours_weights, theirs_weights = weights(ours, step), weights(theirs, step)
    assert ours_weights.keys() == theirs_weights.keys()
    for name, tensor in ours_weights.items():
        torch.testing.assert_close(
            tensor, theirs_weights[name], atol=tolerance, rtol=tolerance, msg=name
        )


def assert_refused(finished: Finished, *texts: str, code: int = 2) -> None:
    """Check for one message that says what it should, and nothing else."""
    assert finished.code == code, finished.err
    assert finished.err.startswith("error: ")
    assert finished.err.count("error: ") == 1
    assert "Traceback" not in finished.out + finished.err
    for text in texts:
        assert text in finished.err
