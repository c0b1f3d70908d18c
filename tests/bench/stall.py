"""How long the event loop is held up: by nothing, and by opening workers and running commands in them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import anyio

import aions

TICK = 0.001
"""Seconds after which the loop is asked whether it is still there."""

ROUND = 0.25
"""Seconds of which the worst tick counts."""


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


async def run_by_unshare() -> None:
    await anyio.run_process(["unshare", "--user", "--map-root-user", "--net", "true"])


WORK: dict[str, Callable[[], Awaitable[object]]] = {
    "when idle": idle,
    "while aions opens and runs": open_and_run,
    "while anyio runs unshare": run_by_unshare,
}


async def stalls(rounds: int) -> dict[str, float]:
    """Return the seconds by which the worst tick of a round is late, in loops that do different things."""
    measured = [[await worst_tick(work) for work in WORK.values()] for _ in range(rounds)]
    return dict(zip(WORK, map(statistics.median, zip(*measured, strict=True)), strict=True))
