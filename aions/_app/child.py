"""A process that a worker has started, as the app holds it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
from contextlib import suppress

import anyio

from aions._app.descriptor import Part
from aions._app.event_loop import check_loop, running_loop
from aions._app.waiting import Awaited

_STATUS = re.compile(rb"-?[0-9]{1,3}")

_PIDFD_GET_INFO = 0xC040FF0B
_INFO = "=Q52xi"
"""Of a struct pidfd_info: what is filled in, and the wait status."""
_EXIT = 8

_REAPING = 0.1
"""Seconds to wait until somebody has collected a process that has ended: before that the kernel does not say how it did.

Where the forkserver has ended as well that is up to the machine's process 1, and not every one is in a hurry.
"""


def _kept_status(pidfd: int) -> int | None:
    """Return the exit status that the kernel keeps for the pidfds of a process; None until that is collected.

    Raises:
        OSError: it keeps none (before Linux 6.15).
    """
    mask, status = struct.unpack(_INFO, fcntl.ioctl(pidfd, _PIDFD_GET_INFO, struct.pack(_INFO, _EXIT, 0)))
    return os.waitstatus_to_exitcode(status) if mask & _EXIT else None


class Lifeline:
    """A pipe to a child's parent: the exit status comes out of it; letting go of it kills the child."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.ours = Awaited(ours)
        self.theirs = Part(theirs)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Child:
    """Owns the pidfd and the lifeline of a process. `pid` is what the app sees, whatever namespace the process is in.

    `is_orphan` is set once it shows that the process that had started it has ended before it.
    """

    def __init__(self, pid: int, pidfd: int, lifeline: Awaited) -> None:
        self.pid = pid
        self.pidfd = Awaited(pidfd)
        self._lifeline = lifeline
        self._app = os.getpid()
        self._loop = running_loop()
        self._waiting = anyio.Lock()
        self._waiting_for_end = anyio.Lock()
        self._status: int | None = None
        self._complete = False
        self._asked = False
        self.is_orphan = False

    def poll(self) -> int | None:
        """Return the exit status if it has come (negative: a signal), without waiting."""
        if not self._complete and self._lifeline.fileno() >= 0:
            try:
                text = os.read(self._lifeline.fileno(), 16)
            except BlockingIOError:
                return None
            self._complete = True
            self.is_orphan = not text
            self._status = int(text) if _STATUS.fullmatch(text) else None
        return self._status

    @property
    def has_ended(self) -> bool:
        """Whether an exit status has come, or can come no more."""
        self.poll()
        return self._complete

    async def wait(self) -> int | None:
        """Wait for the exit status; None where nobody can tell it: it is an orphan, and the kernel is older than Linux 6.15."""
        self.check_loop()
        async with self._waiting:
            while not self.has_ended:
                await self._lifeline.readable()
            if self._status is None and not self._asked:
                self._status = await self._kept()
                self._asked = True
        return self._status

    async def _kept(self) -> int | None:
        """Have the kernel tell the status that did not come. A process that nobody looks after any more is ended first."""
        with suppress(PermissionError):  # another user's by now: it ends when it likes
            self.signal(signal.SIGKILL)
        await self.wait_ended()
        with anyio.move_on_after(_REAPING), suppress(OSError):
            while True:
                if self.pidfd.fileno() < 0:
                    raise anyio.ClosedResourceError
                if (status := _kept_status(self.pidfd.fileno())) is not None:
                    return status
                await anyio.sleep(0.001)  # no descriptor tells
        return None

    async def wait_ended(self) -> None:
        """Wait until the process has ended, whether or not anybody has collected it."""
        self.check_loop()
        async with self._waiting_for_end:
            await self.pidfd.readable()

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that had it started, and not a fork of that."""
        return os.getpid() == self._app

    def signal(self, number: int) -> None:
        """Send a signal; do nothing if the process has ended, or this was closed."""
        if not self.is_ours:
            raise RuntimeError(f"process {self.pid} was started by process {self._app}; this is a fork of it")
        if self.pidfd.fileno() >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd.fileno(), number)

    def check_loop(self) -> None:
        """Refuse to work in another event loop."""
        check_loop(self._loop, f"process {self.pid}")

    def close(self) -> None:
        """Close the descriptors; tasks that wait raise `anyio.ClosedResourceError`. Needs no running loop."""
        self.pidfd.close()
        self._lifeline.close()
