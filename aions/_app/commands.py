"""What the app holds of the commands that a worker runs: without their lifelines these would be killed."""

from __future__ import annotations

from aions._app.child import Child
from aions._app.pipes import PipeReceiveStream, PipeSendStream

Pipes = tuple[PipeSendStream | PipeReceiveStream | None, ...]

_FEW = 16
"""Left commands of which it is not worth while to look whether some have ended."""


class Commands:
    """The commands of one worker, held until their handles are closed, or, if nobody keeps these, until the worker ends.

    What has ended by itself is let go when others are started: so that it does not pile up, and no task is kept for it.
    """

    def __init__(self) -> None:
        self._held: dict[Child, Pipes] = {}
        self._left: list[Child] = []
        self._many = _FEW

    def add(self, child: Child, *pipes: PipeSendStream | PipeReceiveStream | None) -> None:
        """Hold a command, and its pipes."""
        if len(self._left) >= self._many:
            self._let_go_of_ended()
        self._held[child] = pipes

    def remove(self, child: Child) -> None:
        """Hold a command no longer: its handle has closed it."""
        self._held.pop(child, None)

    def leave(self, child: Child) -> bool:
        """Take a command over from its handle, which nobody keeps; return whether the worker is still there to run it."""
        if child not in self._held:
            return False
        self._left.append(child)
        return True

    def _let_go_of_ended(self) -> None:
        left, self._left = self._left, []  # what is collected as garbage meanwhile is appended to the new one
        for child in left:
            if child.has_ended:
                child.close()
                self._held.pop(child, None)
            else:
                self._left.append(child)
        self._many = _FEW + 2 * len(self._left)

    def close(self) -> None:
        """Let go of all, since the worker ends. Those that have handles can still be asked how they ended."""
        left, self._left = self._left, []
        self._held.clear()
        for child in left:
            child.close()
