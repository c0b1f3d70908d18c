"""Opening a worker that is already where it is to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from anyio import to_thread

from aions._app import credentials, maps, membership, preloading, preparing, stand_in
from aions._app.capabilities import Capabilities
from aions._app.current import being_current
from aions._app.home import current_home
from aions._app.identity import Identity, IdentityLike
from aions._app.mount_values import Mount, Propagation
from aions._app.preparing import Limits
from aions._app.scope import Scope
from aions._app.targets import Target
from aions._app.text import StrOrBytesPath
from aions._app.worker import Worker, launched
from aions._types import Clock, Namespace, Namespaces, combine
from aions._wire.messages import Attach, BecomeOwner, SetLoopbackUp, Unshare

Entering = Target | tuple[Target, Namespaces]
"""A target that is one namespace, or a target and which of its namespaces are meant."""


_MADE_AT_ONCE = (Identity.root, Identity.current, Identity.whole)
"""What makes an identity without asking anybody. Whatever else does may wait for a directory service."""


def open_worker(
    *,
    enter: Entering | list[Entering] | None = None,
    unshare: Namespaces = (),
    identity: IdentityLike = Identity.root,
    capabilities: Capabilities | None = None,
    keep_capabilities: bool = False,
    no_new_privs: bool = False,
    preload: Iterable[str] = (),
    hostname: str | None = None,
    propagation: Propagation | str | None = Propagation.PRIVATE,
    root: StrOrBytesPath | None = None,
    mount_proc: bool | StrOrBytesPath = False,
    mounts: Iterable[Mount] = (),
    clock_offsets: Mapping[Clock, float] | None = None,
    cgroup: StrOrBytesPath | Iterable[StrOrBytesPath] = (),
    rlimits: Limits | None = None,
    loopback: bool = False,
) -> AbstractAsyncContextManager[Worker, None]:
    """Open a worker for the length of an `async with` block, in which it is the current worker.

    Args:
        enter: the namespaces of others that it is to be in: a target (see `Worker.enter`); with a process, the target and the
            kinds of namespace, `enter=(pid, Namespace.NETWORK)`; or a list of these, which are entered one after the other.
        unshare: the new namespaces that it is to be in. With PID it is the first process of its pid namespace, and collects
            orphans there.
        identity: with USER, who the app is inside: an `Identity`, or a function that makes one then (in a thread, since it may
            wait for a directory service). If it maps others than the app's user and group, the worker is root there. Other
            groups of the app's are dropped if setgroups(2) is allowed. In a user namespace that is entered, outside ids are
            those that it has; the app's own, mapped alone, mean the worker's own there.
        capabilities: the only ones that may be left, as for `Worker.restrict`, which is called last.
        keep_capabilities: let commands that are not root keep them.
        no_new_privs: let no program give more.
        preload: names of modules that this worker is to have imported from the start, for `run_sync`; and all that are opened
            after it in this event loop. They are imported once, in the forkserver, which is kept busy for as long.
        hostname: with UTS, what the machine is called inside.
        propagation: with MOUNT, how mounts spread from and to the app's mount namespace: by default not at all. SLAVE lets in
            what is mounted and unmounted outside later. None leaves it as it is: on most hosts, mounts made inside show
            outside.
        root: with MOUNT, the directory that becomes the root (by pivot_root, so that the old root is gone). The working
            directory is then "/".
        mount_proc: with MOUNT and PID, mount the new pid namespace's proc: True means at /proc. It is `Proc` with its fallback.
        mounts: with MOUNT, what else is mounted, in this order; sources are still those of the app, or of the mount namespace
            that is entered. One at "/" becomes the root.
        clock_offsets: with TIME, by how many seconds clocks are ahead inside.
        cgroup: a directory of the cgroup file system, or one of each hierarchy, which the worker and what it starts belong to.
            A new CGROUP namespace has it as its root.
        rlimits: limits (RLIMIT_* of the `resource` module: soft and hard, or one number for both) of the worker, and so of what
            it starts. They are set with the app's own privileges, before anything else is done.
        loopback: with NETWORK, set its loopback up, so that 127.0.0.1 and ::1 work inside.

    Raises:
        AionsError: `Identity.subordinate` finds no ids; a module to preload starts threads. Whatever else importing it raises.
        ValueError: something is asked for that takes a namespace which is not; values that no kernel takes.
        OSError: whatever the methods of `Worker` raise of which this is made. A note names the step that was refused. Nothing
            half-made remains, but for directories that were made to mount something on.

    When the block is left, everything that was started inside is killed, and the namespaces go, unless something outside holds
    them. The same happens when the app ends, whatever ends it.
    """

    async def opened(stack: AsyncExitStack) -> Worker:
        kinds = _kinds(unshare)
        who = await _identity(kinds, identity)
        limits = preparing.limits_and_cgroups(rlimits or {}, cgroup)
        clocks = preparing.clocks(kinds, clock_offsets or {})
        moving = [
            *([BecomeOwner(*who.owner)] if who.owner is not None else []),
            *([Unshare(kinds.value)] if kinds else []),
            *clocks,
        ]
        inside = preparing.furnishing(kinds, hostname, propagation, root, mount_proc, mounts)
        if loopback:
            inside.append(SetLoopbackUp())
        if loopback and Namespace.NETWORK not in kinds:
            raise ValueError("a loopback is set up in a new network namespace: add Namespace.NETWORK to unshare")
        entering = enter if isinstance(enter, list) else [] if enter is None else [enter]
        home = current_home()
        await preloading.preload(home, preload)
        link = await home.fork()
        stack.push_async_callback(link.aclose, meanwhile=home.fork_in_advance)
        entered = Namespace(0)
        if entering:
            await preparing.prepare(link, limits)
            for each in entering:
                entered |= await membership.enter(link, *(each if isinstance(each, tuple) else (each,)))
        if Namespace.USER in kinds:
            who, own = await maps.fitted(link, who, Namespace.USER in entered)
        if kinds:
            link.leaves(kinds)
        if entering and Namespace.USER in kinds:
            await stand_in.unshare(link, kinds, who.owner)  # a worker that has entered something is sealed
            moving = clocks
        await preparing.prepare(link, moving if entering else [*limits, *moving])
        if Namespace.USER in kinds:
            await maps.assume(link, who, own, launched)
        if (kinds | entered) & (Namespace.PID | Namespace.TIME):
            outside, link = link, await link.fork()  # these two are for children
            outside.inside = link
        if any(isinstance(step, Attach) and step.target == "/" for step in inside):
            link.changes_root()
        await preparing.prepare(link, inside)
        if (capabilities, keep_capabilities, no_new_privs) != (None, False, False):
            await credentials.restrict(link, capabilities, keep_capabilities, no_new_privs)
        worker = Worker(link)
        stack.enter_context(being_current(home, worker))
        return worker

    return Scope(opened)


def _kinds(unshare: Namespaces) -> Namespace:
    if isinstance(unshare, str):
        return combine(unshare)
    if not isinstance(unshare, Namespace):
        unshare = tuple(unshare)
    return combine(unshare) if unshare else Namespace(0)


async def _identity(kinds: Namespace, identity: IdentityLike) -> Identity:
    if Namespace.USER in kinds:
        if isinstance(identity, Identity):
            return identity
        if identity in _MADE_AT_ONCE:
            return identity()
        return await to_thread.run_sync(identity, abandon_on_cancel=True)
    if identity != Identity.root:
        raise ValueError("an identity is for a new user namespace: add Namespace.USER to unshare")
    return Identity()
