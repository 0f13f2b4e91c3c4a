"""Read mutated run specs: each is refused with a message of bounded length, or reads back equal.

python benchmarks/faults/specs.py [--count 20000] [--seed 0]
"""

import argparse
import collections
import copy
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import tomli
import tomli_w

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.running import TINY

from renaissance.errors import RenaissanceError
from renaissance.plugins.loading import Plugins, load_plugins
from renaissance.spec import load_spec, spec_to_toml

# Of one line of a message: the key path, the value in at most 80 characters, and what is expected.
MAX_LINE = 1000
SECONDS = 5
Path_ = tuple[Any, ...]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    *(0, -1, 1, 2, 2**62, 2**63 - 1, 2**63, -(2**63), 10**4000, -(10**400), True, False),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "x" * 30_000, "\0", "\u2028", "é\u4e2d", "a/b", "../..", "~", "~/x", "'\"\\\n", "0"),
    *([], [[]], {}, [{}], nested(300), ["x" * 30_000], ["\0"], [1, "a"], [0.5] * 3, [2, 2]),
    *({"a": 1}, {"x" * 3000: 1}, {"\0": 1}, {"0": 1}, {"99": {}}, {"type": []}, [{"type": {}}]),
    *(
        {"type": "mlm"},
        [{"type": "mlm"}],
        {"type": "adamw"},
        "mlm",
        "adamw",
        "dataset",
        "one-tower",
    ),
]
# Of overrides on the command line.
TEXTS = [
    *("", " ", "=", "nan", "0x" + "f" * 7000, "9" * 6000, "1" + "0" * 400, "1e999", "2026-02-30"),
    *("[" * 5000, "{a=" * 5000, "''' a\n b = 3", "\0", "\udcff", "x" * 9000, '"\\u0000"'),
    *("true", "-1", "3", "0.5", "[1, 2]", "{type='mlm'}", "{}", "[]", "mlm", "run.toml", "\u0663"),
]
KEYS = ["type", "extends", "name", "0", "x" * 3000, "a\0", "config", "weight", "size", "frozen"]


def paths(value: object, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the key path of every value in nested tables."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, entry in entries:
        yield (*path, key)
        yield from paths(entry, (*path, key))


def mutated(base: dict[str, Any], known: list[Path_], random_: random.Random) -> dict[str, Any]:
    """Return the tables with one to three values replaced, added, removed or swapped."""
    tables = copy.deepcopy(base)
    for _ in range(random_.choice([1, 1, 2, 3])):
        *parents, last = random_.choice(known)
        inner: Any = tables
        try:
            for key in parents:
                inner = inner[key]
            action = random_.randrange(5)
            if action == 0:
                del inner[last]
            elif action == 1 and isinstance(inner[last], dict):
                inner[last][random_.choice(KEYS)] = copy.deepcopy(random_.choice(VALUES))
            elif action == 2:
                inner[last] = copy.deepcopy(inner[random_.choice(list(inner))])
            else:
                inner[last] = copy.deepcopy(random_.choice(VALUES))
        # What this path leads through is gone.
        except (KeyError, IndexError, TypeError):
            continue
    return tables


def outcome(arguments: list[str], plugins: Plugins) -> str:
    """Read a spec; return "refused", "read", or what is wrong."""
    try:
        spec = load_spec(arguments, plugins)
    except RenaissanceError as error:
        longest = max(str(error).splitlines(), key=len)
        return (
            "refused" if len(longest) <= MAX_LINE else f"a line of {len(longest)}: {longest[:99]}"
        )
    Path("written.toml").write_text(spec_to_toml(spec), encoding="utf-8")
    if load_spec(["written.toml"], plugins) != spec:
        return "reads back differently"
    return "read"


def main() -> None:
    """Mutate, read, and print how many behave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    random_ = random.Random(options.seed)
    plugins = load_plugins()
    Path("base.toml").write_text(TINY)
    written = tomli.loads(spec_to_toml(load_spec(["base.toml"], plugins)))
    known = list(paths(written))
    signal.signal(signal.SIGALRM, _time_is_up)
    counts: collections.Counter[str] = collections.Counter()
    done = 0
    while done < options.count:
        base = written if random_.random() < 0.5 else tomli.loads(TINY)
        tables = mutated(base, known, random_)
        limit = sys.get_int_max_str_digits()
        try:
            sys.set_int_max_str_digits(0)
            Path("mutated.toml").write_bytes(tomli_w.dumps(tables).encode())
        # Not every mutation can be written as TOML.
        except (ValueError, RecursionError, TypeError):
            continue
        finally:
            sys.set_int_max_str_digits(limit)
        done += 1
        signal.alarm(SECONDS)
        layers = random_.choice(
            [
                ["mutated.toml"],
                ["base.toml", "mutated.toml"],
                [
                    "base.toml",
                    f"{'.'.join(map(str, random_.choice(known)))}={random_.choice(TEXTS)}",
                ],
            ]
        )
        try:
            result = outcome(layers, plugins)
        # Whatever it is: a spec must not raise it.
        except BaseException as error:
            result = f"{type(error).__name__}: {str(error)[:99]}"
        finally:
            signal.alarm(0)
        if result not in ("read", "refused") and not counts[result]:
            Path(f"fault-{len(counts)}.toml").write_bytes(Path("mutated.toml").read_bytes())
            print(f"{result}: {Path.cwd()}/fault-{len(counts)}.toml {layers!r:.200}", flush=True)
        counts[result] += 1
    good = counts["read"] + counts["refused"]
    print(f"{counts['refused']} refused with a message, {counts['read']} read back equal")
    print(f"{good} of {done}")
    sys.exit(good != done)


def _time_is_up(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


if __name__ == "__main__":
    main()
