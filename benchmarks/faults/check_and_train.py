"""Change each key of a small spec to wild values: `check` and `train` agree on whether it can run.

    python benchmarks/faults/check_and_train.py [KEY ...] [--seconds 30]

Each value is tried in processes of its own, with little memory. A run counts as under way once it
has logged two steps. Keys are named as on a command line, such as train.global_batch_size.
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import tomli
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.running import run_here, write_spec

from renaissance.commands.check import check_run
from renaissance.errors import RenaissanceError, describe
from renaissance.plugins.loading import load_plugins
from renaissance.spec import load_spec, spec_to_toml

NUMBERS = ["0", "1", "3", "7", "-1", "1000", "1000000000", "10000000000000000000", "0.5", "1e300"]
NUMBERS += ["1e-300", "nan", "inf"]
TEXTS = ['""', '"."', '"/proc/x"', '"/dev/null"', '"/dev/full/x"', '"\\u0000"', '"no such thing"']
TEXTS += ['"~"', '"mlm"', f'"{"x" * 300}"', f'"{"x/" * 3000}"']
OTHERS = ["true", "false", "[]", "{}", "[0]", '["x"]', '"auto"', '"none"']
# Of keys whose values are words; more come from the messages that refuse all the others.
WORDS = ["bf16", "fp16", "fp32", "tokens", "pixels", "cuda", "mps", "cpu", "sha256", "max", "never"]
WORDS += ["cosine", "constant", "sgd", "adam", "muon", "one-tower", "itc", "itm", "concat", "first"]
# Values of bytes; more than that is no small run.
MEMORY = 8 * 2**30


def keys(value: object, path: str = "") -> Iterator[str]:
    """Yield the key path of every value in nested tables."""
    entries = value.items() if isinstance(value, dict) else []
    if isinstance(value, list) and value and isinstance(value[0], dict):
        entries = enumerate(value)  # type: ignore[assignment]
    for key, entry in entries:
        yield f"{path}{key}"
        yield from keys(entry, f"{path}{key}.")


def in_a_process(
    function: Callable[[], int], log: Path, seconds: float, is_over: Callable[[], bool]
) -> str:
    """Run a function in a process of its own until it ends, or something is over."""
    process = os.fork()
    if process == 0:
        os.setsid()
        code = 70
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            try:
                code = function()
            except (RenaissanceError, MemoryError) as error:
                print(describe(error))
                code = 2
            except BaseException as error:
                print(f"{type(error).__name__}: {str(error)[:300]}")
            finally:
                sys.stdout.flush()
                os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not is_over():
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "runs", 2: "refused"}.get(code, f"fails ({code})")
        time.sleep(0.02)
    verdict = "runs" if is_over() else "hangs"
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return verdict


def verdicts(spec: Path, folder: Path, setting: str, seconds: float) -> dict[str, str]:
    """Return what `check` and `train` make of a setting."""
    plugins = load_plugins()
    arguments = [f"run.output_dir={folder}", "train.log_every=1", setting]

    def check() -> int:
        check_run(load_spec([str(spec), *arguments], plugins), 1)
        return 0

    def has_trained() -> bool:
        files = folder.rglob("metrics.jsonl")
        return any(len(file.read_text().splitlines()) > 1 for file in files)

    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    train = lambda: run_here(spec, folder, *arguments[1:])  # noqa: E731
    return {
        "check": in_a_process(check, folder / "check.log", seconds, lambda: False),
        "train": in_a_process(train, folder / "train.log", seconds, has_trained),
    }


def main() -> None:
    """Try each value, and print how often they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keys", nargs="*")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tried = agreed = 0
    with tempfile.TemporaryDirectory() as name:
        spec = write_spec(Path(name))
        tables = tomli.loads(spec_to_toml(load_spec([str(spec)], load_plugins())))
        for key in options.keys or list(keys(tables)):
            for value in [*NUMBERS, *TEXTS, *OTHERS, *map(json.dumps, WORDS)]:
                setting = f"{key}={value}"
                try:
                    load_spec([str(spec), setting], load_plugins())
                # Both read the spec in the same way.
                except RenaissanceError:
                    continue
                tried += 1
                folder = Path(name) / str(tried)
                folder.mkdir()
                found = verdicts(spec, folder, setting, options.seconds)
                # What takes both of them too long is left undecided.
                is_same = found["check"] == found["train"] and "fails" not in found["check"]
                agreed += is_same
                if not is_same:
                    print(f"{setting[:100]}: {found}", flush=True)
                    for log in ("check.log", "train.log"):
                        print(f"  {log}: {(folder / log).read_text()[-300:]!r}", flush=True)
    print(f"{agreed} of {tried}")
    sys.exit(agreed != tried)


if __name__ == "__main__":
    main()
