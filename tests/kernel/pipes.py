"""Pipes between a test and the commands that it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

import anyio

from tests.kernel.targets import PATIENCE


@contextmanager
def open_pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Open a pipe, of which a test may close either end before; reading from it does not block."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with FileIO(read, "r") as reader, FileIO(write, "w") as writer:
        yield reader, writer


async def read_all(reader: FileIO) -> bytes:
    """Read until all who could write have closed."""
    chunks = []
    with anyio.fail_after(PATIENCE):
        while True:
            await anyio.wait_readable(reader)
            chunks.append(os.read(reader.fileno(), 65536))
            if not chunks[-1]:
                return b"".join(chunks)
