"""A SLURM of one node, unpacked from Debian's packages without installing them."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = (
    *("slurm-client", "slurmctld", "slurmd", "slurm-wlm-basic-plugins", "libslurm38"),
    *("libmunge2", "libhwloc15", "libpmix2", "liblua5.3-0", "libjson-c5", "libhttp-parser2.9"),
    *("libyaml-0-2", "libjwt0", "libltdl7", "libipmimonitoring6", "libfreeipmi17"),
)
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
PluginDir={library}/slurm-wlm
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort=26817
SlurmdPort=26818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, and give the environment in which `sbatch` and `squeue` find it."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("unpacking and starting SLURM needs Debian and root")
    download = ["apt-get", "download", *PACKAGES]
    if subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("Debian's packages of SLURM cannot be downloaded")
    root, host = folder / "root", socket.gethostname().partition(".")[0]
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    library = root / "usr/lib/x86_64-linux-gnu"
    text = CONFIGURATION.format(host=host, library=library, folder=folder)
    (folder / "slurm.conf").write_text(text)
    environment = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "LD_LIBRARY_PATH": f"{library}:{library / 'slurm-wlm'}",
        "PATH": f"{root / 'usr/bin'}:{os.environ['PATH']}",
    }
    programs = root / "usr/sbin"
    with contextlib.ExitStack() as stack:
        for command in (
            [programs / "slurmctld-wlm", "-D"],
            [programs / "slurmd-wlm", "-D", "-d", programs / "slurmstepd-wlm"],
        ):
            daemon = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            time.sleep(2)
        yield environment


def wait_until_empty(environment: dict[str, str], seconds: float) -> None:
    """Wait until no job is left in the queue."""
    deadline = time.monotonic() + seconds
    while subprocess.check_output(["squeue", "--noheader"], env=environment):
        assert time.monotonic() < deadline, "jobs are left in the queue"
        time.sleep(1)
