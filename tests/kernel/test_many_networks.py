"""One app, one event loop, one worker, and as many network namespaces as it likes."""

from __future__ import annotations

import gc
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import pytest

from aions import Namespace, NamespaceFile, Worker, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.targets import on_one_loop
from tests.kernel.test_sockets import cookie

A_FEW = 50


@pytest.fixture
def many() -> Iterator[int]:
    """How many namespaces to make, with descriptors enough for two each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(times("networks"), (hard - 200) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * count + 200)), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_message_passes_in_each_of_many_networks(many: int) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        with ExitStack() as stack:
            before = len(os.listdir("/proc/self/fd"))
            files = [await worker.new_namespace("net", loopback=True) for _ in range(many)]
            for file in files:
                stack.callback(file.close)
            assert len(os.listdir("/proc/self/fd")) == before + many
            remaining = iter(files)
            cookies: list[int] = []

            async def take() -> None:
                for file in remaining:
                    stack.enter_context(sock := await pass_a_message(worker, file))
                    cookies.append(cookie(sock))

            async with anyio.create_task_group() as tasks:
                for _ in range(A_FEW):
                    tasks.start_soon(take)
            assert len(set(cookies)) == many


async def pass_a_message(worker: Worker, file: NamespaceFile) -> socket.socket:
    """Make a socket in a network, and send a datagram to it through that network's loopback."""
    sock = await worker.socket(type=socket.SOCK_DGRAM, namespace=file)
    sock.bind(("127.0.0.1", 1000))
    sock.sendto(str(file.fileno()).encode(), ("127.0.0.1", 1000))
    await anyio.wait_readable(sock)
    assert sock.recv(100) == str(file.fileno()).encode()
    return sock


@on_one_loop
async def test_a_namespace_takes_a_descriptor_and_little_memory() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        files = [await worker.new_namespace("net")]
        gc.collect()
        tracemalloc.start()
        try:
            files += [await worker.new_namespace("net") for _ in range(A_FEW)]
            gc.collect()
            taken, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken / A_FEW < 1024
        for file in files:
            file.close()
