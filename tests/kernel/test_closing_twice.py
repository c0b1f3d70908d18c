"""Closing works any number of times, also by several tasks at once, and after the worker has died."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from aions import Namespace, NamespaceFile, Process, Worker, WorkerDied, open_worker
from tests.kernel.targets import is_gone

TASKS = 3


async def outcomes(close: Callable[[], Awaitable[object]], *, cancelled: int = 0) -> list[object]:
    """Have several tasks close something, and cancel some of them once they wait; return what they raise, or None."""
    found: list[object] = []

    async def catch(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await close()
                found.append(None)
            except Exception as error:
                found.append(type(error))

    scopes = [anyio.CancelScope() for _ in range(TASKS)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(catch, scope)
            await anyio.wait_all_tasks_blocked()
            for scope in scopes[:cancelled]:
                scope.cancel()
    return found


@pytest.mark.parametrize("how", ["it runs", "it has ended", "its worker died", "its worker was closed"])
async def test_a_process(how: str) -> None:
    async with open_worker() as worker:
        commands = {"it has ended": ["true"], "its worker died": ["sleep", "100"]}
        process = await worker.open_process(commands.get(how, ["cat"]))
        if how == "it has ended":
            await process.wait()
        elif how == "its worker died":
            os.kill(worker.pid, signal.SIGKILL)
        elif how == "its worker was closed":
            await worker.aclose()
        if how == "its worker died":
            with pytest.raises(WorkerDied):
                await process.aclose()
        for _ in range(3):
            await process.aclose()
        assert process.pidfd == -1
        process.kill()


async def test_a_process_by_several_tasks() -> None:
    async with open_worker() as worker:
        process = await worker.open_process(["cat"])
        assert await outcomes(process.aclose) == [None] * TASKS
        assert process.returncode == 0


@pytest.mark.parametrize("cancelled", range(1, TASKS + 1))
async def test_a_process_by_several_tasks_of_which_some_are_cancelled(cancelled: int) -> None:
    async with open_worker() as worker:
        process = await worker.open_process(["sleep", "100"])
        assert await outcomes(process.aclose, cancelled=cancelled) == [None] * (TASKS - cancelled)
        assert process.returncode == -signal.SIGKILL
        assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("cancelled", range(1, TASKS + 1))
async def test_a_process_of_a_worker_that_is_busy(cancelled: int) -> None:
    """It does not tell how its command ended."""
    async with open_worker() as worker:
        process = await worker.open_process(["sleep", "100"])
        os.kill(worker.pid, signal.SIGSTOP)
        assert await outcomes(process.aclose, cancelled=cancelled) == [None] * (TASKS - cancelled)
        assert process.returncode == -signal.SIGKILL


async def test_whoever_waits_for_a_process_that_another_task_closes_learns_how_it_ended() -> None:
    async with open_worker() as worker, await worker.open_process(["sleep", "100"]) as process:
        os.kill(worker.pid, signal.SIGSTOP)
        statuses: list[int] = []

        async def wait() -> None:
            statuses.append(await process.wait())

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                with anyio.move_on_after(0):
                    await process.aclose()
        assert statuses == [-signal.SIGKILL]


async def test_a_process_by_several_tasks_when_its_worker_dies() -> None:
    async with open_worker() as worker:
        process = await worker.open_process(["sleep", "100"])
        os.kill(worker.pid, signal.SIGKILL)
        assert set(await outcomes(process.aclose)) <= {None, WorkerDied}


async def closable(what: str, worker: Worker) -> Worker | Process | NamespaceFile | anyio.abc.AsyncResource:
    if what == "namespace":
        return await worker.open_namespace("net")
    if what == "mount tree":
        return await worker.open_tree("/")  # type: ignore[return-value]
    process = await worker.open_process(["cat"])
    pipe = process.stdin if what == "input" else process.stdout
    assert pipe is not None
    process.kill()
    await process.wait()
    return pipe


@pytest.mark.parametrize("what", ["namespace", "mount tree", "input", "output"])
async def test_other_handles(what: str) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        handle = await closable(what, worker)
        assert await outcomes(handle.aclose) == [None] * TASKS
        await handle.aclose()


@pytest.mark.parametrize("died", [False, True], ids=["alive", "dead"])
async def test_a_worker_by_several_tasks_who_all_wait_until_it_is_gone(died: bool) -> None:
    gone = []

    async def close(worker: Worker) -> None:
        await worker.aclose()
        gone.append(is_gone(pid))

    async with open_worker() as outer, outer.fork() as worker:
        pid = worker.pid
        if died:
            os.kill(pid, signal.SIGKILL)
        assert await outcomes(partial(close, worker)) == [None] * TASKS
        assert gone == [True] * TASKS
        await worker.aclose()
    async with open_worker(unshare=["user", "pid"]) as inside:
        assert await outcomes(inside.aclose) == [None] * TASKS
