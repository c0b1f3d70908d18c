"""Sockets of a worker's network namespace, in the hands of the app."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import anyio
import pytest
import trio
from anyio.abc import ByteStream, SocketAttribute, SocketListener, SocketStream, UDPSocket
from anyio.lowlevel import checkpoint

import aions
from aions import Namespace, Worker, open_worker
from aions._app.client import MAX_UNANSWERED
from tests.kernel.explained import named, refusal, works
from tests.kernel.targets import on_one_loop, target_as_root

SO_NETNS_COOKIE = 71
"""The number of the socket's network namespace, which is the namespace's id (Linux 5.14)."""


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker in a network namespace of its own, whose loopback is up."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        await worker.run_process(["ip", "link", "set", "lo", "up"])
        yield worker


pytestmark = pytest.mark.needs("ip")


def cookie(sock: socket.socket) -> int:
    number: int
    (number,) = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
    return number


async def network(worker: Worker) -> int:
    """Return the number of a worker's network namespace."""
    number = (await worker.get_namespace_id(None, Namespace.NETWORK)).id
    if number is None:
        pytest.skip("NS_GET_ID needs Linux 6.18")
    return number


KINDS = [
    (socket.AF_INET, socket.SOCK_STREAM, 0),
    (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    (socket.AF_INET, socket.SOCK_DGRAM, 0),
    (socket.AF_INET6, socket.SOCK_STREAM, 0),
    (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
    (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_PACKET, socket.SOCK_RAW, 0),
    (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
]


@on_one_loop
@pytest.mark.parametrize(("family", "kind", "protocol"), KINDS, ids=str)
async def test_a_socket_is_of_the_kind_that_was_asked_for(
    worker: Worker, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int
) -> None:
    with await worker.socket(family, kind, protocol) as sock:
        assert (sock.family, sock.type, sock.proto) == (family, kind, protocol)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == family
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
        if protocol:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == protocol


@on_one_loop
async def test_the_default_is_tcp(worker: Worker) -> None:
    with await worker.socket() as sock:
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)


@on_one_loop
async def test_a_socket_is_non_blocking_and_close_on_exec(worker: Worker) -> None:
    for flags in (0, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
        with await worker.socket(type=socket.SOCK_STREAM | flags) as sock:
            assert sock.type == socket.SOCK_STREAM
            assert sock.gettimeout() == 0
            assert not os.get_blocking(sock.fileno())
            assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


@on_one_loop
async def test_a_socket_is_of_the_workers_network(worker: Worker) -> None:
    with await worker.socket() as sock, socket.socket() as own:
        assert cookie(sock) == await network(worker) != cookie(own)


@on_one_loop
async def test_the_function_takes_the_current_worker() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        with await aions.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            assert cookie(sock) == await network(worker)
            assert (sock.family, sock.type) == (socket.AF_INET6, socket.SOCK_DGRAM)


async def connect(sock: socket.socket, address: tuple[str, int]) -> SocketStream:
    """Connect a socket and make a stream of it."""
    with anyio.fail_after(10):
        assert sock.connect_ex(address) in (0, errno.EINPROGRESS)
        await anyio.wait_writable(sock)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    return await SocketStream.from_socket(sock)


async def listener(worker: Worker) -> SocketListener:
    """Listen on a free port of the worker's loopback."""
    sock = await worker.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return await SocketListener.from_socket(sock)


async def shout(stream: ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data.upper())


async def shouted(stream: SocketStream, data: bytes) -> bytes:
    """Send, and receive as much."""
    async with stream:
        await stream.send(data)
        with anyio.fail_after(10):
            return await stream.receive()


async def test_a_server_and_its_client_in_one_namespace(worker: Worker) -> None:
    async with await listener(worker) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, shout)
        address = server.extra(SocketAttribute.local_address)
        stream = await connect(await worker.socket(), address)  # type: ignore[arg-type]
        assert stream.extra(SocketAttribute.remote_address) == address
        assert await shouted(stream, b"hello") == b"HELLO"
        tasks.cancel_scope.cancel()


async def test_loopback_is_the_namespaces_own(worker: Worker) -> None:
    async with await listener(worker) as server:
        with socket.socket() as own, pytest.raises(ConnectionRefusedError):
            own.connect(server.extra(SocketAttribute.local_address))


async def test_sockets_stay_when_the_worker_moves_on(worker: Worker) -> None:
    before = await network(worker)
    async with worker.fork() as stayed, await listener(worker) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, shout)
        await worker.unshare(Namespace.NETWORK)
        with await worker.socket() as elsewhere:
            assert cookie(elsewhere) == await network(worker) != before
        assert cookie(server.extra(SocketAttribute.raw_socket)) == before
        address = server.extra(SocketAttribute.local_address)
        assert await shouted(await connect(await stayed.socket(), address), b"still") == b"STILL"  # type: ignore[arg-type]
        tasks.cancel_scope.cancel()


async def test_datagrams(worker: Worker) -> None:
    sockets = [await worker.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    first, second = [await UDPSocket.from_socket(sock) for sock in sockets]
    async with first, second:
        await first.sendto(b"datagram", *sockets[1].getsockname())
        with anyio.fail_after(10):
            assert await second.receive() == (b"datagram", sockets[0].getsockname())


@on_one_loop
async def test_asyncio_takes_the_sockets(worker: Worker) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    loop = asyncio.get_running_loop()
    sock = await worker.socket()
    sock.bind(("127.0.0.1", 0))
    async with await asyncio.start_server(answer, sock=sock):
        client = await worker.socket()
        await loop.sock_connect(client, sock.getsockname())
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"HELLO\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
async def test_trio_takes_the_sockets(worker: Worker) -> None:
    server = trio.socket.from_stdlib_socket(await worker.socket())
    client = trio.socket.from_stdlib_socket(await worker.socket())
    with server, client, trio.fail_after(10):
        await server.bind(("127.0.0.1", 0))
        server.listen()
        await client.connect(server.getsockname())
        accepted, _ = await server.accept()
        with accepted:
            await client.send(b"hello")
            assert await accepted.recv(100) == b"hello"


@on_one_loop
async def test_a_socket_outlives_its_worker() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        sock = await worker.socket()
        number = await network(worker)
    with sock:
        assert cookie(sock) == number
        sock.bind(("127.0.0.1", 80))


@on_one_loop
async def test_a_socket_of_a_namespace_that_aions_did_not_make() -> None:
    with target_as_root(Namespace.NETWORK) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, Namespace.USER | Namespace.NETWORK)
            with await worker.socket() as sock, socket.socket() as own:
                assert cookie(sock) == await network(worker) != cookie(own)


@on_one_loop
async def test_the_same_port_is_free_in_each_namespace(worker: Worker) -> None:
    async with worker.fork() as other:
        await other.unshare(Namespace.NETWORK)
        with await worker.socket() as first, await worker.socket() as second, await other.socket() as third:
            for sock in (first, third):
                sock.bind(("0.0.0.0", 80))
            with pytest.raises(OSError, match="in use"):
                second.bind(("0.0.0.0", 80))


@on_one_loop
async def test_raw_sockets_of_the_hosts_network_are_refused() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        call = f"socket({int(socket.AF_INET)}, {int(socket.SOCK_RAW)}|"
        with refusal(errno.EPERM, call, named(worker), "CAP_NET_RAW"):
            await worker.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with refusal(errno.EPERM, "socket(", named(worker), "CAP_NET_RAW"):
            await worker.socket(socket.AF_PACKET, socket.SOCK_RAW)
        assert await works(worker)


@on_one_loop
@pytest.mark.parametrize(
    ("family", "kind", "protocol", "number"),
    [
        (99, socket.SOCK_STREAM, 0, errno.EAFNOSUPPORT),
        (socket.AF_INET, 99, 0, errno.EINVAL),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, errno.EPROTONOSUPPORT),
    ],
)
async def test_sockets_that_do_not_exist(worker: Worker, family: int, kind: int, protocol: int, number: int) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        await worker.socket(family, kind, protocol)
    assert caught.value.errno == number
    assert (
        caught.value.__notes__[0]
        == f"socket({int(family)}, {int(kind)}|SOCK_CLOEXEC|SOCK_NONBLOCK, {protocol}) was refused in {named(worker)}."
    )
    assert await works(worker)


@pytest.fixture
def limit() -> Iterator[int]:
    """A limit on descriptors that also those reach which are on their way."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, limits[1]))
    yield 400
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def some_turns(count: int = 100) -> None:
    """Let tasks do what they can: some of them never cease to try."""
    for _ in range(count):
        await checkpoint()


@pytest.mark.plain_user
async def test_more_descriptors_on_their_way_than_a_user_may_have_are_waited_for(limit: int) -> None:
    """Requests wait, and so does a reply."""
    each = MAX_UNANSWERED - 4
    async with AsyncExitStack() as stack:
        inside = open_worker(unshare=Namespace.USER | Namespace.NETWORK)
        worker = await stack.enter_async_context(inside)
        stopped = [await stack.enter_async_context(worker.fork()) for _ in range(limit // each + 1)]
        file = await stack.enter_async_context(await worker.new_namespace("net"))
        opened = 0

        async def open_one(fork: Worker) -> None:
            nonlocal opened
            (await fork.socket(namespace=file)).close()
            opened += 1

        async def open_own() -> None:
            await (await worker.open_namespace("net")).aclose()

        async with anyio.create_task_group() as tasks:
            for fork in stopped:
                os.kill(fork.pid, signal.SIGSTOP)
                for _ in range(each):
                    tasks.start_soon(open_one, fork)
            await some_turns()
            tasks.start_soon(open_own)
            await some_turns(30)
            for count, fork in enumerate(reversed(stopped), 1):
                os.kill(fork.pid, signal.SIGCONT)
                while opened < count * each:
                    await anyio.sleep(0.001)
        assert opened == len(stopped) * each


@pytest.mark.plain_user
async def test_descriptors_in_replies_that_nobody_waits_for_any_more_are_taken_out(limit: int) -> None:
    async with open_worker() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            for _ in range(limit + 40):
                tasks.start_soon(worker.socket)
            await some_turns()
            tasks.cancel_scope.cancel()
        os.kill(worker.pid, signal.SIGCONT)
        await worker.run_process(["true"])
        async with open_worker() as other:
            assert await works(other)
