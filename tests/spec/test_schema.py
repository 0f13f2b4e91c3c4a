"""The JSON schema of run specs: what it allows is what the reader allows, as far as it goes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli
from jsonschema import Draft7Validator

from renaissance.plugins.loading import load_plugins
from renaissance.spec.schema import run_schema

ROOT = Path(__file__).parents[2]
SPECS = [
    # Those of studies are not run specs.
    *sorted(p for p in (ROOT / "recipes").rglob("*.toml") if p.parent.name != "studies"),
    ROOT / "run.toml.example",
    ROOT / "renaissance" / "demo" / "run.toml",
]


@pytest.fixture(scope="module", params=["sections", "components"])
def validator(request: pytest.FixtureRequest) -> Draft7Validator:
    registry = load_plugins().registry if request.param == "components" else None
    schema = run_schema(registry)
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_is_valid(validator: Draft7Validator, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(tomli.loads(path.read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "[train]\nmax_stpes = 5",
        "[train]\nmax_steps = 'five'",
        "[train]\nprecision = 'fp8'",
        "[modle]",
        "objectives = {}",
        "[model]\ntype = 'three-tower'",
        "[data.transform]\nmean = [0.5]",
    ],
)
def test_what_the_reader_refuses(validator: Draft7Validator, text: str) -> None:
    assert not validator.is_valid(tomli.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[model.fusion]\ntype = 'co-attention'\nnum_layer = 3",
        "[model.fusion]\nnum_layer = 3",  # of the default one
        "[model.pooler]\ntype = 'tripel'",
        "[[objectives]]\ntype = 'mlm'\nprobability = '15%'",
        "[optimizer]\nmomentum = 0.5",  # adamw has none
    ],
)
def test_options_of_components(text: str) -> None:
    table = tomli.loads(text)
    assert not Draft7Validator(run_schema(load_plugins().registry)).is_valid(table)
    assert Draft7Validator(run_schema()).is_valid(table)


def test_the_command_prints_it_without_torch() -> None:
    code = (
        "import sys; from renaissance.cli import app; app(['schema'], standalone_mode=False); "
        "assert not {'torch', 'transformers', 'torchmetrics'} & set(sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    printed: dict[str, Any] = json.loads(finished.stdout)
    assert printed == json.loads(json.dumps(run_schema()))
    steps = printed["properties"]["train"]["properties"]["max_steps"]
    assert steps["type"] == "integer"
    assert "Optimizer steps" in steps["description"]
