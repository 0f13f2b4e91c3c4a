"""Documentation generated from the classes."""

from pathlib import Path
from typing import Any, Literal

import pytest
from support.spec_components import COMPONENTS, ImageEncoder

from renaissance.plugins.loading import load_plugins
from renaissance.spec.describe import describe_type
from renaissance.spec.document import render_components, render_run_spec

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int | float, "integer or number"),
        (tuple[str, ...], "list of strings"),
        (list[int] | None, "list of integers"),
        (tuple[float, float, float] | None, "list of 3 numbers"),
        (Literal["a", "b"], '"a" | "b"'),
        (dict[str, Any], "table"),
        (dict[str, int], "table of integers"),
        (Path, "string (a path)"),
        (tuple[ImageEncoder.Size, ...], "array of tables"),
    ],
)
def test_types_in_words(annotation: Any, text: str) -> None:
    assert describe_type(annotation) == text


def test_the_generated_pages_are_up_to_date() -> None:
    pages = {
        "run-spec.md": render_run_spec(),
        "components.md": render_components(load_plugins().registry),
    }
    for name, text in pages.items():
        assert (DOCS / name).read_text() == text, f"docs/{name} is stale; run: make docs"


def test_the_run_spec_page_has_every_key() -> None:
    page = render_run_spec()
    assert "## [[data.train]]\n" in page
    assert "## [optimizer.multipliers]\n" in page
    precision = '"auto" \\| "fp32" \\| "bf16" \\| "fp16" | `"auto"`'
    assert f"| `precision` | {precision} | Precision" in page
    assert '| `num_workers` | integer or "auto" | `"auto"` | Loader' in page
    assert "| `frozen` | boolean | `false` |" in page


def test_components_are_documented_with_their_options(plugins_with: Any) -> None:
    plugins = plugins_with(*COMPONENTS)
    page = render_components(plugins.registry, "test-distribution")
    assert "### text\n\nA text encoder.\n" in page
    assert "| `checkpoint` | string | required | Hub id or folder. |" in page
    assert "| `size.width` | integer | `8` | Width. |" in page
    assert "### joint\n\n" in page
    assert "No options.\n" in page
    assert "### text" not in render_components(plugins.registry, "another")
