"""What a network namespace costs while a hundred, a thousand and ten thousand are held; for root."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing

import aions
from aions import NamespaceFile, Worker
from tests.bench import peers
from tests.bench.memory import own_kilobytes

HELD = 100, 1_000, 10_000

MADE = 30
"""So many more are made to measure what making one costs."""

ROUNDS = 5
"""So often sockets are made in all that are held."""

AT_ONCE = 5_000
"""So many sockets are held at a time: a table of descriptors may have room for no more."""

SPARE = 1000
"""Descriptors for all that is not counted."""

HEADER = (
    "| networks held | make one, ms | bare loop | ratio | a socket in each, ms | bare loop | ratio | kB each | descriptors |\n"
    "|          ---: |         ---: |      ---: |  ---: |                 ---: |      ---: |  ---: |    ---: |        ---: |\n"
)


async def rows() -> AsyncIterator[str]:
    """Yield the rows of the table, as they are found."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, HELD[-1] + AT_ONCE + SPARE), hard))
    with ExitStack() as stack:
        back = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, back)
        async with aions.open_worker() as worker:
            held: list[NamespaceFile] = []
            await make(worker, back)  # warms up
            before = own_kilobytes(), len(os.listdir("/proc/self/fd"))
            for count in HELD:
                while len(held) < count:
                    held.append(stack.enter_context(closing(await worker.new_namespace("net"))))
                memory = (own_kilobytes() - before[0]) / count
                descriptors = (len(os.listdir("/proc/self/fd")) - before[1]) / count
                making, bare_making = await make(worker, back)
                opening, bare_opening = await open_sockets(worker, held, back)
                yield (
                    f"| {count:13,} | {making:12.2f} | {bare_making:9.2f} | {making / bare_making:5.2f} "
                    f"| {opening:20.1f} | {bare_opening:9.1f} | {opening / bare_opening:5.2f} "
                    f"| {memory:7.2f} | {descriptors:11.2f} |\n"
                )


async def make(worker: Worker, back: int) -> tuple[float, float]:
    """Return the milliseconds that one more takes, and in a bare loop."""
    ours, bare = [], []
    for _ in range(MADE):
        start = time.perf_counter()
        file = await worker.new_namespace("net")
        ours.append(time.perf_counter() - start)
        bare.append(peers.new_network(back))
        file.close()
    return statistics.median(ours) * 1000, statistics.median(bare) * 1000


async def open_sockets(worker: Worker, held: list[NamespaceFile], back: int) -> tuple[float, float]:
    """Return the milliseconds that a socket in each takes, and in a bare loop."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(0.0)
        bare.append(0.0)
        for first in range(0, len(held), AT_ONCE):
            some = held[first : first + AT_ONCE]
            start = time.perf_counter()
            made = await worker.sockets(some)
            ours[-1] += time.perf_counter() - start
            for sock in made:
                sock.close()
            bare[-1] += peers.sockets_by_setns([file.fileno() for file in some], back)
    return statistics.median(ours) * 1000, statistics.median(bare) * 1000
