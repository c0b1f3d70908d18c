"""Having one task wait, and doing something about it in another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


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
