"""A session for what a worker runs, and a terminal for it."""

from __future__ import annotations

from aions._app.link import Link
from aions._wire.messages import Done, LeadSession, SetForeground


async def lead_session(worker: Link, terminal: int | None, foreground: bool) -> None:
    """Have a worker lead a session, which its commands are in from then on, each in a process group of its own.

    Args:
        worker: which; it must not have started anything that is to stay in its session.
        terminal: the slave of a pseudo-terminal, which becomes that of the session; None if it shall have none.
        foreground: whether a command starts in the foreground of the terminal. One in the background is stopped when it
            reads (SIGTTIN).
    """
    await worker.call(LeadSession(foreground, () if terminal is None else (terminal,)), Done)


async def set_foreground(worker: Link, command: bool) -> None:
    """Put the last command, or else the worker itself, into the foreground of the session's terminal."""
    await worker.call(SetForeground(command), Done)
