"""How long the event loop is held up: by nothing, by aions, and by anyio.

A timer of the loop's own would not do: loops round up to the next millisecond what is left of one whenever they wake.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

import aions

TICK = 0.001
"""Seconds after which the loop is asked whether it is still there."""

ROUND = 0.25
"""Seconds of which the worst answer counts."""


@contextmanager
def knocking() -> Iterator[int]:
    """Have a thread write the time into a pipe, again and again; the pipe is for the loop to read."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    end = time.perf_counter() + ROUND

    def knock() -> None:
        while (now := time.perf_counter_ns()) < end * 1e9:
            os.write(writing, now.to_bytes(8, "little"))
            time.sleep(TICK)
        os.close(writing)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield reading
    finally:
        thread.join()
        os.close(reading)


async def worst_delay(work: Callable[[], Awaitable[object]]) -> float:
    """Return after how many seconds the loop attends to what happened, at the worst, while some work is done over and over."""
    worst = 0
    with knocking() as pipe:
        async with anyio.create_task_group() as tasks:

            async def repeat() -> None:
                while True:
                    await work()

            tasks.start_soon(repeat)
            while True:
                await anyio.wait_readable(pipe)
                then = os.read(pipe, 8)
                if not then:
                    break
                worst = max(worst, time.perf_counter_ns() - int.from_bytes(then, "little"))
            tasks.cancel_scope.cancel()
    return worst / 1e9


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


async def delays(rounds: int) -> dict[str, float]:
    """Return the seconds after which a loop attends to what happened, at the worst, while it does different things."""
    measured = [[await worst_delay(work) for work in WORK.values()] for _ in range(rounds)]
    return dict(zip(WORK, map(statistics.median, zip(*measured, strict=True)), strict=True))
