"""To which event loop a handle belongs: what it waits for is watched there, and nowhere else."""

from __future__ import annotations

import os

from anyio.lowlevel import RunVar


class EventLoop:
    """Stands for an event loop, as long as there is a handle that belongs to it. It holds nothing of the loop."""

    def __init__(self) -> None:
        self._app = os.getpid()

    def is_elsewhere(self) -> bool:
        """Whether another event loop runs here. A fork of the app is none: what that may do is said elsewhere."""
        return running_loop() is not self and os.getpid() == self._app

    def check(self, what: str) -> None:
        """Refuse to use a handle in another event loop.

        Raises:
            RuntimeError: this is another one.
        """
        if self.is_elsewhere():
            raise RuntimeError(f"{what} belongs to another event loop: a handle is for the one that it was made in")


_running: RunVar[EventLoop] = RunVar("aions_event_loop")


def running_loop() -> EventLoop | None:
    """Return what stands for the running event loop; None where none runs."""
    try:
        loop = _running.get(None)
    except RuntimeError:
        return None
    if loop is None:
        loop = EventLoop()
        _running.set(loop)
    return loop


def check_loop(loop: EventLoop | None, what: str) -> None:
    """Refuse to use a handle in another event loop than its own; one that was made outside of any may be used in all."""
    if loop is not None and running_loop() is not loop:
        loop.check(what)
