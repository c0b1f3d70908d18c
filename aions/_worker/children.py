"""What this process has started: reaped as it ends, ended when the app has let go of it.

Each child has a pipe to the app, the *lifeline*. Reaping writes the exit status into it. If instead the app closes its end (it
gave up waiting, or was killed), the child is killed: nothing that the app cannot reach goes on running.
"""

from __future__ import annotations

import os
import time

from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import Log, note
from aions._worker import signals
from aions._worker.signals import kill_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from select import poll


_POLLIN = 1

_UNKNOWN = b"?"
"""Instead of an exit status, for a child that somebody else has collected."""


class Children:
    """The children that were asked for, by pid as this process counts. `sigchld` is ready once some may have ended.

    While a user's function runs, the loop stands still; then they, and no others, are collected by the signal's handler. That
    is when `in_function` is true, which it is not in a fork that the function makes.
    """

    def __init__(self, poller: poll) -> None:
        self.sigchld = -1
        self._sigchld_writer = -1
        self._poller = poller
        self._lifelines: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self.in_function: bool | None = None
        signals.wake_nobody()

    def expect(self) -> None:
        """Get ready for the first child: have SIGCHLD wake the loop, and adopt orphans."""
        if self.sigchld < 0:
            self.sigchld, self._sigchld_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signals.wake_by(self._sigchld_writer, self._on_sigchld)
            libc.become_subreaper()
            self._poller.register(self.sigchld, _POLLIN)

    def enter_function(self) -> None:
        """Get ready for a user's function."""
        self.expect()
        if self.in_function is None:
            os.register_at_fork(after_in_child=self._leave_to_parent)
        self.in_function = True
        self._collect_asked_for()  # those that have ended before the handler looked after them

    def leave_function(self) -> None:
        """Put right what a user's function may have changed."""
        self.in_function = False
        self._collect_asked_for()
        self.expect_again()

    def _leave_to_parent(self) -> None:
        """In a fork, which may have this process's pid in a pid namespace of its own: these children are not its own."""
        self.in_function = False

    def expect_again(self) -> None:
        """Have SIGCHLD wake the loop as before, and wake it for what it may have missed."""
        if not signals.wake_by(self._sigchld_writer, self._on_sigchld) or _one_has_ended():
            try:
                os.write(self._sigchld_writer, b"\0")
            except BlockingIOError:
                pass  # full, so it will wake

    def _on_sigchld(self, _number: int, _frame: object) -> None:
        if self.in_function:
            self._collect_asked_for()

    def _collect_asked_for(self) -> None:
        """Report and collect those that were asked for; the kernel has the status of whom a function has collected.

        The signal's handler may interrupt this at any point, and itself, and do the same: so one is first told, once, and then
        collected.
        """
        for pid in list(self._lifelines):
            try:
                if (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                    status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                    self._tell(pid, str(status).encode())
                    _wait_for(pid)
            except ChildProcessError:
                self._tell(pid, _UNKNOWN)

    def add(self, pid: int, lifeline: int) -> None:
        """Look after a child. The lifeline is duplicated; killing the child is all that happens where that fails."""
        try:
            lifeline = os.dup(lifeline)
        except OSError:
            kill_all([pid])
            raise
        self._lifelines[pid] = lifeline
        self._pids[lifeline] = pid
        self._poller.register(lifeline, 0)  # only POLLERR: nobody reads at the other end any more

    def let_go(self, lifeline: int, proc: int) -> None:
        """Kill the child whose lifeline broke, with what it has started: if the app is gone nobody else does."""
        pid = self._pids.get(lifeline)
        if pid is not None:
            self._poller.unregister(lifeline)
            try:
                kill_trees(proc, [_seen(proc, pid)])
            except OSError:  # no room for a descriptor
                kill_all([pid])

    def end(self, proc: int) -> None:
        """Kill all that this process has started, and collect it, before this process ends.

        KERNEL: who adopts it may be out of reach, as the first process of a pid namespace that was entered is, or be in no
        hurry to collect it, as many a machine's process 1.
        """
        if self.sigchld < 0:
            return
        try:
            kill_descendants(proc, "self")
        except OSError:
            kill_all(self._lifelines)
        deadline = time.monotonic() + _LAST_PATIENCE
        while _one_has_ended() is not None and time.monotonic() < deadline:
            time.sleep(_A_MOMENT)
            self.report(self.collect())

    def collect(self) -> list[tuple[int, int]]:
        """Collect whoever has ended, orphans that were adopted included; return their pids and exit statuses."""
        ended: list[tuple[int, int]] = []
        try:
            while (one := _wait_for(-1))[0]:
                ended.append(one)
        except ChildProcessError:
            pass
        return ended

    def report(self, ended: list[tuple[int, int]]) -> None:
        """Tell the app how children have ended; orphans it never asked for."""
        for pid, status in ended:
            self._tell(pid, str(status).encode())

    def _tell(self, pid: int, status: bytes) -> None:
        lifeline = self._lifelines.pop(pid, None)
        if lifeline is None:
            return
        del self._pids[lifeline]
        try:
            self._poller.unregister(lifeline)
        except KeyError:
            pass  # it was let go before
        try:
            os.write(lifeline, status)
        except BrokenPipeError:
            pass
        os.close(lifeline)

    def strays(self, proc: int) -> list[int]:
        """Return the children that were never asked for: orphans of a worker that has ended."""
        return [pid for pid in procfs.own_children(proc) if pid not in self._lifelines]


def _wait_for(which: int) -> tuple[int, int]:
    """Collect a child that has ended, this one or, for -1, any; return its pid and exit status, or 0 for both."""
    start = time.time()
    pid, status = os.waitpid(which, os.WNOHANG)
    if pid and Log.lines is not None:
        note(Log.lines, start, f"wait4({which}, [{status:#x}], WNOHANG, NULL) = {pid}")
    return pid, os.waitstatus_to_exitcode(status)


def _one_has_ended() -> bool | None:
    """Whether there is a child to collect; None if there is no child at all."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return None


def descendants(proc: int, pid: int | str) -> list[int]:
    """Return all that descends from a process, the farthest last."""
    found = procfs.children(proc, pid)
    for child in found:  # grows as it goes
        found += procfs.children(proc, child)
    return found


MAX_ROUNDS = 100

_PATIENCE = 0.1
"""Seconds in which a process that was sent SIGSTOP has stopped, unless it sleeps uninterruptibly in the kernel."""

_LAST_PATIENCE = 0.5
"""Seconds in which those that were sent SIGKILL have ended, unless they sleep so, or are another user's."""

_A_MOMENT = 0.0002


def kill_descendants(proc: int, pid: int | str) -> None:
    """SIGKILL all that descends from a process, and what those started meanwhile."""
    _kill(proc, lambda: descendants(proc, pid))


def kill_trees(proc: int, pids: Iterable[int]) -> None:
    """SIGKILL processes and all that descends from them."""
    pids = list(pids)
    _kill(proc, lambda: [*pids, *(found for pid in pids for found in descendants(proc, pid))])


def _kill(proc: int, find: Callable[[], list[int]]) -> None:
    """SIGKILL all that is found, once nothing new is.

    First they are stopped. One that ended, or went on, while others are looked at would hand its children on to a place that
    was looked at before, or (KERNEL: in a pid namespace that was entered) to one that is not looked at.
    """
    stopped: dict[int, None] = {}
    for _ in range(MAX_ROUNDS):
        found = [pid for pid in find() if pid not in stopped]
        if not found:
            break
        _stop(proc, found)
        stopped |= dict.fromkeys(found)
    signals.send_all(proc, reversed(stopped), signals.KILL)


def _stop(proc: int, pids: list[int]) -> None:
    """SIGSTOP processes, and wait until they have stopped or ended."""
    reached = signals.send_all(proc, pids, signals.STOP)
    deadline = time.monotonic() + _PATIENCE
    while not all(procfs.is_still(proc, pid) for pid in reached) and time.monotonic() < deadline:
        time.sleep(_A_MOMENT)


def _seen(proc: int, pid: int) -> int:
    """Return the pid that a child, which has not been collected, has in a /proc."""
    pidfd = os.pidfd_open(pid)
    try:
        return procfs.pid_of(proc, pidfd)
    finally:
        os.close(pidfd)
