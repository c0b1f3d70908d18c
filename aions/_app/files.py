"""Files of a worker's mount namespace, in the hands of the app."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from os import PathLike
from typing import IO, Any, NoReturn

import anyio
from anyio import AsyncFile, CapacityLimiter, to_thread

from aions._app import apart
from aions._app.link import Link
from aions._app.text import StrOrBytesPath, text
from aions._app.unwanted import close_unwanted, opened_in_thread
from aions._wire.messages import Opened, OpenFile

_MODE = 0o666
"""What the built-in `open` creates files with, less the umask."""


async def open_descriptor(worker: Link, path: StrOrBytesPath, flags: int, mode: int) -> int:
    """Open a file. The descriptor is the caller's."""
    name = text(path)
    return (await apart.call(worker, lambda may_wait: OpenFile(name, flags, mode, may_wait), Opened)).descriptor


async def open_file(
    worker: Link,
    file: str | PathLike[str] | int,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Callable[[str, int], int] | None,
    limiter: CapacityLimiter | None,
) -> AsyncFile[Any]:
    """Open a file as the built-in `open` does, with a descriptor that the worker has opened."""
    if opener is not None:
        raise ValueError("an opener would open a file of the app's")
    worker.check_open()

    def opened(opener: Callable[[str, int], int] | None) -> IO[Any]:
        return open(file, mode, buffering, encoding, errors, newline, closefd, opener)

    if isinstance(file, int):
        return anyio.wrap_file(await to_thread.run_sync(opened, None, limiter=limiter), limiter=limiter)
    descriptor = await open_descriptor(worker, *_asked_for(opened), _MODE)
    lock, taken, closed = threading.Lock(), False, False

    def take(_path: str, _flags: int) -> int:
        nonlocal taken
        with lock:
            if closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            taken = True
        return descriptor

    try:
        return anyio.wrap_file(
            await opened_in_thread(lambda: opened(take), lambda file: file.close(), limiter), limiter=limiter
        )
    finally:
        with lock:  # the thread goes on where the call was cancelled
            closed = not taken
            if closed:
                close_unwanted([descriptor])


class _Asked(Exception):
    """An opener was asked for a descriptor."""


def _asked_for(opened: Callable[[Callable[[str, int], int]], object]) -> tuple[str, int]:
    """Return the path and the flags for which the built-in `open` asks an opener."""

    def ask(path: str, flags: int) -> NoReturn:
        raise _Asked(path, flags)

    try:
        opened(ask)
    except _Asked as asked:
        path, flags = asked.args
        return path, flags
    raise AssertionError("open() opens nothing by itself where there is an opener")
