"""Having one task wait, and doing something about it in another; and having none wait for long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio


@asynccontextmanager
async def attentive_loop(longest: float = 0.5) -> AsyncIterator[None]:
    """Have the event loop stand still for no longer than so many seconds while the block runs."""
    still = 0.0

    async def tick() -> None:
        nonlocal still
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.001)
            still = max(still, time.perf_counter() - before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await anyio.wait_all_tasks_blocked()
        yield
        await anyio.sleep(0.002)  # so that what it stood still for last is seen
        tasks.cancel_scope.cancel()
    assert still < longest


async def outcome(wait: Callable[[], Awaitable[object]], act: Callable[[], object]) -> object:
    """Begin to wait; when nothing more happens, act; return what the waiting one then returns or raises."""
    outcomes: list[object] = []

    async def catch() -> None:
        try:
            outcomes.append(await wait())
        except Exception as error:
            outcomes.append(error)

    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(catch)
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            act()
    return outcomes[0]
