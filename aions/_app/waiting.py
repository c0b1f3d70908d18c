"""Waiting for descriptors that another task may close meanwhile."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import anyio

from aions._app.descriptor import Part
from aions._app.event_loop import running_loop


class Waiters:
    """The tasks that wait for a descriptor. One that is closed while they do keeps its number until they have gone.

    Otherwise the number could be another file's by then; and anyio, on asyncio, has a task that stops waiting for a number take
    away what was to wake whoever waits for the same one.
    """

    def __init__(self) -> None:
        self._app = os.getpid()
        self._count = 0
        self._closed = -1

    async def readable(self, number: int) -> None:
        """Wait until it can be read from."""
        await self._wait(anyio.wait_readable, number)

    async def writable(self, number: int) -> None:
        """Wait until it can be written to."""
        await self._wait(anyio.wait_writable, number)

    async def _wait(self, wait: Callable[[int], Awaitable[None]], number: int) -> None:
        if number < 0:
            raise anyio.ClosedResourceError
        self._count += 1
        try:
            await wait(number)
        finally:
            self._count -= 1
            if self._count == 0 and self._closed >= 0:
                os.close(self._closed)
                self._closed = -1

    def close(self, number: int) -> None:
        """Close it; tasks that wait raise `anyio.ClosedResourceError`. Nobody does in a fork of the app, or without a loop."""
        if self._count == 0 or os.getpid() != self._app or running_loop() is None:
            os.close(number)
        else:
            self._closed = number
            anyio.notify_closing(number)


class Awaited(Part):
    """A descriptor of a handle that tasks wait for."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._waiters = Waiters()

    async def readable(self) -> None:
        """Wait until it can be read from.

        Raises:
            anyio.ClosedResourceError: it is closed, or is closed meanwhile.
        """
        await self._waiters.readable(self.fileno())

    async def writable(self) -> None:
        """Wait until it can be written to, as `readable` does."""
        await self._waiters.writable(self.fileno())

    def close(self) -> None:
        if self._number >= 0:
            number, self._number = self._number, -1
            self._waiters.close(number)
