"""Where a worker's paths begin, and what its machine is called: a system call for each function."""

from __future__ import annotations

from aions._app.link import Link
from aions._app.text import StrOrBytesPath, text
from aions._wire.messages import ChangeDirectory, ChangeRoot, Done, PivotRoot, SetDomainName, SetHostName


async def pivot_root(worker: Link, new_root: StrOrBytesPath, put_old: StrOrBytesPath | None) -> None:
    """Call pivot_root(2)."""
    request = PivotRoot(text(new_root), None if put_old is None else text(put_old))
    worker.changes_root()
    await worker.call(request, Done)


async def chroot(worker: Link, path: StrOrBytesPath) -> None:
    """Call chroot(2)."""
    request = ChangeRoot(text(path))
    worker.changes_root()
    await worker.call(request, Done)


async def chdir(worker: Link, path: StrOrBytesPath) -> None:
    """Call chdir(2)."""
    request = ChangeDirectory(text(path))
    worker.moved = True
    await worker.call(request, Done)


async def sethostname(worker: Link, name: str) -> None:
    """Call sethostname(2)."""
    await worker.call(SetHostName(text(name)), Done)


async def setdomainname(worker: Link, name: str) -> None:
    """Call setdomainname(2)."""
    await worker.call(SetDomainName(text(name)), Done)
