"""The forkserver is killed at any moment while tasks open workers: each gets one, or learns that it has died."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from aions import Namespace, Worker, WorkerDied, open_worker, run_process
from aions._app.processes import communicate
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import parent

TASKS = 5


class Forkservers:
    """Those that have forked workers, by their pids: there is one at a time."""

    def __init__(self) -> None:
        self._pids: set[int] = set()

    def note(self, worker: Worker) -> None:
        """Note who has forked a worker, unless that has ended."""
        with suppress(OSError):
            pid = parent(worker.pid)
            if b"_worker/__main__.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                self._pids.add(pid)

    def kill(self) -> int:
        """Kill those that are noted; return how many there were."""
        killed = 0
        while self._pids:
            with suppress(ProcessLookupError):
                os.kill(self._pids.pop(), signal.SIGKILL)
                killed += 1
        return killed


async def open_plainly(forkservers: Forkservers) -> None:
    async with open_worker() as worker:
        forkservers.note(worker)
        await worker.get_namespace_id(None, "net")


async def open_inside(forkservers: Forkservers) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True) as worker:
        forkservers.note(worker)
        await worker.run_process(["true"])


async def open_in_a_pid_namespace(_forkservers: Forkservers) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        await worker.run_process(["true"])


async def fork(forkservers: Forkservers) -> None:
    async with open_worker() as worker, worker.fork() as inner:
        forkservers.note(worker)
        await inner.run_process(["true"])


async def call(_forkservers: Forkservers) -> None:
    async with open_worker() as worker:
        assert await worker.run_sync(sum, [1, 2], cancellable=True) == 3


async def preload(_forkservers: Forkservers) -> None:
    async with open_worker(preload=["colorsys"]) as worker:
        assert "colorsys" in await worker.run_sync(eval, "list(__import__('sys').modules)")


async def use_default_worker(_forkservers: Forkservers) -> None:
    await run_process(["true"])


USES: list[Callable[[Forkservers], Awaitable[None]]] = [
    open_plainly,
    open_inside,
    open_in_a_pid_namespace,
    fork,
    call,
    preload,
    use_default_worker,
]


async def test_whoever_opens_a_worker_gets_one_or_learns_that_it_has_died() -> None:
    forkservers, done = Forkservers(), anyio.Event()

    async def use() -> None:
        while not done.is_set():
            with anyio.fail_after(20), suppress(WorkerDied):
                await random.choice(USES)(forkservers)

    async with anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(use)
        killed = 0
        while killed < times("forkserver killed while workers are opened"):
            await anyio.sleep(random.uniform(0, 0.08))
            killed += forkservers.kill()
        done.set()
    await open_plainly(forkservers)


async def test_the_next_forkserver_has_what_was_preloaded() -> None:
    forkservers = Forkservers()
    async with open_worker(preload=["colorsys"]) as worker:
        forkservers.note(worker)
    assert forkservers.kill() == 1
    with suppress(WorkerDied):  # the one in reserve may be about to end
        await open_plainly(forkservers)
    async with open_worker() as worker:
        assert "colorsys" in await worker.run_sync(eval, "list(__import__('sys').modules)")


async def test_a_command_that_ends_with_its_worker_raises_one_error() -> None:
    """Not a group of errors, although several tasks attend to it."""
    async with open_worker() as worker:
        process = await worker.open_process(["sleep", "1000"])
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await communicate(process, None)
        with pytest.raises(WorkerDied):
            await process.aclose()
