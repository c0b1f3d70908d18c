"""What one event loop has of aions: its forkserver, its default worker, one worker in reserve, and those that are open.

All of it goes when the loop does. No task is kept for that: the loop finalises its async generators when it ends, and one of
them is ours. It waits for nothing: what it waited for might itself be at its end.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio
from anyio.lowlevel import RunVar, checkpoint

from aions._app.connection import Birth
from aions._app.forkserver import start_forkserver
from aions._app.link import Forkserver, Link
from aions._errors import WorkerDied
from aions._wire.messages import Done, Preload

if TYPE_CHECKING:
    from aions._app.worker import Worker


class Home:
    """Belongs to one event loop; `current_home` gets that of the running one."""

    def __init__(self) -> None:
        self._starting = anyio.Lock()
        self._forkserver: Forkserver | None = None
        self._reserve: Birth | None = None
        self._keeper: AsyncGenerator[None] | None = None
        self._links: WeakSet[Link] = WeakSet()
        self.preloading = anyio.Lock()
        self.preloaded: dict[str, None] = {}
        self.choosing_default = anyio.Lock()
        self.default_worker: Worker | None = None

    async def forkserver(self) -> Forkserver:
        """Return the forkserver, started if there is none (any more)."""
        async with self._starting:
            if self._forkserver is None or self._forkserver.client.lost:
                self._drop_forkserver()
                # Who waited for it has to be awake before its descriptor's number is another's: anyio, on asyncio, would take
                # from that one what wakes it.
                await checkpoint()
                if self._keeper is None:
                    self._keeper = self._until_the_loop_ends()
                    await anext(self._keeper)
                self._forkserver = await start_forkserver()
                if self.preloaded:
                    await self._preload(self._forkserver, self.preloaded)
            return self._forkserver

    async def preload(self, modules: Iterable[str]) -> None:
        """Have the forkserver import modules, and the next one as well, should this one end."""
        forkserver, before = await self.forkserver(), self.preloaded
        self.preloaded = dict.fromkeys((*before, *modules))
        try:
            await self._preload(forkserver, modules)
        except WorkerDied:
            pass  # then it is the next one that has them
        except BaseException:
            self.preloaded = before
            raise
        self.drop_reserve()  # it was forked without them

    async def _preload(self, forkserver: Forkserver, modules: Iterable[str]) -> None:
        await forkserver.call(Preload(tuple(sys.path), tuple(modules)), Done)

    async def fork(self) -> Link:
        """Fork a worker that is where the app is: at once, if one is in reserve."""
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            try:
                worker = await self._finished(reserve)
            except (WorkerDied, OSError):
                pass  # it, or the forkserver that was to fork it, is gone
            else:
                if not worker.has_died:
                    return worker
                worker.let_go()
        try:
            return await self._forked()
        except WorkerDied:  # the forkserver had ended before; another takes its place
            return await self._forked()

    async def fork_in_advance(self) -> None:
        """Ask for a worker to be held in reserve, without waiting for it; if that cannot be, do without."""
        forkserver, preloaded = self._forkserver, self.preloaded
        if self._reserve is not None or forkserver is None or not forkserver.is_owner:
            return
        try:
            reserve = await Birth.begin(forkserver, in_advance=True)
        except (WorkerDied, OSError):
            return
        if (self._reserve, self._forkserver, self.preloaded) == (None, forkserver, preloaded):
            self._reserve = reserve
        else:
            reserve.abandon()  # meanwhile there is another, or it would not be what is wanted now

    async def _forked(self) -> Link:
        return await self._finished(await Birth.begin(await self.forkserver()))

    async def _finished(self, birth: Birth) -> Link:
        assert isinstance(birth.parent, Forkserver)
        link = Link(birth.parent, *await birth.finish())
        self._links.add(link)
        return link

    def worker_with(self, pid: int) -> Link | None:
        """Return the worker that has a pid, if it is one of this loop's."""
        return None if self._forkserver is None else self._forkserver.worker_with(pid)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._keeper = None
            self._close()

    def _close(self) -> None:
        """Let go of everything."""
        for link in list(self._links):
            if not link.closed:
                link.let_go()
        self.default_worker = None
        self._drop_forkserver()

    def _drop_forkserver(self) -> None:
        """Let go of the forkserver: it ends, and what descends from it. The handle of a default worker stays."""
        self.drop_reserve()
        if self._forkserver is not None:
            self._forkserver.drop()
            self._forkserver = None

    def drop_reserve(self) -> None:
        """Let go of the worker in reserve: it ends."""
        if self._reserve is not None:
            self._reserve.abandon()
            self._reserve = None


_home: RunVar[Home] = RunVar("aions")


def current_home() -> Home:
    """Return what the running event loop has."""
    home = _home.get(None)
    if home is None:
        home = Home()
        _home.set(home)
    return home
