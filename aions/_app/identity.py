"""Writing id maps: done by whichever process the kernel lets."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

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
    """Give a worker that has just made a user namespace its identity: root, where nothing else is asked for.

    In a user namespace of aions's making the app's user is root already, and goes by that number.
    """
    users = [list(user_mappings)] if user_mappings is not None else [[UserMapping(0, id, 1)] for id in (os.geteuid(), 0)]
    groups = [list(group_mappings)] if group_mappings is not None else [[GroupMapping(0, id, 1)] for id in (os.getegid(), 0)]
    await _first_that_is_accepted(users, lambda mappings: write(worker, None, "uid_map", mappings))
    await _first_that_is_accepted(groups, lambda mappings: write_groups(worker, mappings))


M = TypeVar("M", bound=UserMapping)


async def _first_that_is_accepted(choices: list[list[M]], write: Callable[[list[M]], Awaitable[None]]) -> None:
    for mappings in filter(None, choices):
        try:
            await write(mappings)
            break
        except PermissionError:
            if mappings is choices[-1]:
                raise


async def write_groups(worker: Link, mappings: list[GroupMapping]) -> None:
    """Write the gid map, forbidding setgroups only where it cannot be written otherwise."""
    try:
        await write(worker, None, "gid_map", mappings)
    except PermissionError:
        await write(worker, None, "gid_map", mappings, deny_setgroups=True)
