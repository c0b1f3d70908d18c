"""Signals, without the module `signal`: the enums that it makes take longer than the rest of a worker to import."""

from __future__ import annotations

import os
from errno import ENOENT, EPERM, ESRCH

from aions._sys import libc
from aions._sys.calls import KernelError, call

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import TypeVarTuple

    Ts = TypeVarTuple("Ts")
else:
    import _signal as signal

KILL = int(signal.SIGKILL)
STOP = int(signal.SIGSTOP)

ALL = frozenset(map(int, signal.valid_signals())) - {KILL, STOP}
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
        _unless_gone(lambda: f"kill({pid}, SIGKILL)", os.kill, pid, KILL)  # noqa: B023


def send_all(proc: int, pids: Iterable[int], number: int) -> list[int]:
    """The same by the pids of a /proc, which may not be those of this process, with any signal; return who has got it.

    KERNEL: a descriptor of /proc/PID serves as a pidfd here.
    """
    return [pid for pid in pids if _unless_gone(lambda: f"kill({pid}, {number})", _send, proc, pid, number)]  # noqa: B023


def _send(proc: int, pid: int, number: int) -> None:
    descriptor = os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _unless_gone(text: Callable[[], str], function: Callable[[*Ts], None], *arguments: *Ts) -> bool:
    try:
        call(text, function, *arguments)
    except KernelError as error:
        if error.errno not in (ENOENT, EPERM, ESRCH):
            raise
        return False
    return True
