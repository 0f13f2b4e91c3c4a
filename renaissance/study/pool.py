"""Runs commands side by side, each on devices of its own, until all have ended or Ctrl-C."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from renaissance.engine.signals import StopRequest

POLL_SECONDS = 0.1
# A run that is asked to stop finishes its step and saves.
GRACE_SECONDS = 120


class Job(Protocol):
    """What the pool runs: commands that follow each other."""

    @property
    def name(self) -> str:
        """Its name, for those that wait for it."""

    @property
    def after(self) -> str | None:
        """The job that must succeed first."""

    @property
    def log(self) -> Path:
        """File that the output of its commands is appended to."""

    def next_command(self) -> Sequence[str] | None:
        """Return the arguments of `renaissance` to run next; None if there is nothing left."""

    def ended(self, command: Sequence[str], code: int) -> None:
        """Note how a command ended."""


@attrs.define
class _Running:
    job: Job
    devices: str | None
    command: Sequence[str]
    process: "subprocess.Popen[bytes]"


@attrs.define
class Pool:
    """A pool.

    Attributes:
        slots: For each command that may run at once, the value of CUDA_VISIBLE_DEVICES; None to
            leave it as it is.
        say: Prints a line.
        failed: The jobs that failed, or whose job before failed, with the reason.
    """

    slots: Sequence[str | None]
    say: Callable[[str], object]
    failed: dict[str, str] = attrs.field(factory=dict)

    def run(self, jobs: Sequence[Job]) -> int:
        """Run jobs, in order as far as slots are free and those before them have succeeded.

        Returns:
            0, 1 if a job failed, or 128 plus the signal that stopped all.
        """
        waiting, free = list(jobs), list(self.slots)
        running: list[_Running] = []
        unfinished = {job.name for job in jobs}
        with StopRequest() as stop:
            while (waiting or running) and not stop.is_made():
                for entry in [entry for entry in running if entry.process.poll() is not None]:
                    running.remove(entry)
                    if not self._goes_on(entry, running):
                        free.append(entry.devices)
                        unfinished.discard(entry.job.name)
                for job in [job for job in waiting if job.after not in unfinished]:
                    if job.after in self.failed:
                        waiting.remove(job)
                        unfinished.discard(job.name)
                        self._fail(job.name, f"{job.after}, which it starts from, failed")
                    elif free:
                        waiting.remove(job)
                        if not self._start(job, free[0], running):
                            unfinished.discard(job.name)
                        else:
                            free.pop(0)
                time.sleep(POLL_SECONDS)
            if stop.is_made():
                self._stop(running)
                return 128 + stop.signal
        return int(bool(self.failed))

    def _start(self, job: Job, devices: str | None, running: list[_Running]) -> bool:
        """Start a job's next command, if there is one."""
        command = job.next_command()
        if command is None:
            return False
        self.say(f"{job.name}: {command[0]}")
        running.append(_Running(job, devices, command, _process(command, job.log, devices)))
        return True

    def _goes_on(self, entry: _Running, running: list[_Running]) -> bool:
        """Return whether another command of the same job follows one that has ended."""
        code = entry.process.returncode
        entry.job.ended(entry.command, code)
        if code == 0:
            return self._start(entry.job, entry.devices, running)
        self._fail(entry.job.name, f"{entry.command[0]} ended with {code}; see {entry.job.log}")
        return False

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        self.say(f"{name}: failed: {reason}")

    def _stop(self, running: Sequence[_Running]) -> None:
        self.say("stopping: each run finishes its step and saves")
        for entry in running:
            _signal(entry.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for entry in running:
            try:
                entry.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(entry.process, signal.SIGKILL)
                entry.process.wait()


def _process(command: Sequence[str], log: Path, devices: str | None) -> "subprocess.Popen[bytes]":
    environment: Mapping[str, str] = os.environ
    if devices is not None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": devices}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # A group of its own, so that Ctrl-C reaches it once, from here.
        return subprocess.Popen(
            [sys.executable, "-m", "renaissance", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    # The ranks of a run are processes of its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
