"""A worker that the test plays, and numbered calls to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import anyio
import anyio.abc

from aions._app.client import Client
from aions._wire import codec, fdsocket
from aions._wire.messages import REQUESTS, GetNamespaceID, Identified, Reply, Request


class FakeWorker:
    """Answers what the test wants, when the test wants it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    async def take(self) -> tuple[int, Request]:
        """Wait for the next request, whose descriptors are closed."""
        with anyio.fail_after(5):
            await anyio.wait_readable(self.socket)
        return self.take_now()

    def take_now(self) -> tuple[int, Request]:
        """Return the next request, which must be there already."""
        packet = fdsocket.receive(self.socket, socket.MSG_DONTWAIT)
        assert packet is not None
        fdsocket.close_all(packet.descriptors)
        return codec.decode(packet, REQUESTS)

    def answer(self, request_id: int, reply: Reply) -> None:
        """Send a reply and close the descriptors that go with it, as a worker does."""
        self.say(codec.encode(request_id, reply), reply.descriptors())
        fdsocket.close_all(reply.descriptors())

    def say(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send whatever bytes and descriptors; these remain the caller's."""
        fdsocket.send(self.socket, data, descriptors, socket.MSG_DONTWAIT)

    def die(self) -> None:
        self.socket.close()


Wire = tuple[Client, FakeWorker]


class Calls:
    """Numbered calls in tasks of their own, each of which can be cancelled."""

    def __init__(self, tasks: anyio.abc.TaskGroup, client: Client) -> None:
        self._tasks = tasks
        self._client = client
        self._scopes: dict[int, anyio.CancelScope] = {}
        self.outcomes: dict[int, object] = {}
        self._ended: dict[int, anyio.Event] = {}

    def start(self, *numbers: int) -> None:
        for number in numbers:
            self._scopes[number], self._ended[number] = anyio.CancelScope(), anyio.Event()
            self._tasks.start_soon(self._run, number)

    async def _run(self, number: int) -> None:
        with self._scopes[number]:
            try:
                reply = await self._client.call(GetNamespaceID(number, "net"), Identified)
                self.outcomes[number] = reply.inode
            except Exception as error:
                self.outcomes[number] = type(error)
        self._ended[number].set()

    async def end_of(self, number: int) -> None:
        with anyio.fail_after(2):
            await self._ended[number].wait()

    async def cancel(self, *numbers: int) -> None:
        """Cancel calls, and let whatever follows from that happen."""
        for number in numbers:
            self._scopes[number].cancel()
        await anyio.wait_all_tasks_blocked()


async def taken(worker: FakeWorker, count: int) -> dict[int, int]:
    """Take requests of `Calls`; return their ids by number."""
    ids = {}
    for _ in range(count):
        request_id, request = await worker.take()
        assert isinstance(request, GetNamespaceID)
        assert request.pid is not None
        ids[request.pid] = request_id
    return ids


def answer(worker: FakeWorker, ids: dict[int, int], *numbers: int) -> None:
    for number in numbers:
        worker.answer(ids[number], Identified(0, number, None))


def open_file() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


async def ask(wire: Wire) -> None:
    """Have one call answered: the connection works."""
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(7)
            answer(worker, await taken(worker, 1), 7)
    assert calls.outcomes == {7: 7}
