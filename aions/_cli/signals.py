"""The signals that are meant for the command: held from before it starts, so that none of them ends this process instead."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio

from aions._sys.signalfd import SI_KERNEL, open_signalfd, receive

_OWN = {
    *(signal.SIGKILL, signal.SIGSTOP),  # cannot be held
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS),  # own faults
    *(signal.SIGCHLD, signal.SIGPIPE),  # own doings
    *(signal.SIGTTIN, signal.SIGTTOU),  # the terminal's, for whoever uses it out of turn
}
HELD = frozenset(map(int, signal.valid_signals() - _OWN))


def hold(*others: int) -> None:
    """Block them, and others. What is executed from here on inherits that; workers undo it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*HELD, *others})


def is_terminals(code: int) -> bool:
    """Whether a terminal has sent a signal, and so to all processes of a group. `kill` can send the same to one."""
    return code == SI_KERNEL


async def arriving() -> AsyncGenerator[tuple[int, int], None]:
    """Yield number and `si_code` of each signal that arrives while they are held."""
    descriptor = open_signalfd(HELD)
    try:
        while True:
            await anyio.wait_readable(descriptor)
            arrived = receive(descriptor)
            if arrived is not None:
                yield arrived
    finally:
        os.close(descriptor)


def stop() -> bool:
    """Stop as Ctrl-Z does, until a SIGCONT; return False at once where nobody is there to send it.

    KERNEL: that nobody is there makes the process group an orphaned one, which Ctrl-Z does not stop. But a command of ours is a
    child of a worker, which is in another group of the session, and so the kernel never takes ours for orphaned.
    """
    if not _has_shell():
        return False
    os.kill(os.getpid(), signal.SIGSTOP)
    return True


def _has_shell() -> bool:
    """Whether the nearest ancestor that is not in our process group is in our session, as a shell with job control is."""
    group, session = os.getpgrp(), os.getsid(0)
    pid = os.getppid()
    try:
        while os.getpgid(pid) == group:
            pid = int(stat_of(pid)[1])
        return os.getsid(pid) == session
    except OSError:
        return False  # it ends at this very moment, or is in a pid namespace outside of ours


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a signal and not by a tracer."""
    try:
        return stat_of(pid)[0] == "T"
    except OSError:
        return False  # it has ended


def stat_of(pid: int) -> list[str]:
    """Return what /proc says of a process after its name: the state, the parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
