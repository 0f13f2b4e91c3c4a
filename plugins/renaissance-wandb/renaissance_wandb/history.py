"""What a run has at Weights & Biases already: its identifier, and its last row.

Weights & Biases takes no row back. So rows that a killed run had logged after its last checkpoint,
and that come again once it is resumed, must not be logged a second time.
"""

import json
import secrets
import subprocess
import sys
from pathlib import Path


def run_id(folder: Path) -> str:
    """Return the identifier that a run keeps, from `wandb.json` in its folder; made if absent."""
    path = folder / "wandb.json"
    if path.exists():
        identifier: str = json.loads(path.read_text())["id"]
        return identifier
    identifier = secrets.token_hex(4)
    # Renamed into place: the file is whole, whenever the run is killed.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"id": identifier}) + "\n")
    partial.replace(path)
    return identifier


def last_local_row(folder: Path, identifier: str) -> int:
    """Return the last row that is in the files of a run's earlier processes; -1 without any.

    Args:
        folder: The run folder.
        identifier: The run's identifier.

    Raises:
        subprocess.CalledProcessError: If wandb cannot read one of them.
    """
    files = folder.glob(f"wandb/*-{identifier}*/run-{identifier}.wandb")
    return max(map(_last_row, files), default=-1)


def _last_row(file: Path) -> int:
    # The only reader of these files that wandb has; it copes with one that is cut short.
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    records = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [
        json.loads(record)["history"]["step"].get("num", 0)
        for record in records.splitlines()
        if '"type":"history"' in record
    ]
    return max(rows, default=-1)
