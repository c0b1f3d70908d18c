"""A handle is for the event loop that it was made in: in another one it raises RuntimeError at once, and its owner goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest

from aions import Process, Worker, open_namespace, open_worker

Use = Callable[[Worker, Process], Awaitable[object]]


async def read(_worker: Worker, process: Process) -> object:
    assert process.stdout
    return await process.stdout.receive()


async def write(_worker: Worker, process: Process) -> None:
    assert process.stdin
    await process.stdin.send(b"x")


async def fork(worker: Worker, _process: Process) -> None:
    async with worker.fork():
        pass


USES: dict[str, Use] = {
    "get_namespace_id": lambda worker, _process: worker.get_namespace_id(None, "net"),
    "get_namespace_id of a process": lambda worker, _process: worker.get_namespace_id(1, "net"),
    "run_process": lambda worker, _process: worker.run_process(["true"]),
    "open_process": lambda worker, _process: worker.open_process(["true"]),
    "run_sync": lambda worker, _process: worker.run_sync(divmod, 7, 3),
    "run_sync, cancellable": lambda worker, _process: worker.run_sync(divmod, 7, 3, cancellable=True),
    "socket": lambda worker, _process: worker.socket(),
    "create_tcp_listener": lambda worker, _process: worker.create_tcp_listener(),
    "getaddrinfo": lambda worker, _process: worker.getaddrinfo("localhost", 80),
    "open": lambda worker, _process: worker.open("/", 0),
    "open_file": lambda worker, _process: worker.open_file("/dev/null"),
    "new_namespace": lambda worker, _process: worker.new_namespace("net"),
    "unshare": lambda worker, _process: worker.unshare("uts"),
    "fork": fork,
    "aclose of the worker": lambda worker, _process: worker.aclose(),
    "wait": lambda _worker, process: process.wait(),
    "aclose of the process": lambda _worker, process: process.aclose(),
    "receive": read,
    "send": write,
}


def in_another_loop(use: Callable[[], Awaitable[object]], backend: str) -> object:
    """Return what comes of something in a loop of its own, in this thread."""

    async def main() -> object:
        try:
            with anyio.fail_after(5):
                return await use()
        except Exception as error:
            return error

    return anyio.run(main, backend=backend)


async def elsewhere(use: Callable[[], Awaitable[object]], backend: str) -> object:
    """Do something in another thread with a loop of its own, and return what comes of it; this loop goes on meanwhile."""
    return await anyio.to_thread.run_sync(in_another_loop, use, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", USES)
async def test_it_is_refused_and_harms_nothing(name: str, backend: str) -> None:
    async with open_worker() as worker, await worker.open_process(["cat"]) as process:
        error = await elsewhere(lambda: USES[name](worker, process), backend)
        assert isinstance(error, RuntimeError), error
        assert "belongs to another event loop" in str(error)
        assert await worker.get_namespace_id(None, "net")
        assert process.stdin
        assert process.stdout
        await process.stdin.send(b"x")
        assert await process.stdout.receive() == b"x"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_what_belongs_to_no_loop_is_of_use_everywhere(backend: str) -> None:
    async with open_worker(unshare=["user", "net"]) as worker, await worker.open_namespace("net") as namespace:

        async def use() -> object:
            async with await open_namespace(namespace) as again:
                return again.id, namespace.id

        assert await elsewhere(use, backend) == (namespace.id, namespace.id)


def test_a_handle_of_a_loop_that_has_ended_is_refused(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    kept: list[Process] = []

    async def main() -> None:
        async with open_worker() as worker:
            kept.append(await worker.open_process(["cat"]))

    async def use() -> None:
        await kept[0].aclose()

    name, options = anyio_backend
    anyio.run(main, backend=name, backend_options=options)
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        anyio.run(use, backend=name, backend_options=options)
