"""Writing id maps: done by whichever process the kernel lets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from errno import EACCES

from aions._app import credentials, id_maps, newidmap, stand_in
from aions._app.connection import Connection
from aions._app.id_maps import M
from aions._app.identity import Identity
from aions._app.link import Link
from aions._app.newidmap import Launch
from aions._types import GroupMapping, UserMapping
from aions._wire import codec
from aions._wire.messages import BecomeRoot, Done, Prepare, Prepared, WriteMap

Ids = tuple[tuple[int, ...], tuple[int, ...]]
"""A user's ids and a group's: real, effective and saved ones."""


async def write(
    worker: Link,
    pid: int | None,
    file: str,
    mappings: Iterable[UserMapping],
    deny_setgroups: bool = False,
    launch: Launch | None = None,
) -> None:
    """Write one map of a process, of the worker itself where pid is None.

    KERNEL: the writer must be in the namespace itself or in its parent, and it is the opener's namespace that counts. From the
    parent it may map what it has the capability for; from inside, one id at the most. So the forkserver tries first, then the
    workers that this one was forked from, then the worker itself; then, if there is a `launch` for it, newuidmap(1) or
    newgidmap(1). A refused write leaves no trace, and can be tried again.
    """
    worker.check_open()
    mappings = list(mappings)
    setgroups = WriteMap.DENIED if deny_setgroups else WriteMap.KEPT
    if pid is not None:
        worker = worker.forkserver.worker_with(pid) or worker
    step = WriteMap(worker.mapped.pid if pid in (None, worker.child.pid) else pid, file, id_maps.map_text(mappings), setgroups)
    own = os.getresuid() if file == "uid_map" else os.getresgid()
    try:
        await _write_or_have_written(worker, step, mappings, own, launch)
    except PermissionError as error:
        if error.errno != EACCES or step.pid != worker.child.pid or not await stand_in.lend_maps(worker):
            raise
        step = WriteMap(worker.mapped.pid, step.file, step.text, step.setgroups)
        try:
            await _write_or_have_written(worker, step, mappings, own, launch)
        except BaseException:
            await worker.stand_in_is(None)
            raise
    if step.pid == worker.mapped.pid:
        await worker.maps_are_written([file])


async def _write(worker: Link, request: WriteMap) -> None:
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


async def fitted(worker: Link, identity: Identity, is_entered: bool) -> tuple[Identity, Ids]:
    """Fit an identity to the user namespace that a worker is in, and say who the app is there.

    Args:
        worker: it is to make a user namespace inside of that one.
        identity: what is to be fitted.
        is_entered: it has entered the user namespace. The app's own ids, if no others are mapped, stand for its own there.

    Raises:
        ValueError: it maps ids that are not there, or is too long once it is split.
    """
    app = os.getresuid(), os.getresgid()
    if not is_entered:
        return _in_apps_own(identity), app
    status = await credentials.read(worker, None)
    there = status.users[:3], status.groups[:3]
    users = _renamed(identity.user_mappings, app[0], there[0])
    groups = _renamed(identity.group_mappings, app[1], there[1])
    return Identity(users, groups, identity.setgroups, identity.owner), there


def _in_apps_own(identity: Identity) -> Identity:
    users = id_maps.fitted(identity.user_mappings, id_maps.read_own("uid_map", UserMapping))
    groups = id_maps.fitted(identity.group_mappings, id_maps.read_own("gid_map", GroupMapping))
    if (users, groups) == (identity.user_mappings, identity.group_mappings):
        return identity
    return Identity(users, groups, identity.setgroups, identity.owner)


def _renamed(mappings: Sequence[M], own: tuple[int, ...], there: tuple[int, ...]) -> Sequence[M]:
    return [type(mappings[0])(mappings[0].inside, there[1], 1)] if _is_ones_own(mappings, own) else mappings


async def assume(worker: Link, identity: Identity, own: Ids, launch: Launch) -> None:
    """Give a worker that has just made a user namespace its identity.

    Args:
        worker: it, or its stand-in, is a child of the forkserver.
        identity: as `fitted` makes it.
        own: who the app was where the worker has made it.
        launch: forks a worker where the app is, for newuidmap(1) and newgidmap(1), should they be needed.
    """
    maps = {"uid_map": (identity.user_mappings, own[0]), "gid_map": (identity.group_mappings, own[1])}
    steps = list(_steps(worker.mapped.pid, identity, own[1]))
    for step in steps[await _count_of_those_done_at_once(worker.forkserver, steps) :]:
        await _write_or_have_written(worker, step, *maps.get(step.file, ((), ())), launch)
    await worker.maps_are_written(step.file for step in steps)
    ids = own if identity.owner is None else [(number,) for number in identity.owner]
    users, groups = map(_inside, (identity.user_mappings, identity.group_mappings), ids)
    held = set(os.getgroups())
    if sum(mapping.count for mapping in identity.group_mappings) == 1:
        held.discard(os.getegid())  # there is nobody else inside who could have it
    user = bool(identity.user_mappings) and None in users
    group = bool(identity.group_mappings) and None in groups
    if user or group or (identity.group_mappings and held):
        await worker.call(BecomeRoot(user, group), Done)


def _steps(pid: int, identity: Identity, own_group: tuple[int, ...]) -> Iterator[WriteMap]:
    """Yield what is to be written. Where one group cannot be mapped otherwise, setgroups is denied."""
    if identity.user_mappings:
        yield WriteMap(pid, "uid_map", id_maps.map_text(identity.user_mappings), WriteMap.KEPT)
    if identity.setgroups is False:
        yield WriteMap(pid, "setgroups", "deny", WriteMap.KEPT)
    if identity.group_mappings:
        may_be_denied = identity.setgroups is None and _is_ones_own(identity.group_mappings, own_group)
        setgroups = WriteMap.IF_NEED_BE if may_be_denied else WriteMap.KEPT
        yield WriteMap(pid, "gid_map", id_maps.map_text(identity.group_mappings), setgroups)


async def _count_of_those_done_at_once(forkserver: Connection, steps: Sequence[WriteMap]) -> int:
    """Have the forkserver, which mostly may, write all of them in one round trip; or those before the first that it may not."""
    if not steps:
        return 0
    prepared = await forkserver.call(Prepare(codec.encode_steps(steps)), Prepared)
    return prepared.step if prepared.errno else len(steps)


async def _write_or_have_written(
    worker: Link, step: WriteMap, mappings: Sequence[UserMapping], own: tuple[int, ...], launch: Launch | None
) -> None:
    """Write one file; where the plain way is not allowed, and it is about more than one's own id, by a setuid program."""
    try:
        await _write(worker, step)
    except PermissionError as error:
        if launch is None or not mappings or _is_ones_own(mappings, own):
            raise
        await newidmap.write(step.pid, step.file, mappings, launch, error)


def _inside(mappings: Sequence[UserMapping], numbers: tuple[int, ...]) -> set[int | None]:
    """Return who the app is inside; None for nobody."""
    return {id_maps.inward(mappings, number) for number in numbers}


def _is_ones_own(mappings: Sequence[UserMapping], own: tuple[int, ...]) -> bool:
    """Whether one's own id is mapped and no other."""
    return [(mapping.outside, mapping.count) for mapping in mappings] == [(own[1], 1)]
