"""Signals, without the module `signal`: the enums that it makes take longer than the rest of a worker to import."""

from __future__ import annotations

import os
from errno import EPERM, ESRCH

from aions._sys import libc
from aions._sys.calls import KernelError, call

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
else:
    import _signal as signal

KILL = int(signal.SIGKILL)

ALL = frozenset(map(int, signal.valid_signals())) - {KILL, int(signal.SIGSTOP)}
"""Those that a process may do something about."""

_FROM_TERMINALS = ("SIGINT", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGHUP")
_IGNORED = tuple([getattr(signal, name) for name in (*_FROM_TERMINALS, "SIGPIPE")])


def set_up() -> None:
    """Undo what the app ignores or blocks, which exec hands on, and ignore what concerns the app and its commands only."""
    for number in ALL:
        signal.signal(number, signal.SIG_DFL)
    libc.restore_internal_signals()
    ignore()


def ignore() -> None:
    """Ignore what concerns the app and its commands only, and block nothing.

    A worker can be in the app's process group, where a terminal sends to all; what it starts gets the defaults back.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def restore() -> None:
    """Have every signal do by default what it does, and none blocked: for a program that is to be executed."""
    for number in ALL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wake_by(descriptor: int, handler: Callable[[int, object], None]) -> bool:
    """Have SIGCHLD write a byte into a pipe, and call something; return whether that is how it was."""
    was = signal.signal(signal.SIGCHLD, handler), signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    return was == (handler, descriptor)


def wake_nobody() -> None:
    """Write no bytes: the pipe was another process's."""
    signal.set_wakeup_fd(-1)


def kill(pidfd: int) -> None:
    """Send SIGKILL by pidfd."""
    call(lambda: f"pidfd_send_signal({pidfd}, SIGKILL, NULL, 0)", signal.pidfd_send_signal, pidfd, KILL)


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL processes, of which some may be gone, or be another user's (a setuid program)."""
    for pid in pids:
        try:
            call(lambda: f"kill({pid}, SIGKILL)", os.kill, pid, KILL)  # noqa: B023
        except KernelError as error:
            if error.errno not in (ESRCH, EPERM):
                raise
