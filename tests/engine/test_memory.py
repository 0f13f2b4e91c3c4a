"""How a process treats memory."""

import os
import platform
import subprocess
import sys

import pytest
from support.command_line import renaissance

# Prints how often the system had to provide a page while 64 MiB were taken and freed once more.
TAKE_AGAIN = """
import resource
import torch
from renaissance.engine.memory import keep_freed_memory

def take():
    return torch.empty(2**24).fill_(1)

keep_freed_memory(torch.device("{device}"))
for _ in range(16):
    take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is set")
def test_what_a_step_has_freed_is_there_for_the_next_one_on_a_cpu():
    def page_faults(device):
        script = TAKE_AGAIN.format(device=device)
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "", "PYTHONPATH": ":".join(sys.path)},
        )
        return int(done.stdout)

    num_pages = 2**26 // 4096
    assert page_faults("cpu") < num_pages / 100
    # A process that computes on a GPU is left as it is.
    assert page_faults("cuda") > num_pages / 2


def test_a_command_asks_pytorch_for_huge_pages_unless_the_user_has_chosen(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert renaissance("--help").code == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    assert renaissance("--help").code == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
