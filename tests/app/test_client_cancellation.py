"""Two thousand random cancellations: no reply reaches a wrong caller, no descriptor leaks."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections import Counter

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aions._app.client import Client
from aions._wire import codec
from aions._wire.fdsocket import to_memfd
from aions._wire.messages import Done, OpenSocket, Started, Unshare
from tests.app.fake_worker import FakeWorker, Wire

CANCELLATIONS = 2000
AT_ONCE = 300
"""More than fit into the socket, so that calls are cancelled also while they wait for that."""

PATIENCE = [0, 0, 1, 2, 5, 10, 20, 40]
"""Steps of the event loop until a call is cancelled; one call in five is not."""


class DisorderlyWorker:
    """Answers in random order, each request with its number and a file that holds it. `Unshare` is answered last."""

    def __init__(self, connection: socket.socket) -> None:
        self._worker = FakeWorker(connection)
        self._random = random.Random(1)
        self._requests: list[tuple[int, OpenSocket]] = []
        self._last = 0

    async def serve(self) -> None:
        while not self._last or self._requests:
            await (checkpoint() if self._requests else anyio.wait_readable(self._worker.socket))
            try:
                self._take(self._random.randrange(40))
                self._random.shuffle(self._requests)
                self._answer(self._random.randrange(len(self._requests) + 1))
            except BlockingIOError:
                pass
        self._worker.answer(self._last, Done())

    def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                request_id, request = self._worker.take_now()
            except BlockingIOError:
                return
            if isinstance(request, OpenSocket):
                self._requests.append((request_id, request))
            else:
                self._last = request_id

    def _answer(self, count: int) -> None:
        for _ in range(count):
            request_id, request = self._requests[-1]
            file = to_memfd(b"%d" % request.family)
            try:
                self._worker.say(codec.encode(request_id, Started(request.family, file)), [file])
            finally:
                os.close(file)
            self._requests.pop()


async def call(client: Client, number: int) -> None:
    """Make a call and check that it is this call's reply that comes."""
    reply = await client.call(OpenSocket(number, 0, 0, ()), Started)
    content = os.pread(reply.pidfd, 100, 0)
    os.close(reply.pidfd)
    assert (reply.pid, content) == (number, b"%d" % number)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_cancellations_at_random_mix_nothing_up_and_leak_nothing(wire: Wire) -> None:
    outcomes: Counter[str] = Counter()
    numbers = itertools.count()
    rng = random.Random(2)

    async def cancel_soon(scope: anyio.CancelScope) -> None:
        for _ in range(rng.choice(PATIENCE)):
            await checkpoint()
        scope.cancel()

    async def call_again_and_again() -> None:
        while outcomes["cancelled"] < CANCELLATIONS:
            with anyio.CancelScope() as scope:
                if rng.random() < 0.8:
                    tasks.start_soon(cancel_soon, scope)
                await call(client, next(numbers))
                outcomes["answered"] += 1
            outcomes["cancelled"] += scope.cancelled_caught

    client, worker = wire
    before = open_descriptors()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisorderlyWorker(worker.socket).serve)
            async with anyio.create_task_group() as callers:
                for _ in range(AT_ONCE):
                    callers.start_soon(call_again_and_again)
            await client.call(Unshare(1), Done)
    assert open_descriptors() == before
    assert client._calls == {}
    assert outcomes["answered"] > 100


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
async def test_asyncios_own_cancellations_at_random_mix_nothing_up_and_leak_nothing(wire: Wire) -> None:
    """They come also to tasks that were woken and have not run yet."""
    outcomes: Counter[bool] = Counter()
    numbers = itertools.count()
    rng = random.Random(3)

    async def call_again_and_again() -> None:
        while outcomes[True] < CANCELLATIONS:
            task = asyncio.create_task(call(client, next(numbers)))
            if rng.random() < 0.8:
                for _ in range(rng.choice(PATIENCE)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            outcomes[task.cancelled()] += 1
            assert task.cancelled() or task.exception() is None

    client, worker = wire
    before = open_descriptors()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(DisorderlyWorker(worker.socket).serve())
        async with asyncio.TaskGroup() as callers:
            for _ in range(AT_ONCE):
                callers.create_task(call_again_and_again())
        await client.call(Unshare(1), Done)
    assert open_descriptors() == before
    assert client._calls == {}
    assert outcomes[False] > 100
