"""Write the table of layers into architecture.md. Run `python docs/layers.py`."""

from pathlib import Path
from typing import Any

import tomli

FOLDER = Path(__file__).parent
START, END = "<!-- layers: made by docs/layers.py -->\n", "<!-- end of layers -->\n"


def read_layers() -> list[dict[str, Any]]:
    """Return the layers, lowest first."""
    layers: list[dict[str, Any]] = tomli.loads((FOLDER / "layers.toml").read_text())["layers"]
    return layers


def with_table(page: str) -> str:
    """Return the page with a new table."""
    rows = ["| layer | where | what it knows |", "|-|-|-|"]
    for layer in read_layers():
        where = " ".join(f"`{module}`" for module in layer["modules"])
        rows.append(f"| {layer['name']} | {where} | {layer['knows']} |")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n" + "\n".join(rows) + "\n\n" + END + after


if __name__ == "__main__":
    path = FOLDER / "architecture.md"
    path.write_text(with_table(path.read_text()))
