"""The app's ends of a command's pipes, as anyio streams on any event loop."""

from __future__ import annotations

import os

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from aions._app.event_loop import check_loop, running_loop
from aions._app.waiting import Awaited


class _PipeEnd:
    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._pipe = Awaited(descriptor)
        self._loop = running_loop()
        self._busy = anyio.ResourceGuard("using")

    def fileno(self) -> int:
        """Return the number of the descriptor, which remains this stream's; -1 once closed."""
        return self._pipe.fileno()

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once; a task that waits raises `anyio.ClosedResourceError`."""
        if self._pipe.fileno() >= 0:
            check_loop(self._loop, "the pipe of a command")
            self._pipe.close()

    def let_go(self) -> None:
        """Close in a fork of the app, which leaves the app's end alone."""
        self._pipe.close()

    def _check_open(self) -> None:
        if self._pipe.fileno() < 0:
            raise anyio.ClosedResourceError


class PipeReceiveStream(_PipeEnd, ByteReceiveStream):
    """What a command writes."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        check_loop(self._loop, "the pipe of a command")
        with self._busy:
            while True:
                self._check_open()
                await self._pipe.readable()
                self._check_open()
                try:
                    data = os.read(self._pipe.fileno(), max_bytes)
                except BlockingIOError:
                    continue
                if not data:
                    raise anyio.EndOfStream
                return data


class PipeSendStream(_PipeEnd, ByteSendStream):
    """What a command reads."""

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        check_loop(self._loop, "the pipe of a command")
        with self._busy:
            self._check_open()
            while view:
                await self._pipe.writable()
                self._check_open()
                try:
                    view = view[os.write(self._pipe.fileno(), view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise anyio.BrokenResourceError from error
