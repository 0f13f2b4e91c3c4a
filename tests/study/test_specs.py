"""What differs between the specs of cells, and what should but does not."""

from pathlib import Path

import pytest
from support.running import write_spec

from renaissance.plugins.loading import Plugins, load_plugins
from renaissance.study import Study
from renaissance.study.specs import (
    differing,
    equal_cells,
    first_cells,
    idle_axes,
    read_cells,
    settings_of,
    unknown_objectives,
)

TEXT = """
[study]
name = "specs"
base = ["run.toml"]
seeds = [0, 1]
[study.axes]
rate = { low = [], high = "optimizer.learning_rate=0.5" }
size = { small = [], same = ["optimizer.weight_decay=0.01"] }
[study.report]
metrics = ["itm/accuracy"]
"""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


def read(folder: Path, text: str) -> Study:
    write_spec(folder)
    (folder / "study.toml").write_text(text)
    return Study.read(folder / "study.toml")


def test_settings_that_differ_are_listed_key_by_key(tmp_path: Path, plugins: Plugins) -> None:
    text = TEXT.replace("weight_decay=0.01", "weight_decay=0.2")
    cells = first_cells(read(tmp_path, text))
    specs, faults = read_cells(cells, plugins)
    assert faults == []
    rows = differing(cells, {name: settings_of(spec) for name, spec in specs.items()})
    assert rows == [
        ("optimizer.learning_rate", "0.003", "rate = low"),
        ("optimizer.learning_rate", "0.5", "rate = high"),
        ("optimizer.weight_decay", "0.01", "size = small"),
        ("optimizer.weight_decay", "0.2", "size = same"),
    ]


def test_variants_are_told_by_several_axes_or_by_their_names(
    tmp_path: Path, plugins: Plugins
) -> None:
    text = TEXT.replace("weight_decay=0.01", "weight_decay=0.2")
    cells = first_cells(read(tmp_path, text))
    names = [cell.name for cell in cells]
    assert names == [
        *("low.small.seed-0", "low.same.seed-0"),
        *("high.small.seed-0", "high.same.seed-0"),
    ]

    def told(*values: int) -> list[tuple[str, str, str]]:
        tables = {name: {"key": value} for name, value in zip(names, values, strict=True)}
        return differing(cells, tables)

    assert told(1, 2, 2, 2) == [
        ("key", "1", "rate = low, size = small"),
        ("key", "2", "low.same, high.small, high.same"),
    ]
    assert told(1, 2, 2, 1) == [
        ("key", "1", "low.small, high.same"),
        ("key", "2", "low.same, high.small"),
    ]
    assert told(1, 1, 1, 1) == []


def test_a_value_that_changes_nothing_and_equal_cells_are_named(
    tmp_path: Path, plugins: Plugins
) -> None:
    study = read(tmp_path, TEXT)
    cells = first_cells(study)
    specs, _ = read_cells(cells, plugins)
    assert idle_axes(study, specs, plugins) == [
        "study.axes.size.same: changes nothing: every cell has the same settings without "
        "optimizer.weight_decay=0.01; correct it, or remove it"
    ]
    assert equal_cells(cells, {name: settings_of(spec) for name, spec in specs.items()}) == [
        "low.same.seed-0: has the same settings as low.small.seed-0; exclude one of them",
        "high.same.seed-0: has the same settings as high.small.seed-0; exclude one of them",
    ]


def test_the_faults_of_all_cells_come_at_once_each_with_its_cells(
    tmp_path: Path, plugins: Plugins
) -> None:
    text = TEXT.replace("learning_rate=0.5", "learning_rate=-1").replace(
        "weight_decay=0.01", "decay=1"
    )
    specs, faults = read_cells(first_cells(read(tmp_path, text)), plugins)
    assert list(specs) == ["low.small.seed-0"]
    assert len(faults) == 2
    assert any(fault.startswith("low.same.seed-0, high.same.seed-0: ") for fault in faults)
    assert any(fault.startswith("high.small.seed-0, high.same.seed-0: ") for fault in faults)


def test_a_metric_that_no_cell_reports_is_named(tmp_path: Path, plugins: Plugins) -> None:
    study = read(tmp_path, TEXT.replace('"itm/accuracy"', '"loss", "vqa/accuracy"'))
    specs, _ = read_cells(first_cells(study), plugins)
    assert unknown_objectives(study, specs) == [
        "study.report.metrics: no cell reports 'vqa/accuracy'; the objectives are mlm, itm, and a "
        "metric is named after one, such as 'mlm/loss'"
    ]
