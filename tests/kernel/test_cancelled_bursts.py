"""Any number of calls at once that are all cancelled: the connection goes on, and so does what looks after commands."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Coroutine
from functools import partial

import anyio
from anyio.lowlevel import checkpoint

from aions import Process, Worker
from tests.kernel.programs.counts import times
from tests.kernel.test_cancellation import check_unharmed, descriptors, known, seeded, settled_descriptors

CALLS = 600
"""More than the sockets take, there and back."""

AT_ONCE = 4


async def fork(worker: Worker) -> None:
    async with worker.fork() as fork:
        await fork.get_namespace_id(None, "net")


async def close_socket(worker: Worker, kind: int) -> None:
    (await worker.socket(socket.AF_UNIX, kind)).close()


def calls(worker: Worker, rng: random.Random) -> list[Callable[[], Coroutine[object, object, object]]]:
    """Return as many calls as a burst has, in an order of its own."""
    found: list[Callable[[], Coroutine[object, object, object]]] = [
        *[partial(worker.run_process, ["true"])] * 8,
        *[partial(worker.run_process, ["sleep", "100"], input=b"x")] * 8,
        *[partial(fork, worker)] * 4,
        *[partial(close_socket, worker, socket.SOCK_STREAM)] * (CALLS // 3),
        *[partial(close_socket, worker, socket.SOCK_SEQPACKET)] * (CALLS // 6),
    ]
    found += [partial(worker.get_namespace_id, None, "net")] * (CALLS - len(found))
    rng.shuffle(found)
    return found


async def burst(worker: Worker, rng: random.Random) -> None:
    async with anyio.create_task_group() as tasks:
        for call in calls(worker, rng):
            tasks.start_soon(call)
        for _ in range(rng.choice((1, 2, 5, 20, 100))):
            await checkpoint()
        tasks.cancel_scope.cancel()


async def start(worker: Worker) -> list[Process]:
    """Start commands that end by themselves, each with a status of its own, once their input does."""
    return [await worker.open_process(f"cat; exit {number}", stdout=None) for number in range(AT_ONCE)]


async def statuses(commands: list[Process]) -> list[int]:
    """Return how commands have ended, without a call to the worker: what it says to nobody must not keep it from telling."""
    for command in commands:
        assert command.stdin
        await command.stdin.aclose()
    with anyio.fail_after(20):
        return [await command.wait() for command in commands]


async def test_bursts_of_cancelled_calls_stop_neither_calls_nor_commands() -> None:
    rng = seeded()
    async with known() as facts:
        app_before, worker_before = await settled_descriptors(), descriptors(facts.worker.pid)
        for _ in range(times("bursts")):
            commands = await start(facts.worker)
            await burst(facts.worker, rng)
            assert await statuses(commands) == list(range(AT_ONCE))
            with anyio.fail_after(20):
                assert await facts.worker.get_namespace_id(None, "net") == facts.own
            for command in commands:
                await command.aclose()
        await check_unharmed(facts, worker_before)
        assert await settled_descriptors() == app_before
