"""How long the event loop is held up: by nothing, and by opening workers and running commands in them."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Awaitable, Callable

import anyio

import aions

TICK = 0.001
"""Seconds after which the loop is asked whether it is still there."""

ROUND = 0.25
"""Seconds of which the worst tick counts."""

MEGABYTE = 1 << 20


def grow(megabytes: int, threads: int) -> bytearray:
    """Make this a large program: memory that is written to, and threads that wait."""
    for _ in range(threads):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    memory = bytearray(megabytes * MEGABYTE)
    memory[::4096] = b"\1" * len(memory[::4096])
    return memory


async def worst_tick(work: Callable[[], Awaitable[object]]) -> float:
    """Return by how many seconds a tick was late, at the worst, while some work was done again and again."""
    worst, end = 0.0, time.perf_counter() + ROUND

    async def repeat() -> None:
        while time.perf_counter() < end:
            await work()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(repeat)
        while (start := time.perf_counter()) < end:
            await anyio.sleep(TICK)
            worst = max(worst, time.perf_counter() - start - TICK)
    return worst


async def idle() -> None:
    await anyio.sleep(ROUND)


async def open_and_run() -> None:
    async with aions.open_worker(unshare=aions.Namespace.USER | aions.Namespace.NETWORK) as worker:
        await worker.run_process(["true"])


async def stalls(rounds: int) -> tuple[float, float]:
    """Return the seconds by which the worst tick of a round is late: in an idle loop, and in one that works with aions."""
    measured = [(await worst_tick(idle), await worst_tick(open_and_run)) for _ in range(rounds)]
    nothing, working = (statistics.median(column) for column in zip(*measured, strict=True))
    return nothing, working
