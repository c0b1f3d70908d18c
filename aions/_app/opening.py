"""Opening a worker that is already where it is to be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from aions._app import credentials, maps, membership, preloading
from aions._app.capabilities import Capabilities
from aions._app.current import being_current
from aions._app.home import Home, current_home
from aions._app.identity import Identity, IdentityLike
from aions._app.link import Link
from aions._app.worker import Worker
from aions._types import Namespace, Namespaces, combine
from aions._wire.messages import Done, SetPropagation

_MS_PRIVATE = 1 << 18


@asynccontextmanager
async def open_worker(
    *,
    unshare: Namespaces = (),
    identity: IdentityLike = Identity.root,
    capabilities: Capabilities | None = None,
    keep_capabilities: bool = False,
    no_new_privs: bool = False,
    preload: Iterable[str] = (),
) -> AsyncGenerator[Worker]:
    """Open a worker for the length of an `async with` block, in which it is the current worker.

    Args:
        unshare: the new namespaces that it is to be in. With PID it is the first process of its pid namespace, and collects
            orphans there. With MOUNT nothing that is mounted inside shows outside.
        identity: with USER, who the app is inside: an `Identity`, or a function that makes one then. If it maps others than the
            app's user and group, the worker is root there. Other groups of the app's are dropped if setgroups(2) is allowed.
        capabilities: the only ones that may be left, as for `Worker.restrict`, which is called last.
        keep_capabilities: let commands that are not root keep them.
        no_new_privs: let no program give more.
        preload: names of modules that this worker is to have imported from the start, for `run_sync`; and all that are opened
            after it in this event loop. They are imported once, in the forkserver, which is kept busy for as long.

    Raises:
        ValueError: an identity without USER, or one that maps ids which are not there. Nothing was written.
        AionsError: `Identity.subordinate` finds no ids; a module to preload starts threads. Whatever else importing it raises.
        OSError: whatever `Worker.unshare` and `Worker.write_user_mappings` raise. Nothing half-made remains.

    When the block is left, everything that was started inside is killed, and the namespaces go, unless something outside holds
    them. The same happens when the app ends, whatever ends it.
    """
    kinds = _kinds(unshare)
    who = _identity(kinds, identity)
    async with AsyncExitStack() as stack:
        home = current_home()
        await preloading.preload(home, preload)
        link = await home.fork()
        stack.push_async_callback(link.aclose, meanwhile=home.fork_in_advance)
        if kinds:
            await _move(home, link, kinds, who)
        if kinds & (Namespace.PID | Namespace.TIME):
            link = await link.fork()  # these two are for children
            stack.push_async_callback(link.aclose)
        if (capabilities, keep_capabilities, no_new_privs) != (None, False, False):
            await credentials.restrict(link, capabilities, keep_capabilities, no_new_privs)
        worker = Worker(link)
        with being_current(home, worker):
            yield worker


def _kinds(unshare: Namespaces) -> Namespace:
    if isinstance(unshare, str):
        return combine(unshare)
    if not isinstance(unshare, Namespace):
        unshare = tuple(unshare)
    return combine(unshare) if unshare else Namespace(0)


def _identity(kinds: Namespace, identity: IdentityLike) -> Identity:
    if Namespace.USER in kinds:
        return maps.in_parent(identity if isinstance(identity, Identity) else identity())
    if identity != Identity.root:
        raise ValueError("an identity is for a new user namespace: add Namespace.USER to unshare")
    return Identity()


async def _move(home: Home, link: Link, kinds: Namespace, identity: Identity) -> None:
    async def launch() -> Worker:
        return Worker(await home.fork())

    await membership.unshare(link, kinds)
    if Namespace.USER in kinds:
        await maps.assume(link, identity, launch)
    if Namespace.MOUNT in kinds:
        await link.call(SetPropagation(_MS_PRIVATE), Done)
