"""How a command ends, and with it this process."""

from __future__ import annotations

import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import NoReturn

from aions._cli import signals


@dataclass(frozen=True)
class Ended:
    """How a command has ended: its exit status, or the signal, as a negative number."""

    returncode: int

    def leave_likewise(self) -> NoReturn:
        """End this process the same way: with the same status, or by the same signal (without a core of its own)."""
        if self.returncode < 0:
            number = -self.returncode
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
        sys.exit(self.returncode if self.returncode >= 0 else 128 - self.returncode)


@dataclass(frozen=True)
class Ending:
    """A process that a command is to survive, and the signal that tells the command when it has ended."""

    pidfd: int
    signal: int


def survive(number: int) -> Ending:
    """Fork, and return in the child only: the parent, which the user has started, waits for it and ends likewise.

    So there is a process left that can send the command this signal when somebody kills the one that the user knows.
    """
    signals.hold(signal.SIGCHLD)
    parent = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        _waited_for(child).leave_likewise()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return Ending(parent, number)


def _waited_for(child: int) -> Ended:
    while True:
        arrived = signal.sigwaitinfo({*signals.HELD, signal.SIGCHLD})
        if arrived.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                if signals.stop():
                    os.kill(child, signal.SIGCONT)
            elif pid:
                return Ended(os.waitstatus_to_exitcode(status))
            continue
        if not signals.is_terminals(arrived.si_code):
            os.kill(child, arrived.si_signo)
        if arrived.si_signo == signal.SIGTSTP:
            signals.stop()
