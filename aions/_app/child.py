"""A process that a worker has started, as the app holds it."""

from __future__ import annotations

import os
import re
import signal

import anyio

from aions._app.descriptor import Descriptor

_STATUS = re.compile(rb"-?[0-9]{1,3}")


class Lifeline:
    """A pipe to a child's parent: the exit status comes out of it; letting go of it kills the child."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.ours = Descriptor(ours)
        self.theirs = Descriptor(theirs)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Child:
    """Owns the pidfd and the lifeline of a process. `pid` is what the app sees, whatever namespace the process is in."""

    def __init__(self, pid: int, pidfd: int, lifeline: Descriptor) -> None:
        self.pid = pid
        self.pidfd = Descriptor(pidfd)
        self._lifeline = lifeline
        self._app = os.getpid()
        self._waiting = anyio.Lock()
        self._waiting_for_end = anyio.Lock()
        self._status: int | None = None
        self._complete = False

    def poll(self) -> int | None:
        """Return the exit status if it has come (negative: a signal), without waiting."""
        if not self._complete and self._lifeline.fileno() >= 0:
            try:
                text = os.read(self._lifeline.fileno(), 16)
            except BlockingIOError:
                return None
            self._complete = True
            self._status = int(text) if _STATUS.fullmatch(text) else None
        return self._status

    @property
    def has_ended(self) -> bool:
        """Whether an exit status has come, or can come no more."""
        self.poll()
        return self._complete

    async def wait(self) -> int | None:
        """Wait for the exit status; None where whoever should have collected it ended as well."""
        async with self._waiting:
            while not self._complete:
                if self._lifeline.fileno() < 0:
                    raise anyio.ClosedResourceError
                await anyio.wait_readable(self._lifeline)
                self.poll()
        return self._status

    async def wait_ended(self) -> None:
        """Wait until the process has ended, whether or not anybody has collected it."""
        async with self._waiting_for_end:
            await anyio.wait_readable(self.pidfd)

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that had it started, and not a fork of that."""
        return os.getpid() == self._app

    def signal(self, number: int) -> None:
        """Send a signal; do nothing if the process has ended."""
        if not self.is_ours:
            raise RuntimeError(f"process {self.pid} was started by process {self._app}; this is a fork of it")
        try:
            signal.pidfd_send_signal(self.pidfd.fileno(), number)
        except ProcessLookupError:
            pass

    def stop_waiting(self) -> None:
        """Make tasks that wait raise `anyio.ClosedResourceError`, before `close`."""
        if self._lifeline.fileno() >= 0:
            anyio.notify_closing(self._lifeline)

    def close(self) -> None:
        """Close the descriptors. Needs no running loop."""
        self.pidfd.close()
        self._lifeline.close()
