"""Opening a worker that is already where it is to be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from aions._app import membership, preloading
from aions._app.current import being_current
from aions._app.home import current_home
from aions._app.making import move
from aions._app.targets import Target
from aions._app.worker import Worker
from aions._types import GroupMapping, Namespace, Namespaces, UserMapping, combine

Entering = Target | tuple[Target, Namespaces]
"""A target that is one namespace, or a target and which of its namespaces are meant."""


@asynccontextmanager
async def open_worker(
    *,
    enter: Entering | list[Entering] | None = None,
    unshare: Namespaces = (),
    user_mappings: Iterable[UserMapping] | None = None,
    group_mappings: Iterable[GroupMapping] | None = None,
    preload: Iterable[str] = (),
    loopback: bool = False,
) -> AsyncGenerator[Worker]:
    """Open a worker for the length of an `async with` block, in which it is the current worker.

    Args:
        enter: the namespaces of others that it is to be in: a target (see `Worker.enter`); with a process, the target and the
            kinds of namespace, `enter=(pid, Namespace.NETWORK)`; or a list of these, which are entered one after the other.
        unshare: the new namespaces that it is to be in. With PID it is the first process of its pid namespace, and collects
            orphans there. With MOUNT nothing that is mounted inside shows outside.
        user_mappings: with USER, the uid map. None makes the app's user root inside; an empty one leaves the map unwritten.
        group_mappings: the same for groups. setgroups(2) is forbidden inside only where the kernel asks for it.
        preload: names of modules that this worker is to have imported from the start, for `run_sync`; and all that are opened
            after it in this event loop. They are imported once, in the forkserver, which is kept busy for as long.
        loopback: with NETWORK, set its loopback up, so that 127.0.0.1 and ::1 work inside.

    Raises:
        AionsError: a module to preload starts threads. Whatever else importing it raises.
        ValueError: mappings without USER; mappings that no kernel takes; `loopback` without NETWORK.
        OSError: whatever `Worker.enter`, `Worker.unshare` and `Worker.write_user_mappings` raise. Nothing half-made remains.

    When the block is left, everything that was started inside is killed, and the namespaces go, unless something outside holds
    them. The same happens when the app ends, whatever ends it.
    """
    kinds = _kinds(unshare)
    if Namespace.USER not in kinds and (user_mappings is not None or group_mappings is not None):
        raise ValueError("mappings are for a new user namespace: add Namespace.USER to unshare")
    if loopback and Namespace.NETWORK not in kinds:
        raise ValueError("a loopback is set up in a new network namespace: add Namespace.NETWORK to unshare")
    async with AsyncExitStack() as stack:
        home = current_home()
        await preloading.preload(home, preload)
        link = await home.fork()
        stack.push_async_callback(link.aclose, meanwhile=home.fork_in_advance)
        entered = Namespace(0)
        if enter is not None:
            for each in enter if isinstance(enter, list) else [enter]:
                entered |= await membership.enter(link, *(each if isinstance(each, tuple) else (each, None)))
        if kinds:
            await move(link, kinds, user_mappings, group_mappings, loopback)
        if (kinds | entered) & (Namespace.PID | Namespace.TIME):
            link = await link.fork()  # these two are for children
            stack.push_async_callback(link.aclose)
        worker = Worker(link)
        with being_current(home, worker):
            yield worker


def _kinds(unshare: Namespaces) -> Namespace:
    if isinstance(unshare, str):
        return combine(unshare)
    if not isinstance(unshare, Namespace):
        unshare = tuple(unshare)
    return combine(unshare) if unshare else Namespace(0)
