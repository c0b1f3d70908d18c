"""Files of a worker's mount namespace, in the hands of the app."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import IO, Any

import anyio
from anyio import AsyncFile, CapacityLimiter, from_thread, to_thread

from aions._app.link import Link
from aions._app.text import StrOrBytesPath, text
from aions._wire.messages import Opened, OpenFile

_MODE = 0o666
"""What the built-in `open` creates files with, less the umask."""


async def open_descriptor(worker: Link, path: StrOrBytesPath, flags: int, mode: int) -> int:
    """Open a file. The descriptor is the caller's."""
    return (await worker.call(OpenFile(text(path), flags, mode), Opened)).descriptor


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
    """Open a file as the built-in `open` does, which asks the worker for the descriptor."""
    if opener is not None:
        raise ValueError("an opener would open a file of the app's")
    worker.check_open()

    def open_there(path: str, flags: int) -> int:
        return from_thread.run(open_descriptor, worker, path, flags, _MODE)

    def open_here() -> IO[Any]:
        there = None if isinstance(file, int) else open_there
        return open(file, mode, buffering, encoding, errors, newline, closefd, there)

    return anyio.wrap_file(await to_thread.run_sync(open_here, limiter=limiter), limiter=limiter)
