"""A pickled checkpoint as safetensors: `python unpickle.py FILE OUTPUT`.

A process of its own, so that whatever a file does while it is read, it has no network and starts no
other process. PyTorch's unpickler makes tensors and plain values only, and runs no code.
"""

import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SETTINGS = "settings"
# Exit code of a file that is refused; the reason is on standard output.
REFUSED = 3
MORE = "holds more than tensors"
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
GLOBAL = re.compile(r"GLOBAL (\S+)")
MAX_NAMED = 3


def forbid_network_and_processes() -> None:
    """Let this process open no connection, and start no other process, from now on."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"reading a checkpoint must not need {event}")

    sys.addaudithook(refuse)


def tensors_of(content: object) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: those of its `state_dict`, if it has one.

    Raises:
        ValueError: If there are no tensors, or other things among them.
    """
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f"holds no tensors by name, and no state_dict with them: got {type(state).__name__}"
        )
    others = [f"{n} ({type(t).__name__})" for n, t in state.items() if not isinstance(t, Tensor)]
    if others:
        raise ValueError(f"{MORE}: {', '.join(others[:MAX_NAMED])}")
    # Copies, since tied tensors and views cannot be written.
    return {str(name): tensor.detach().clone().contiguous() for name, tensor in state.items()}


def settings_of(content: object) -> dict[str, Any]:
    """Return the settings that Lightning keeps beside the tensors, as far as JSON has them."""
    kept = content.get("hyper_parameters", {}) if isinstance(content, Mapping) else {}
    config = kept.get("config", kept) if isinstance(kept, Mapping) else {}
    return {k: v for k, v in config.items() if isinstance(k, str) and _is_plain(v)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str | bool)


def main() -> int:
    """Read one file, write the other."""
    source, output = map(Path, sys.argv[1:])
    forbid_network_and_processes()
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
        tensors = tensors_of(content)
    except pickle.UnpicklingError as error:
        found = GLOBAL.search(str(error))
        print(f"{MORE}: an object of {found[1]}" if found else "is no file that PyTorch wrote")
        return REFUSED
    # Damaged files raise all kinds of errors.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        print(reason if isinstance(error, ValueError) else f"cannot be read: {reason}")
        return REFUSED
    save_file(tensors, output, {SETTINGS: json.dumps(settings_of(content))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
