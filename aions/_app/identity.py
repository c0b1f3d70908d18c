"""Writing id maps: done by whichever process the kernel lets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from aions._app.connection import Connection
from aions._app.link import Link
from aions._types import GroupMapping, UserMapping, map_text
from aions._wire.messages import Done, WriteMap


async def write(
    worker: Link, pid: int | None, file: str, mappings: Iterable[UserMapping], deny_setgroups: bool = False
) -> None:
    """Write one map of a process, of the worker itself where pid is None.

    KERNEL: the writer must be in the namespace itself or in its parent, and it is the opener's namespace that counts. From the
    parent it may map what it has the capability for; from inside, one id at the most. So the forkserver tries first, then the
    workers that this one was forked from, then the worker itself. A refused write leaves no trace, and can be tried again.
    """
    worker.check_open()
    request = WriteMap(worker.child.pid if pid is None else pid, file, map_text(mappings), deny_setgroups)
    refused: PermissionError | None = None
    for writer in (worker.forkserver, *_lineage(worker)):
        try:
            await writer.call(request, Done)
            return
        except PermissionError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _lineage(worker: Link) -> Iterator[Connection]:
    """Yield the workers that this one was forked from and that are open, the nearest first, then itself."""
    ancestor = worker.parent
    while ancestor is not None:
        if not ancestor.closed:
            yield ancestor
        ancestor = ancestor.parent
    yield worker


async def write_as_asked(
    worker: Link, user_mappings: Iterable[UserMapping] | None, group_mappings: Iterable[GroupMapping] | None
) -> None:
    """Give a worker that has just made a user namespace its identity: root, where nothing else is asked for."""
    if user_mappings is None:
        user_mappings = [UserMapping(0, os.geteuid(), 1)]
    if group_mappings is None:
        group_mappings = [GroupMapping(0, os.getegid(), 1)]
    user_mappings, group_mappings = list(user_mappings), list(group_mappings)
    if user_mappings:
        await write(worker, None, "uid_map", user_mappings)
    if group_mappings:
        await write_groups(worker, group_mappings)


async def write_groups(worker: Link, mappings: list[GroupMapping]) -> None:
    """Write the gid map, forbidding setgroups only where it cannot be written otherwise."""
    try:
        await write(worker, None, "gid_map", mappings)
    except PermissionError:
        await write(worker, None, "gid_map", mappings, deny_setgroups=True)
