"""New namespaces, made ready for use: for a worker to be in, or to be held by a descriptor."""

from __future__ import annotations

from collections.abc import Iterable

from aions._app import identity, membership
from aions._app.link import Link
from aions._app.namespace_file import NamespaceFile
from aions._types import GroupMapping, Namespace, NamespaceLike, UserMapping, combine
from aions._wire.messages import Done, NewNetwork, Opened, OpenNamespace, SetLoopbackUp, SetPropagation

_MS_PRIVATE = 1 << 18


async def move(
    worker: Link,
    kinds: Namespace,
    user_mappings: Iterable[UserMapping] | None = None,
    group_mappings: Iterable[GroupMapping] | None = None,
    loopback: bool = False,
) -> None:
    """Move a worker into new namespaces."""
    await membership.unshare(worker, kinds)
    if Namespace.USER in kinds:
        await identity.write_as_asked(worker, user_mappings, group_mappings)
    if Namespace.MOUNT in kinds:
        await worker.call(SetPropagation(_MS_PRIVATE), Done)
    if loopback:
        await worker.call(SetLoopbackUp(), Done)


async def open_own(worker: Link, namespace: NamespaceLike) -> NamespaceFile:
    """Open a namespace that a worker is in."""
    return await _opened(worker, combine(namespace).kernel_name, worker.network_name)


async def _opened(worker: Link, kernel_name: str, name: str | None = None) -> NamespaceFile:
    found = await worker.call(OpenNamespace(kernel_name), Opened)
    return NamespaceFile(found.descriptor, name if kernel_name == "net" else None)


async def new_namespace(worker: Link, namespace: NamespaceLike, loopback: bool) -> NamespaceFile:
    """Make a namespace that nobody is in.

    A network namespace is made by the worker itself, which goes there and back. Where there is no way back for it, and for
    other kinds, a fork makes it and ends.
    """
    kind = combine(namespace)
    if kind.kernel_name == "pid":
        raise ValueError("a pid namespace ends with its first process: open a worker in a new one instead")
    if loopback and kind is not Namespace.NETWORK:
        raise ValueError("only a network namespace has a loopback")
    worker.check_open()
    if kind is Namespace.NETWORK:
        try:
            return NamespaceFile((await worker.call(NewNetwork(loopback), Opened)).descriptor)
        except PermissionError:
            pass  # to go there or to come back; the fork will know
    fork = await worker.fork()
    try:
        await move(fork, kind, loopback=loopback)
        return await _opened(fork, "time_for_children" if kind is Namespace.TIME else kind.kernel_name)
    finally:
        await fork.aclose()
