"""One app, one event loop, one worker, and as many network namespaces as it likes."""

from __future__ import annotations

import gc
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, closing

import anyio
import pytest

from aions import Namespace, NamespaceFile, open_namespace, open_worker
from tests.kernel.conftest import REQUIRED
from tests.kernel.programs.counts import times
from tests.kernel.targets import let_look_into, on_one_loop
from tests.kernel.test_sockets import cookie

A_FEW = 50

SPARE = 1000
"""Descriptors for all that is not counted."""


@pytest.fixture
def many() -> Iterator[int]:
    """How many namespaces to make, with descriptors enough for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = times("networks")
    if hard < count + SPARE:
        reason = f"{count} networks take more descriptors than a hard RLIMIT_NOFILE of {hard} allows"
        pytest.fail(reason) if REQUIRED else pytest.skip(reason)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + SPARE), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_message_passes_in_each_of_many_networks(many: int) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        with ExitStack() as stack:
            before = len(os.listdir("/proc/self/fd"))
            remaining = iter(range(many))
            files: list[NamespaceFile] = []

            async def make() -> None:
                for _ in remaining:
                    files.append(file := await worker.new_namespace("net", loopback=True))
                    stack.callback(file.close)

            async with anyio.create_task_group() as tasks:
                for _ in range(A_FEW):
                    tasks.start_soon(make)
            assert len(os.listdir("/proc/self/fd")) == before + many
            unused = iter(files)
            cookies: list[int] = []

            async def take() -> None:
                for file in unused:
                    with await worker.socket(type=socket.SOCK_DGRAM, namespace=file) as sock:
                        await pass_a_message(sock)
                        cookies.append(cookie(sock))

            async with anyio.create_task_group() as tasks:
                for _ in range(A_FEW):
                    tasks.start_soon(take)
            assert len(set(cookies)) == many


async def test_a_socket_in_each_of_many_networks_keeps_it(many: int) -> None:
    """All sockets are held, and none of the descriptors that they were made with."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        with ExitStack() as stack:
            made: list[socket.socket] = []
            while len(made) < many:
                files = [await worker.new_namespace("net", loopback=True) for _ in range(min(many - len(made), 500))]
                made += [stack.enter_context(sock) for sock in await worker.sockets(files, type=socket.SOCK_DGRAM)]
                for file in files:
                    file.close()
            for sock in made:
                await pass_a_message(sock)
            assert len({cookie(sock) for sock in made}) == many


async def pass_a_message(sock: socket.socket) -> None:
    """Have a socket send a datagram to itself, through the loopback of its network."""
    sock.bind(("127.0.0.1", 1000))
    sock.sendto(str(sock.fileno()).encode(), ("127.0.0.1", 1000))
    await anyio.wait_readable(sock)
    assert sock.recv(100) == str(sock.fileno()).encode()


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


async def test_a_socket_in_each_of_many_networks_at_once() -> None:
    """More than one request of them, in order; and none at all where one cannot be made."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        with ExitStack() as stack:
            files = [stack.enter_context(closing(await worker.new_namespace("net"))) for _ in range(2)] * 60
            made = [stack.enter_context(sock) for sock in await worker.sockets(files, type=socket.SOCK_DGRAM)]
            assert [cookie(sock) for sock in made] == [file.id.id for file in files]
            assert {sock.type for sock in made} == {socket.SOCK_DGRAM}
            user = stack.enter_context(closing(await worker.open_namespace("user")))
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ValueError, match="no network namespace"):
                await worker.sockets([*files, user])
            with pytest.raises(OSError, match="not supported"):
                await worker.sockets(files, 99)
            assert len(os.listdir("/proc/self/fd")) == before
            assert await worker.sockets([]) == []


@on_one_loop
async def test_sockets_that_were_made_before_one_was_refused_are_not_kept() -> None:
    async with (
        open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker,
        await worker.open_namespace("net") as own,
        await open_namespace(os.getpid(), "net") as hosts,
    ):
        await let_look_into(worker)
        before = len(os.listdir(f"/proc/{worker.pid}/fd"))
        with pytest.raises(PermissionError):
            await worker.sockets([own, own, hosts])
        assert len(os.listdir(f"/proc/{worker.pid}/fd")) == before
