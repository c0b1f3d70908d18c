"""For tests: programs of this directory as processes of their own, which can be killed, and whatever they leave behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import marks

ROOT = Path(__file__).parents[3]

BACKENDS = ("asyncio", "uvloop", "trio")

PATIENCE = 20
"""Seconds after which a program that should have said or done something is taken to hang."""


def wait_until(condition: Callable[[], object], seconds: float) -> float:
    """Wait until something holds, for so many seconds at the most; return how many it took."""
    start = time.monotonic()
    while not condition() and time.monotonic() - start < seconds:
        time.sleep(0.002)
    return time.monotonic() - start


def stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from the state on: state, parent, process group, session, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state(pid: int) -> str:
    """Return what a process does, as ps(1) has it: R, S, T, Z, …; X once it is gone."""
    try:
        return stat(pid)[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def parent(pid: int) -> int:
    return int(stat(pid)[1])


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombies(pid: int) -> list[int]:
    return [child for child in children(pid) if state(child) == "Z"]


class Program:
    """`python -m tests.kernel.programs.MODULE BACKEND SCENARIO …`, and all that it starts: found by its mark."""

    def __init__(
        self,
        backend: str,
        module: str,
        scenario: str,
        *arguments: object,
        python: Sequence[str] = ("-X", "dev", "-W", "error"),
        under: Sequence[str] = (),
        stdin: int | None = subprocess.PIPE,
    ) -> None:
        self._mark = marks.new_mark()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._unread = b""
        command = [sys.executable, *python, "-m", f"tests.kernel.programs.{module}", backend, scenario, *map(str, arguments)]
        with marks.bearing(self._mark):
            self.process = subprocess.Popen(
                [*under, *command], cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=self._stderr
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"stderr of the program: {self.stderr()}")
        self.process.kill()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def report(self) -> dict[str, Any]:
        """Return the next thing that the program reports."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._unread:
            ready = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, "the program says nothing"
            chunk = os.read(descriptor, 65536)
            assert chunk, "the program has ended without a word"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        reported: dict[str, Any] = json.loads(line)
        return reported

    def go_on(self) -> None:
        """Let a program that waits for `told_to_go_on` do so."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def stderr(self) -> str:
        """Return what the program wrote there, but for what asyncio's debug mode says of a machine that is busy."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("Executing <"))

    def end(self) -> int:
        """Wait for the end of the program and return its status."""
        return self.process.wait(PATIENCE)

    def left(self) -> set[int]:
        """Return the processes that bear the mark: the program itself, its forkserver, workers and commands. No zombies."""
        return marks.marked(self._mark)

    def left_after(self, seconds: float, but: int = 0) -> list[str]:
        """Return what is still there so many seconds later, by name; none as soon as there is none. `but` may live.

        All that a program starts holds its stdout. That is waited for first: a look at /proc could miss a process that ends
        just before it is looked at, and its child that begins just after.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            if not os.read(self.process.stdout.fileno(), 65536):
                break
        wait_until(lambda: not self.left() - {but}, deadline - time.monotonic())
        return [f"{pid} {state(pid)} {command(pid)}" for pid in self.left() - {but}]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
