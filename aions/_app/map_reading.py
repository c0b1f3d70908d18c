"""Reading id maps back, and what they say of an id."""

from __future__ import annotations

import os

from aions._app import credentials, id_maps, membership
from aions._app.id_maps import M
from aions._app.link import Link
from aions._types import Namespace

_EVERY_ID = 2**32 - 1


async def read(worker: Link, pid: int | None, file: str, kind: type[M]) -> list[M]:
    """Read the uid_map or gid_map of a process."""
    text = await credentials.contents(worker, pid, file)
    return credentials.parsed(lambda: id_maps.parse(text, kind))


async def translate(worker: Link, number: int, source: int | None, target: int | None, file: str, kind: type[M]) -> int | None:
    """Translate an id of one user namespace to that of another, by way of the app's."""
    outside = id_maps.outward(await _seen_by_app(worker, source, file, kind), number)
    return None if outside is None else id_maps.inward(await _seen_by_app(worker, target, file, kind), outside)


async def _seen_by_app(worker: Link, pid: int | None, file: str, kind: type[M]) -> list[M]:
    """Read a map with the app's ids outside.

    KERNEL: the map of the reader's own namespace shows those of its parent instead, so that one is not read.
    """
    if pid is None:
        pid = worker.child.pid
    its, ours = [await membership.get_namespace_id(worker, each, Namespace.USER) for each in (pid, os.getpid())]
    return [kind(0, 0, _EVERY_ID)] if its == ours else await read(worker, pid, file, kind)
