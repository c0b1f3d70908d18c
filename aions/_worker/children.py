"""What this process has started: reaped as it ends, ended when the app has let go of it.

Each child has a pipe to the app, the *lifeline*. Reaping writes the exit status into it. If instead the app closes its end (it
gave up waiting, or was killed), the child is killed: nothing that the app cannot reach goes on running.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

from aions._sys import proc as procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen


class Children:
    """The children that were asked for, by pid as this process counts."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._lifelines: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._commands: dict[int, Popen[bytes]] = {}

    def add(self, pid: int, lifeline: int, command: Popen[bytes] | None = None) -> None:
        """Look after a child. The lifeline is duplicated; killing the child is all that happens where that fails."""
        try:
            lifeline = os.dup(lifeline)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        self._lifelines[pid] = lifeline
        self._pids[lifeline] = pid
        if command is not None:
            self._commands[pid] = command
        self._poller.register(lifeline, 0)  # only POLLERR: nobody reads at the other end any more

    def let_go(self, lifeline: int) -> None:
        """Kill the child whose lifeline broke."""
        pid = self._pids.get(lifeline)
        if pid is not None:
            self._poller.unregister(lifeline)
            kill_all([pid])

    def reap(self) -> bool:
        """Collect whoever has ended, orphans that were adopted included; return whether a child of ours was among them."""
        ours = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ours
            if pid == 0:
                return ours
            ours |= self._report(pid, os.waitstatus_to_exitcode(status))

    def _report(self, pid: int, status: int) -> bool:
        lifeline = self._lifelines.pop(pid, None)
        if lifeline is None:
            return False
        command = self._commands.pop(pid, None)
        if command is not None:
            command.returncode = status
        del self._pids[lifeline]
        try:
            self._poller.unregister(lifeline)
        except KeyError:
            pass  # it was let go before
        try:
            os.write(lifeline, str(status).encode())
        except BrokenPipeError:
            pass
        os.close(lifeline)
        return True

    def strays(self, proc: int) -> list[int]:
        """Return the children that were never asked for: orphans of a worker that has ended."""
        return [pid for pid in procfs.children(proc, "self") if pid not in self._lifelines]


def descendants(proc: int, pid: int | str) -> list[int]:
    """Return all that descends from a process, the farthest last."""
    found = procfs.children(proc, pid)
    for child in found:  # grows as it goes
        found += procfs.children(proc, child)
    return found


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL processes, of which some may be gone, or be another user's (a setuid program)."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


MAX_ROUNDS = 100


def kill_descendants(proc: int, pid: int | str) -> None:
    """SIGKILL all that descends from a process, and what those started meanwhile."""
    killed: set[int] = set()
    for _ in range(MAX_ROUNDS):
        found = set(descendants(proc, pid)) - killed
        if not found:
            return
        kill_all(found)
        killed |= found
