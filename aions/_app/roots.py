"""Where a worker's paths begin, and what its machine is called: a system call for each function."""

from __future__ import annotations

import os
from collections.abc import Callable

from aions._app import apart
from aions._app.link import Link
from aions._app.text import StrOrBytesPath, text
from aions._wire.messages import (
    ChangeDirectory,
    ChangeRoot,
    Done,
    Opened,
    OpenFile,
    PivotRoot,
    Request,
    SetDomainName,
    SetHostName,
)

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


async def pivot_root(worker: Link, new_root: StrOrBytesPath, put_old: StrOrBytesPath | None) -> None:
    """Call pivot_root(2)."""
    root, old = text(new_root), None if put_old is None else text(put_old)
    worker.changes_root()
    await _call(worker, root, lambda given: PivotRoot(root, old, given))


async def chroot(worker: Link, path: StrOrBytesPath) -> None:
    """Call chroot(2)."""
    root = text(path)
    worker.changes_root()
    await _call(worker, root, lambda given: ChangeRoot(root, given))


async def chdir(worker: Link, path: StrOrBytesPath) -> None:
    """Call chdir(2)."""
    directory = text(path)
    worker.moved = True
    await _call(worker, directory, lambda given: ChangeDirectory(directory, given))


async def _call(worker: Link, directory: str, request: Callable[[tuple[int, ...]], Request]) -> None:
    """Ask for something about a directory; where it may take long to look that up, have that done apart."""
    asked = request(())
    if await apart.at_once(worker, asked, Done) is not None:
        return
    descriptor = await _opened(worker, directory, asked)
    try:
        await worker.call(request((descriptor,)), Done)
    finally:
        os.close(descriptor)


async def _opened(worker: Link, directory: str, asked: Request) -> int:
    """Open a directory, however long it takes: in a fork, unless that would be the first process of a pid namespace."""
    if worker.next_child_is_first:
        return (await worker.call(OpenFile(directory, _DIRECTORY, 0, may_wait=True), Opened)).descriptor
    fork = await worker.fork()
    try:
        await fork.call(ChangeDirectory(directory, (), may_wait=True), Done, asked, worker)
        return (await fork.call(OpenFile(".", _DIRECTORY, 0, may_wait=True), Opened, asked, worker)).descriptor
    finally:
        await fork.aclose()


async def sethostname(worker: Link, name: str) -> None:
    """Call sethostname(2)."""
    await worker.call(SetHostName(text(name)), Done)


async def setdomainname(worker: Link, name: str) -> None:
    """Call setdomainname(2)."""
    await worker.call(SetDomainName(text(name)), Done)
