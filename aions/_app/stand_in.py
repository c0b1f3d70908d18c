"""User namespaces for workers that are sealed: a stand-in makes them.

KERNEL: the id maps of a process that may not be looked into (PR_SET_DUMPABLE) can be written by root alone. And a worker that
has started something, or entered what others made, must not be looked into any more. So another process, which holds nothing
that could be taken from it, goes where the worker is, makes the user namespace, and lets others look into it. The worker joins
that namespace, and the maps of the stand-in are its maps.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack

from aions._app import credentials
from aions._app.descriptor import Descriptor
from aions._app.home import current_home
from aions._app.link import Link
from aions._types import EVERY_KIND, Namespace
from aions._wire.messages import BecomeOwner, Done, JoinNamespaces, Opened, OpenNamespace, SetNamespace, StandIn, Unshare


async def unshare(worker: Link, kinds: Namespace, owner: tuple[int, int] | None = None) -> None:
    """Have a worker be in new namespaces, a user namespace among them: its own user's, or another `owner`'s."""
    async with AsyncExitStack() as stack:
        stand_in = await current_home().fork()
        stack.push_async_callback(stand_in.aclose)
        await _follow(stand_in, worker)
        await _become(stand_in, worker, owner)
        made = await stand_in.call(StandIn(), Opened, explain_as=Unshare(kinds.value))
        namespace = Descriptor(made.descriptor)
        stack.callback(namespace.close)
        if owner is not None:
            await worker.call(BecomeOwner(*owner), Done)
        await worker.call(SetNamespace(Namespace.USER.value, True, namespace.fileno()), Done)
        if others := kinds & ~Namespace.USER:
            await worker.call(Unshare(others.value), Done)
        await worker.stand_in_is(stand_in)
        stack.pop_all()
        namespace.close()


async def _follow(stand_in: Link, worker: Link) -> None:
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
            await stand_in.call(JoinNamespaces(False, tuple(kinds), tuple(descriptors)), Done)


async def _become(stand_in: Link, worker: Link, owner: tuple[int, int] | None) -> None:
    """Be who is to make, and so to own, the user namespace."""
    there, here = [await credentials.read(each, None) for each in (worker, stand_in)]
    wanted = owner or (there.users[1], there.groups[1])
    if wanted != (here.users[1], here.groups[1]):
        await stand_in.call(BecomeOwner(*wanted), Done)
