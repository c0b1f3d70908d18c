"""What goes to a worker and comes back is the same, however much it is."""

from __future__ import annotations

import os

from aions import open_worker
from tests.kernel.programs.counts import times
from tests.kernel.targets import on_one_loop

LONG = 5 * 2**20


@on_one_loop
async def test_all_sizes() -> None:
    """R15, through a worker."""
    data = os.urandom(LONG)
    async with open_worker() as worker:
        for size in range(0, LONG + 1, LONG // times("sizes")):
            assert await worker.run_sync(bytes, data[:size]) == data[:size]
