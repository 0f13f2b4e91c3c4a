"""The table as Markdown, CSV and LaTeX; gaps are marked."""

import csv
import io
import math

import pytest

from renaissance.study import Variant
from renaissance.study.comparison import Row
from renaissance.study.statistics import Difference
from renaissance.study.table import notes_of, to_csv, to_latex, to_markdown

DIFFERENCE = Difference(0.1, 0.05, 0.15, 0.0002, 2, 50, ("a note",))
ROWS = [
    Row(Variant({"text": "small_1"}), "itm/accuracy", {0: 0.5, 1: 0.7}, (), None, is_baseline=True),
    Row(Variant({"text": "large"}), "itm/accuracy", {0: 0.7}, ("large.seed-1",), DIFFERENCE, 0.002),
    Row(Variant({"text": "none"}), "itm/accuracy", {}, ("none.seed-0", "none.seed-1"), None),
]


def test_markdown() -> None:
    assert to_markdown(ROWS).splitlines()[2:] == [
        "| small_1 (baseline) | itm/accuracy | 2 | 0.6000 | 0.1414 | - | - | - | - |",
        "| large | itm/accuracy | 1 of 2 | 0.7000 | - | +0.1000 | [+0.0500, +0.1500] | < 0.001 | "
        "0.002 |",
        "| none | itm/accuracy | 0 of 2 | - | - | - | - | - | - |",
    ]


def test_csv_has_all_digits_and_empty_gaps() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert [row["text"] for row in rows] == ["small_1", "large", "none"]
    assert float(rows[0]["sd"]) == pytest.approx(math.sqrt(0.02))
    assert (rows[1]["low"], rows[1]["p"], rows[1]["p_holm"]) == ("0.05", "0.0002", "0.002")
    assert rows[1]["notes"] == "a note; not measured: large.seed-1"
    assert (rows[2]["mean"], rows[2]["difference"], rows[2]["num_samples"]) == ("", "", "")


def test_latex_is_escaped() -> None:
    lines = to_latex(ROWS).splitlines()
    assert lines[:2] == [r"\begin{tabular}{llrrrrrrr}", r"\toprule"]
    assert (
        r"small\_1 (baseline) & itm/accuracy & 2 & 0.6000 & 0.1414 & -- & -- & -- & -- \\" in lines
    )
    assert r"95\% interval" in lines[2]
    assert "$<$ 0.001" in lines[5]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_notes_name_the_rows() -> None:
    assert notes_of(ROWS) == [
        "large itm/accuracy: not measured: large.seed-1",
        "large itm/accuracy: a note",
        "none itm/accuracy: not measured: none.seed-0, none.seed-1",
    ]
