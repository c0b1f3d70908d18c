"""What a `Worker` handle holds: the connection, the process behind it, and how both end."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from weakref import WeakSet, WeakValueDictionary

import anyio

from aions._app.child import Child
from aions._app.client import Client
from aions._app.commands import Commands
from aions._app.connection import Birth, Connection
from aions._app.teardown import torn_down
from aions._errors import AionsError, WorkerDied
from aions._types import Namespace
from aions._wire.messages import Done, Kill

_PATIENCE = 5
"""Seconds to wait for a process that was sent SIGKILL. Only one that sleeps uninterruptibly in the kernel takes longer."""

_REAPING = 1
"""Seconds to wait for the exit status of a worker that has ended."""


def _how(status: int | None) -> str:
    if status is None:
        return ""
    if status >= 0:
        return f" with status {status}"
    try:
        return f" by {signal.Signals(-status).name}"
    except ValueError:
        return f" by signal {-status}"  # a real-time signal has no name


class Forkserver(Connection):
    """The connection to the forkserver. `workers` are all that descend from it and are open, by pid."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, "the forkserver")
        self.workers: WeakValueDictionary[int, Link] = WeakValueDictionary()

    def worker_with(self, pid: int) -> Link | None:
        """Return the worker that has a pid; None where that is any other process's."""
        found = self.workers.get(pid)
        return None if found is None or found.has_died else found


class Link(Connection):
    """The connection to a worker, and the forkserver that it descends from.

    `moved` is set once the worker may have left the namespaces it was made in, `entered` once it may be in some that the app
    has not made, `sees_foreign_files` once it may be in another mount namespace than the app, or have another root,
    `has_children` once it may have started a process, `owns_network` while it may be in a network that was made for it. They
    are set before the request is sent, so that they hold whatever becomes of it. `network_name` is the iproute2 name of its
    network namespace. `runners` are forks that each run one command. `next_child_is_first`: it has unshared pid or time, and
    whatever it forks may be the first in there.
    """

    def __init__(self, forkserver: Forkserver, client: Client, child: Child, parent: Link | None = None) -> None:
        super().__init__(client, f"worker {child.pid}")
        self.forkserver = forkserver
        self.child = child
        self.parent = parent
        self.moved: bool = parent is not None and parent.moved
        self.entered: bool = parent is not None and parent.entered
        self.sees_foreign_files: bool = parent is not None and parent.sees_foreign_files
        self.network_name: str | None = parent.network_name if parent is not None else None
        self.next_child_is_first = False
        self.has_children = False
        self.owns_network = False
        self.inside: Link | None = None
        self.stand_in: Link | None = None
        self._unwritten: set[str] = set()
        self.commands = Commands()
        self.has_handle = False
        self.forks: WeakSet[Link] = WeakSet()
        if parent is not None:
            parent.forks.add(self)
        self.runners: set[Link] = set()
        self.patience: float = _PATIENCE
        self.closed = False
        self._ending: anyio.Event | None = None
        forkserver.workers[child.pid] = self

    def leaves(self, kinds: Namespace, for_others: bool = False) -> None:
        """Note that the worker may leave its namespaces of some kinds, for new ones or `for_others`."""
        self.moved = True
        self.entered = self.entered or for_others
        if kinds & Namespace.NETWORK:
            self.network_name = None
            self.owns_network = not for_others
        if kinds & Namespace.MOUNT:
            self.sees_foreign_files = True  # whatever runs in a new one may mount there as well
            if for_others:
                self.network_name = None  # /etc/netns is the host's
        if kinds & (Namespace.PID | Namespace.TIME):
            self.next_child_is_first = not for_others

    def changes_root(self) -> None:
        """Note that the worker may see other files than the app."""
        self.moved = self.sees_foreign_files = True

    @property
    def mapped(self) -> Child:
        """The process whose id maps are this worker's and can be written: the worker, or its stand-in."""
        return self.child if self.stand_in is None else self.stand_in.child

    async def stand_in_is(self, other: Link | None, unwritten: Iterable[str] = ("uid_map", "gid_map")) -> None:
        """Have another stand-in, for id maps that are unwritten, or none any more. The one before has done what it was for."""
        before, self.stand_in, self._unwritten = self.stand_in, other, set(unwritten)
        if before is not None:
            await before.aclose()

    async def maps_are_written(self, files: Iterable[str]) -> None:
        """Let a stand-in go once both id maps have been written."""
        self._unwritten.difference_update(files)
        if not self._unwritten:
            await self.stand_in_is(None)

    async def died(self) -> Exception:
        if self.closed:
            return anyio.ClosedResourceError()
        status = None
        with anyio.move_on_after(_REAPING), suppress(anyio.ClosedResourceError):
            status = await self.child.wait()
        return WorkerDied(f"{self.name} has ended{_how(status)}", status)

    def check_open(self) -> None:
        """Refuse to work for a worker that was closed, or is another event loop's, where it is not the worker that is asked."""
        if self.closed:
            raise anyio.ClosedResourceError
        self.check_owner()

    @property
    def has_died(self) -> bool:
        """Whether the worker is known to have ended."""
        return self.client.lost or self.child.has_ended

    async def fork(self) -> Link:
        """Fork this worker."""
        self.has_children = True
        birth = await Birth.begin(self)
        return Link(self.forkserver, *await birth.finish(), parent=self)

    async def end_runner(self) -> None:
        """End this worker, if it is there for one command only, which has ended."""
        if self.parent is not None and self in self.parent.runners:
            self.parent.runners.discard(self)
            await self.aclose()

    async def aclose(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        """End the worker and all that it has started, and wait until it is gone. `meanwhile` is called while it ends.

        Where that is under way already, wait for it.
        """
        if not self.is_owner:
            self.let_go()
            return
        if self.closed:
            if self._ending is not None and not self._ending.is_set():
                self.check_owner()
                await self._ending.wait()
            return
        self.check_owner()
        ended = [self] if self.inside is None or self.inside.closed else [self.inside, self]
        ending = anyio.Event()
        for worker in ended:
            worker._ending = ending
            worker._forget()
        try:
            with anyio.move_on_after(self.patience, shield=True):
                for worker in ended:
                    await worker.stand_in_is(None)
                async with AsyncExitStack() as stack:
                    for worker in ended:
                        if worker.owns_network:
                            await stack.enter_async_context(torn_down(worker.child.pid))
                        if worker.entered or (worker is self and self.parent is not None):
                            await worker._end_descendants()
                    for worker in ended:
                        worker.child.signal(signal.SIGKILL)
                        worker.client.close()
                    if self.has_children and self.parent is None:
                        await self.child.wait()  # the forkserver tells it once it has ended what the worker leaves
                    if meanwhile is not None:
                        await meanwhile()
                    if self.child.poll() is None:
                        await self.child.wait_ended()
        finally:
            for worker in ended:
                for fork in (*worker.forks, *worker.runners):
                    if not fork.closed:
                        fork.let_go()
                worker.client.close()
                worker.commands.close()
                worker.child.close()
            ending.set()

    async def _end_descendants(self) -> None:
        """End what the worker has started, while that can be found through it.

        Once a fork is gone, nobody could tell what it has started from what its parent has. KERNEL: and what is in a pid
        namespace that was entered is then a child of the first process there.
        """
        if self.has_children:
            with anyio.move_on_after(_PATIENCE / 2), suppress(OSError, AionsError):  # if it has ended, its workers end with it
                await self.forkserver.call(Kill(self.child.pidfd.fileno()), Done)

    def _forget(self) -> None:
        self.closed = True
        self.forkserver.workers.pop(self.child.pid, None)

    def drop(self) -> None:
        super().drop()
        self.child.close()

    def let_go(self) -> None:
        """Close our ends, and those of its forks, without waiting for anything: the worker ends with the last of them."""
        for other in (*self.forks, self.inside, self.stand_in):
            if other is not None and not other.closed:
                other.let_go()
        self._forget()
        self.client.close()
        self.commands.close()
        self.child.close()
