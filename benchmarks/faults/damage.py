"""Damage checkpoints, Arrow files and pretrained weights: all damage is named, or does no harm.

    python benchmarks/faults/damage.py [checkpoints|shards|arrow|weights] [--count N] [--seed 0]

Of a checkpoint, also of one in shards, the run must name the damage and go on from the one before.
Of an Arrow file, reading must never end the process or raise anything but a DataError, and
`data.verify = "sha256"` must name every change. Weights have a manifest beside them, as a
checkpoint has.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.arrow_files import rows, write_arrow
from support.collating import imagenet
from support.tiny_models import context, save_model

from renaissance import DatasetContext
from renaissance.builtin.datasets.image_text import ImageText
from renaissance.builtin.encoders.hf_text import HFTextEncoder
from renaissance.data.images import square_pixels
from renaissance.data.open_image import ImageLimits
from renaissance.data.verification import verify_files
from renaissance.engine.checkpoint import TrainState, load_checkpoint, save_checkpoint
from renaissance.engine.manifest import shard_name, write_manifest
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.shards import Position, row_range
from renaissance.engine.tensors import read_tensors, write_tensors
from renaissance.errors import RenaissanceError
from renaissance.files import sha256_of

NAMED, HARMLESS = "named", "harmless"
COUNTS = {"checkpoints": 1000, "shards": 1000, "arrow": 600, "weights": 300}

# Damages a folder, and returns what is wrong with what is then read from it, or how it behaves.
Trial: TypeAlias = Callable[[random.Random], str]


def damage_bytes(path: Path, random_: random.Random) -> None:
    """Flip bits, cut, zero or repeat a block, or append to a file."""
    data = bytearray(path.read_bytes())
    start = random_.randrange(len(data))
    block = random_.choice([1, 8, 64, 4096])
    match random_.randrange(6):
        case 0 | 1:
            for _ in range(random_.choice([1, 1, 8])):
                data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
        case 2:
            del data[start:]
        case 3:
            data[start : start + block] = bytes(len(data[start : start + block]))
        case 4:
            data[start : start + block] = random_.randbytes(len(data[start : start + block]))
        case 5:
            data += random_.randbytes(block)
    path.write_bytes(data)


def damage_manifest(path: Path, random_: random.Random) -> None:
    """Swap, rename, remove or replace entries of a manifest."""
    entries = json.loads(path.read_text())
    one, two = random_.sample(list(entries), 2)
    junk = random_.choice([None, [], {}, 3, "x", -1, 10**30, [[]] * 9])
    match random_.randrange(6):
        case 0:
            entries[one], entries[two] = entries[two], entries[one]
        case 1:
            entries[one + random_.choice(["x", "/", " "])] = entries.pop(one)
        case 2:
            del entries[one]
        case 3:
            entries[one] = junk
        case 4:
            entries[one][random_.choice(["size", "sha256", "more"])] = junk
        case 5:
            entries = junk
    path.write_text(json.dumps(entries))


def contents(path: Path) -> dict[str, bytes]:
    """Return what loading a checkpoint gives."""
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    adam = torch.optim.AdamW(other.parameters())
    state = load_checkpoint(path, other, adam)
    tensors = {**other.state_dict()}
    for index, parameter in enumerate(other.parameters()):
        tensors |= {f"{index}/{name}": value for name, value in adam.state[parameter].items()}
    spec = (path / "spec.toml").read_bytes()
    read = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return {**read, "state": repr(state).encode(), "spec": spec}


def in_shards(path: Path, num_shards: int) -> None:
    """Make the shards of a checkpoint that some number of ranks would have written."""
    digests, index = {}, {"optimizer_type": "AdamW", "model": {}, "optimizer": {}}
    for kind in ("model", "optimizer"):
        tensors = read_tensors(path / f"{kind}.safetensors")
        for number in range(num_shards):
            place, part = Position(number, num_shards, True), {}
            name = shard_name(kind, number, num_shards)
            for key, tensor in tensors.items():
                num_rows = tensor.shape[0] if tensor.ndim else 1
                start, stop = row_range(num_rows, place)
                about = {"shape": list(tensor.shape), "dtype": "F32", "rows": []}
                if start < stop:
                    part[key] = (tensor[start:stop] if tensor.ndim else tensor).contiguous()
                    index[kind].setdefault(key, about)["rows"].append([name, start, stop])
            digests[name] = write_tensors(path / name, part, {})
        (path / f"{kind}.safetensors").unlink()
    (path / "index.json").write_text(json.dumps(index))
    for name in ("index.json", "spec.toml", "state.json"):
        digests[name] = sha256_of(path / name)
    write_manifest(path, digests)


def shards(folder: Path) -> Trial:
    """Return a trial that damages the last of two checkpoints in shards."""
    return checkpoints(folder, num_shards=2)


def checkpoints(folder: Path, num_shards: int = 0) -> Trial:
    """Return a trial that damages the last of two checkpoints."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(network.parameters())
    saved = {}
    whole = folder / "whole"
    for step in (1, 2):
        network(torch.ones(2, 3) * step).sum().backward()
        optimizer.step()
        path = RunFolder(whole).checkpoint(step)
        save_checkpoint(path, network, optimizer, TrainState(step=step, best=0.5), "[run]\n")
        saved[step] = contents(path)
        if num_shards:
            in_shards(path, num_shards)
            assert contents(path) == saved[step]

    def trial(random_: random.Random) -> str:
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(whole, folder / "run")
        run = RunFolder(folder / "run")
        last = run.checkpoint(2)
        files = sorted(last.iterdir())
        file, other = random_.sample(files, 2)
        match random_.randrange(6):
            case 0:
                file.unlink()
                if random_.random() < 0.5:
                    file.mkdir()
            case 1:
                shutil.copy(other, file)
            case 2:
                damage_manifest(last / "manifest.json", random_)
            case _:
                damage_bytes(file, random_)
        messages = run.set_aside_damaged()
        step = 1 if messages else 2
        if run.last != run.checkpoint(step) or contents(run.checkpoint(step)) != saved[step]:
            return "another checkpoint was read"
        return NAMED if messages else HARMLESS

    return trial


def arrow(folder: Path) -> Trial:
    """Return a trial that damages an Arrow file, and reads it in a process of its own."""
    path = folder / "train.arrow"
    write_arrow(path, rows(40, num_captions=3))
    whole = path.read_bytes()
    entry = {"size": len(whole), "sha256": sha256_of(path)}
    manifest = folder / "mine_manifest.json"
    transform = imagenet(training=False)

    def read() -> list[str]:
        dataset_context = DatasetContext(root=folder, seed=0, training=True)
        dataset = ImageText(ImageText.Options(files="train.arrow"), dataset_context)
        digests = []
        for index in range(len(dataset)):
            sample = dataset.sample(index, np.random.default_rng(0))
            random_ = np.random.default_rng(0)
            picture = square_pixels(
                sample.images[0], transform, random_, ImageLimits(), sample.source
            ).tobytes()
            digests.append(hashlib.sha256(str(sample.text).encode() + picture).hexdigest())
        return digests

    expected = read()

    def trial(random_: random.Random) -> str:
        path.write_bytes(whole)
        damage_bytes(path, random_)
        # Without one, sizes tell nothing, and more is left to be found.
        manifest.write_text(json.dumps({"tables": {}}))
        result = in_a_process(lambda: HARMLESS if read() == expected else "read otherwise")
        if result not in (NAMED, HARMLESS, "read otherwise"):
            return result
        manifest.write_text(json.dumps({"tables": {path.name: entry}}))
        try:
            verify_files([path])
        except RenaissanceError:
            return f"{result}; named by sha256"
        return HARMLESS if path.read_bytes() == whole else "not noticed by sha256"

    return trial


def weights(folder: Path) -> Trial:
    """Return a trial that damages the files of a Hugging Face model."""
    save_model(folder / "whole", "bert")
    file = folder / "whole" / "model.safetensors"
    entry = {"size": file.stat().st_size, "sha256": sha256_of(file)}
    (folder / "whole" / "manifest.json").write_text(json.dumps({file.name: entry}))

    def load() -> bytes:
        options = HFTextEncoder.Options(checkpoint=str(folder / "model"))
        encoder = HFTextEncoder(options, context())
        return b"".join(p.detach().numpy().tobytes() for p in encoder.parameters())

    shutil.copytree(folder / "whole", folder / "model")
    expected = load()

    def trial(random_: random.Random) -> str:
        shutil.rmtree(folder / "model")
        shutil.copytree(folder / "whole", folder / "model")
        name = random_.choice(["model.safetensors", "model.safetensors", "config.json"])
        damage_bytes(folder / "model" / name, random_)
        loaded = load()
        # Another dropout rate in the config changes no weight, and nothing vouches for it.
        return HARMLESS if loaded == expected or name == "config.json" else "loaded otherwise"

    return trial


def outcome(function: Callable[[], str]) -> str:
    """Return what a function returns, or which error it raises."""
    try:
        return function()
    except RenaissanceError:
        return NAMED
    # A panic of a library is no Exception.
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:99]}"


def in_a_process(function: Callable[[], str]) -> str:
    """Return the outcome of a function that may end its process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        os.write(writing, outcome(function).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    return result or f"the process ended with status {status}"


TRIALS: dict[str, Callable[[Path], Trial]] = {
    "checkpoints": checkpoints,
    "shards": shards,
    "arrow": arrow,
    "weights": weights,
}


def main() -> None:
    """Damage, read, and print how much of it is named or harmless."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*COUNTS, []], default=[])
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    has_failed = False
    for what in options.what or COUNTS:
        counts: collections.Counter[str] = collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            trial = TRIALS[what](Path(folder))
            total = options.count or COUNTS[what]
            for index in range(total):
                random_ = random.Random(f"{options.seed}/{what}/{index}")
                counts[outcome(lambda: trial(random_))] += 1  # noqa: B023
        good = sum(n for result, n in counts.items() if is_good(result))
        for result, number in counts.most_common():
            print(f"  {number:5} {result}")
        print(f"{what}: {good} of {total}", flush=True)
        has_failed |= good != total
    sys.exit(has_failed)


def is_good(result: str) -> bool:
    """Return whether damage was named, or did no harm."""
    return result in (NAMED, HARMLESS) or result.endswith("named by sha256")


if __name__ == "__main__":
    main()
