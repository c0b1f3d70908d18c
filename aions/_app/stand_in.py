"""User namespaces for workers that are sealed: a stand-in makes them.

KERNEL: the id maps of a process that may not be looked into (PR_SET_DUMPABLE) can be written by root alone. And a worker that
has started something, or entered what others made, must not be looked into any more. So another process, which holds nothing
that could be taken from it, goes where the worker is, makes the user namespace, and lets others look into it. The worker joins
that namespace, and the maps of the stand-in are its maps. If the worker was sealed only after it had made the namespace, the
stand-in joins that.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack

from aions._app import credentials
from aions._app.descriptor import Descriptor
from aions._app.files import open_descriptor
from aions._app.home import current_home
from aions._app.link import Link
from aions._types import EVERY_KIND, Namespace
from aions._wire.messages import (
    BecomeOwner,
    ChangeDirectory,
    ChangeRoot,
    Done,
    JoinNamespaces,
    Opened,
    OpenNamespace,
    SetNamespace,
    StandIn,
    Unshare,
)


async def unshare(worker: Link, kinds: Namespace, owner: tuple[int, int] | None = None) -> None:
    """Have a worker be in new namespaces, a user namespace among them: its own user's, or another `owner`'s.

    The stand-in makes the others, too, so that a refusal of any comes before the worker has moved. KERNEL: but a pid namespace,
    which it could make only if it were itself in the one that the worker is in.

    SECURITY: for another owner, who may be any user of the machine, it is not exposed: it is root that has others own
    namespaces, and root may write its maps all the same.
    """
    asked = Unshare(kinds.value)
    async with AsyncExitStack() as stack:
        stand_in = await current_home().fork()
        stack.push_async_callback(stand_in.aclose)
        await _follow(stand_in, worker)
        await _become(stand_in, worker, owner)
        made = await stand_in.call(StandIn((kinds & ~Namespace.PID).value, exposed=owner is None), Opened, asked, worker)
        namespace = Descriptor(made.descriptor)
        stack.callback(namespace.close)
        if owner is not None:
            await worker.call(BecomeOwner(*owner), Done)
        await worker.call(SetNamespace(Namespace.USER.value, True, namespace.fileno()), Done, asked)
        if others := kinds & ~Namespace.USER:
            await worker.call(Unshare(others.value), Done)
        await worker.stand_in_is(stand_in)
        stack.pop_all()
        namespace.close()


async def lend_maps(worker: Link) -> bool:
    """Have a sealed worker get a stand-in in its user namespace, which has the same maps. Return whether it has got one.

    SECURITY: not if the worker has become somebody else, or has given something up. By the stand-in others could undo that.
    """
    unwritten = {file for file in ("uid_map", "gid_map") if not await credentials.contents(worker, None, file)}
    async with AsyncExitStack() as stack:
        stand_in = await current_home().fork()
        stack.push_async_callback(stand_in.aclose)
        await _follow(stand_in, worker, preserve_credentials=True)
        there, here = [await credentials.read(each, None) for each in (worker, stand_in)]
        if there != here:
            return False
        os.close((await stand_in.call(StandIn(0, exposed=True), Opened)).descriptor)
        await worker.stand_in_is(stand_in, unwritten)
        stack.pop_all()
    return True


async def _follow(stand_in: Link, worker: Link, preserve_credentials: bool = False) -> None:
    """Bring a process that comes from where the app is to where a worker is.

    SECURITY: whoever takes the stand-in over shall be nowhere else.
    """
    kinds, descriptors = [], []
    with ExitStack() as stack:
        for kind in EVERY_KIND:
            name = "pid_for_children" if kind is Namespace.PID else kind.kernel_name
            try:
                descriptor = (await worker.call(OpenNamespace(name), Opened)).descriptor
            except FileNotFoundError:  # a new pid namespace: its first process cannot be this one
                continue
            stack.callback(os.close, descriptor)
            if not os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/ns/{name}")):
                kinds.append(kind.value)
                descriptors.append(descriptor)
        if kinds:
            await stand_in.call(JoinNamespaces(preserve_credentials, tuple(kinds), tuple(descriptors)), Done)
        root, own = [await _opened_root(each, stack) for each in (worker, stand_in)]
        if not _are_same_directory(root, own):
            await stand_in.call(ChangeRoot("/", (root,)), Done)
            await stand_in.call(ChangeDirectory("/", (root,)), Done)


async def _opened_root(of: Link, stack: ExitStack) -> int:
    descriptor = await open_descriptor(of, "/", os.O_PATH | os.O_DIRECTORY, 0)
    stack.callback(os.close, descriptor)
    return descriptor


def _are_same_directory(first: int, second: int) -> bool:
    """Whether two descriptors are of one directory, and in one mount."""
    return os.path.samestat(os.fstat(first), os.fstat(second)) and _mount_of(first) == _mount_of(second)


def _mount_of(descriptor: int) -> str:
    """Return the line that says in which mount a descriptor is. proc_pid_fdinfo(5)"""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return next(line for line in file if line.startswith("mnt_id:"))


async def _become(stand_in: Link, worker: Link, owner: tuple[int, int] | None) -> None:
    """Be who is to make, and so to own, the user namespace."""
    there, here = [await credentials.read(each, None) for each in (worker, stand_in)]
    wanted = owner or (there.users[1], there.groups[1])
    if wanted != (here.users[1], here.groups[1]):
        await stand_in.call(BecomeOwner(*wanted), Done)
