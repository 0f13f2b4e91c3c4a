"""Two nodes on one machine: network namespaces that a virtual cable connects, with their own names.

It needs root and iproute2; a test is skipped where they are not there.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from support.killing import descendants
from support.running import environment

NODES = ("node-a", "node-b")
PORT = "29511"


@attrs.frozen
class Cable:
    """The cable between the nodes.

    Attributes:
        name: Prefix of the namespaces and devices.
    """

    name: str

    def device(self, node: int) -> str:
        """Return the network device of a node."""
        return f"{self.name}-{node}"

    def inside(self, node: int) -> list[str]:
        """Return a command line to be followed by one that is to run on a node."""
        return ["ip", "netns", "exec", self.device(node)]

    def switch(self, state: str) -> None:
        """Connect the nodes ("up"), or cut the cable ("down")."""
        for node in range(2):
            run(*self.inside(node), "ip", "link", "set", self.device(node), state)


@contextlib.contextmanager
def two_nodes() -> Iterator[Cable]:
    """Make the nodes, and remove them in the end."""
    cable = Cable(f"rn{os.getpid() % 10**6}")
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("network namespaces need root and iproute2")
    try:
        run("ip", "netns", "add", cable.device(0))
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces are not allowed here")
    with contextlib.ExitStack() as stack:
        stack.callback(run, "ip", "netns", "delete", cable.device(0))
        run("ip", "netns", "add", cable.device(1))
        stack.callback(run, "ip", "netns", "delete", cable.device(1))
        ends = [cable.device(node) for node in range(2)]
        run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for node in range(2):
            run("ip", "link", "set", ends[node], "netns", ends[node])
            inside, address = cable.inside(node), f"10.77.0.{node + 1}/24"
            run(*inside, "ip", "addr", "add", address, "dev", ends[node])
            run(*inside, "ip", "link", "set", "lo", "up")
        cable.switch("up")
        yield cable


@attrs.frozen
class Launched:
    """torchrun on both nodes, with two ranks on each.

    Attributes:
        processes: The process of each node.
        printed: The file with what each prints.
    """

    processes: Sequence["subprocess.Popen[bytes]"]
    printed: Sequence[Path]

    @classmethod
    def of(cls, cable: Cable, folders: Sequence[Path], arguments: Sequence[str]) -> "Launched":
        """Start it, each node in its own working directory."""
        processes, printed = [], []
        for node, folder in enumerate(folders):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
            launcher += ["--node-rank", str(node), "--nproc-per-node", "2"]
            launcher += ["--master-addr", "10.77.0.1", "--master-port", PORT, "-m", "renaissance"]
            named = ["unshare", "--uts", "sh", "-c", 'hostname $0; exec "$@"', NODES[node]]
            path = folder / f"printed-{node}"
            with path.open("w") as file:
                process = subprocess.Popen(
                    [*cable.inside(node), *named, *launcher, *arguments],
                    cwd=folder,
                    env=environment(GLOO_SOCKET_IFNAME=cable.device(node)),
                    stdout=file,
                    stderr=file,
                )
            processes.append(process)
            printed.append(path)
        return cls(processes, printed)

    def pid_of(self, rank: int) -> int:
        """Return the process of a rank."""
        for pid in descendants(self.processes[rank // 2].pid):
            with contextlib.suppress(OSError):
                if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                    return pid
        raise AssertionError(f"rank {rank} is not running")

    def text(self) -> str:
        """Return what both have printed."""
        return "\n".join(path.read_text() for path in self.printed)

    def seconds_to_end(self, patience: float) -> float:
        """Wait until both processes, and all that they have started, are gone."""
        started = time.monotonic()
        pids = [pid for process in self.processes for pid in descendants(process.pid)]
        pids += [process.pid for process in self.processes]
        while True:
            ended = [process.poll() is not None for process in self.processes]
            seconds = time.monotonic() - started
            if all(ended) and not any(Path(f"/proc/{pid}").exists() for pid in pids):
                return seconds
            assert seconds < patience, f"still there after {seconds:.0f} s:\n{self.text()}"
            time.sleep(0.5)


def run(*command: str) -> None:
    """Run a command that must work."""
    subprocess.run(command, check=True, capture_output=True)
