"""The session that a worker leads, so that what it starts is not in the app's, and the terminal of that session.

Commands there have process groups of their own. Their parent, the worker, is in the same session and in another group, as a
shell is: so the kernel does not take them for orphaned, and stops them as it stops the jobs of a shell.
"""

from __future__ import annotations

import fcntl
import os
from errno import EPERM, ESRCH

from aions._sys import terminals
from aions._sys.calls import KernelError, call
from aions._wire.messages import Done, LeadSession, SetForeground
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers


class Session:
    """What a worker knows of the session that it leads: its terminal, or -1, and the last command, or 0.

    `foreground` says whether a command is to be there.
    """

    def __init__(self) -> None:
        self.terminal = -1
        self.command = 0
        self.foreground = False


def lead_session(server: Server, request: LeadSession) -> Done:
    call(lambda: "setsid()", os.setsid)
    session = Session()
    if request.terminal:
        terminals.take_as_controlling(request.terminal[0])
        session.terminal = fcntl.fcntl(request.terminal[0], fcntl.F_DUPFD_CLOEXEC, 3)
        session.foreground = request.foreground
    server.session = session
    return Done()


def set_foreground(server: Server, request: SetForeground) -> Done:
    """Put the last command, or this worker, into the foreground. Where a command has put another group there, that stays."""
    session = server.session
    if session is not None and session.terminal >= 0:
        session.foreground = request.command
        own = os.getpgrp()
        if not request.command:
            _set_foreground(session.terminal, own)
        elif session.command and os.tcgetpgrp(session.terminal) == own:
            _set_foreground(session.terminal, session.command)
    return Done()


def _set_foreground(terminal: int, group: int) -> None:
    """KERNEL: from the background it takes SIGTTOU being ignored, as it is in a worker."""
    try:
        call(lambda: f"tcsetpgrp({terminal}, {group})", os.tcsetpgrp, terminal, group)
    except KernelError as error:
        if error.errno not in (EPERM, ESRCH):  # the group is gone
            raise


def come_to_foreground(terminal: int) -> None:
    """Do, in the fork that becomes a command, what the worker could do too late: it may want to read at once."""
    call(lambda: "setpgid(0, 0)", os.setpgid, 0, 0)
    call(lambda: f"tcsetpgrp({terminal}, {os.getpid()})", os.tcsetpgrp, terminal, os.getpid())


HANDLERS: Handlers = {"LeadSession": lead_session, "SetForeground": set_foreground}
