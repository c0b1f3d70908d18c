"""Which namespaces a worker is in: making, entering and identifying them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from typing import TypeVar

from aions._app import stand_in, targets
from aions._app.descriptor import HasFileno
from aions._app.explain import explain
from aions._app.link import Link
from aions._app.targets import Target, held
from aions._app.teardown import torn_down
from aions._types import EVERY_KIND, Clock, Namespace, NamespaceID, NamespaceLike, Namespaces, combine
from aions._wire.messages import (
    Done,
    GetNamespaceID,
    GetOwnerUID,
    GetRelatedNamespace,
    Identified,
    JoinNamespaces,
    Opened,
    OpenNamespace,
    Reply,
    Request,
    Sealed,
    SetClockOffset,
    SetNamespace,
    Unshare,
    User,
)

R = TypeVar("R", bound=Reply)

_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702


async def unshare(worker: Link, namespaces: Namespaces) -> None:
    """Make new namespaces and be in them."""
    kinds = combine(namespaces)
    async with _its_network_torn_down(worker, kinds):
        worker.leaves(kinds)
        answer = await worker.call(Unshare(kinds.value), Reply)
        if isinstance(answer, Sealed):
            await stand_in.unshare(worker, kinds)


def _its_network_torn_down(worker: Link, kinds: Namespace) -> AbstractAsyncContextManager[None]:
    """Have a worker leave namespaces in the block; if its own network is one of them, wait for the end of that."""
    return torn_down(worker.child.pid) if worker.owns_network and kinds & Namespace.NETWORK else nullcontext()


async def set_namespace(worker: Link, fd: int | HasFileno, namespaces: Namespaces | None, preserve_credentials: bool) -> None:
    """Join what a descriptor stands for."""
    kinds = None if namespaces is None else combine(namespaces)
    request = SetNamespace(kinds.value if kinds else 0, preserve_credentials, fd if isinstance(fd, int) else fd.fileno())
    async with _its_network_torn_down(worker, kinds or Namespace(0)):
        worker.leaves(kinds or EVERY_KIND, for_others=True)
        try:
            await worker.call(request, Done)
        except PermissionError:
            other = worker.forkserver.worker_with(targets.pid_of(request.target) or 0)
            if other is None or not kinds:
                raise
            await _join_worker(worker, other, kinds, request)


async def _join_worker(worker: Link, other: Link, kinds: Namespace, asked: SetNamespace) -> None:
    """Join namespaces of another worker, which hands them out. KERNEL: into a process that is sealed only root may look."""
    with ExitStack() as stack:
        opened = []
        for kind in kinds:
            opened.append((await other.call(OpenNamespace(kind.kernel_name), Opened)).descriptor)
            stack.callback(os.close, opened[-1])
        request = JoinNamespaces(asked.preserve_credentials, tuple(kind.value for kind in kinds), tuple(opened))
        await worker.call(request, Done, explain_as=asked)


async def enter(
    worker: Link, target: Target, namespaces: Namespaces | None = None, preserve_credentials: bool = False
) -> Namespace:
    """Join a target, and return which kinds of namespace that were."""
    async with held(target) as found:
        kinds = found.kinds(namespaces)
        await set_namespace(worker, found.descriptor, kinds, preserve_credentials)
        if kinds & Namespace.NETWORK:
            worker.network_name = found.name
    return kinds


async def enter_namespace(worker: Link, pid: int, namespaces: Namespaces, preserve_credentials: bool) -> None:
    """Join namespaces of a process. The pid becomes a pidfd here, on the app's side: it is the app's pid."""
    namespaces = combine(namespaces)
    if pid <= 0:
        raise ValueError(f"{pid} is not the pid of a process")
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise explain(
            error, SetNamespace(namespaces.value, preserve_credentials, -1), f"pidfd_open({pid})", "the app"
        ) from None
    try:
        await set_namespace(worker, pidfd, namespaces, preserve_credentials)
    finally:
        os.close(pidfd)


async def get_namespace_id(worker: Link, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify a namespace: of the worker itself, or, asked of the forkserver, of whatever process the app may look at."""
    kind = combine(namespace)
    worker.check_open()
    own = GetNamespaceID(None, kind.kernel_name)
    if pid is None:
        found = await worker.call(own, Identified)
    else:
        try:
            found = await worker.forkserver.call(GetNamespaceID(pid, kind.kernel_name), Identified)
        except PermissionError:
            other = worker.forkserver.worker_with(pid)
            if other is None:
                raise
            found = await other.call(own, Identified)
    return NamespaceID(kind, found.device, found.inode, found.id)


async def get_owning_namespace(worker: Link, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify the user namespace that owns a namespace."""
    return await _related(worker, pid, combine(namespace), Namespace.USER, _NS_GET_USERNS)


async def get_parent_namespace(worker: Link, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify the namespace that a namespace was made in."""
    kind = combine(namespace)
    if kind not in (Namespace.PID, Namespace.USER):
        raise ValueError(f"{kind!r}: only pid and user namespaces have parents")
    return await _related(worker, pid, kind, kind, _NS_GET_PARENT)


async def _related(worker: Link, pid: int | None, of: Namespace, kind: Namespace, relation: int) -> NamespaceID:
    name = of.kernel_name
    found = await _told_by_forkserver(worker, pid, name, lambda *of: GetRelatedNamespace(name, relation, *of), Identified)
    return NamespaceID(kind, found.device, found.inode, found.id)


async def get_owner_uid(worker: Link, pid: int | None) -> int:
    """Name the user who made a user namespace."""
    return (await _told_by_forkserver(worker, pid, "user", GetOwnerUID, User)).uid


async def _told_by_forkserver(
    worker: Link, pid: int | None, name: str, request: Callable[[int, tuple[int, ...]], Request], expected: type[R]
) -> R:
    """Ask the forkserver about a namespace: what is beyond a worker's own user namespace, the worker may not know.

    KERNEL: into a process that is sealed only root may look. Of a worker the forkserver gets a descriptor instead.
    """
    worker.check_open()
    pid = worker.child.pid if pid is None else pid
    try:
        return await worker.forkserver.call(request(pid, ()), expected)
    except PermissionError:
        other = worker.forkserver.worker_with(pid)
        if other is None:
            raise
    descriptor = (await other.call(OpenNamespace(name), Opened)).descriptor
    try:
        return await worker.forkserver.call(request(pid, (descriptor,)), expected)
    finally:
        os.close(descriptor)


async def set_clock_offset(worker: Link, clock: Clock, seconds: int, nanoseconds: int) -> None:
    """Write one line of timens_offsets."""
    await worker.call(clock_offset(clock, seconds, nanoseconds), Done)


def clock_offset(clock: Clock, seconds: int, nanoseconds: int) -> SetClockOffset:
    """Make the request for that."""
    if not 0 <= nanoseconds <= 999_999_999:
        raise ValueError(f"nanoseconds must be 0 … 999999999, not {nanoseconds}")
    if abs(seconds) >= 2**63:
        raise ValueError(f"{seconds} seconds are more than the kernel counts")
    return SetClockOffset(f"{clock.value} {seconds} {nanoseconds}")
