"""Namespaces that are held by a descriptor: a worker's own, and new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from aions._app import maps, membership
from aions._app.link import Link
from aions._app.mount_values import Propagation
from aions._app.namespace_file import NamespaceFile
from aions._types import Namespace, NamespaceLike, UserMapping, combine
from aions._wire.messages import Done, NewNetwork, Opened, OpenNamespace, SetLoopbackUp, SetPropagation


async def _move(worker: Link, kind: Namespace, loopback: bool) -> None:
    """Move a worker into a new namespace."""
    await membership.unshare(worker, kind)
    if kind is Namespace.USER:
        await _map_root(worker)
    if kind is Namespace.MOUNT:
        await worker.call(SetPropagation(Propagation.PRIVATE.flag), Done)
    if loopback:
        await worker.call(SetLoopbackUp(), Done)


async def _map_root(worker: Link) -> None:
    """Make the app's user root, who may go by that number where the worker is already."""
    for file, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        choices = [(own, False), (0, False)] + ([(own, True), (0, True)] if file == "gid_map" else [])
        for choice in choices:
            try:
                await maps.write(worker, None, file, [UserMapping(0, choice[0], 1)], deny_setgroups=choice[1])
                break
            except PermissionError:
                if choice is choices[-1]:
                    raise


@contextmanager
def _helped(kind: Namespace) -> Iterator[None]:
    """Say how to have a user namespace too, which cannot be made by the same call."""
    try:
        yield
    except PermissionError as error:
        if kind is not Namespace.USER:
            error.add_note(f'That is: open_worker(unshare=["user", "{kind.kernel_name}"]), and its new_namespace.')
        raise


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
        with _helped(kind):
            await _move(fork, kind, loopback)
        return await _opened(fork, "time_for_children" if kind is Namespace.TIME else kind.kernel_name)
    finally:
        await fork.aclose()
