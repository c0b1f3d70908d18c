"""Streams that came from a worker behave as anyio's do: half-close, cancellation, large sends, back-pressure, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream

from aions import Namespace, Worker, open_worker

LARGE = 20 * 1024 * 1024


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True) as worker:
        yield worker


@asynccontextmanager
async def connected(worker: Worker, family: str) -> AsyncIterator[tuple[SocketStream, SocketStream]]:
    """Have the two ends of a connection."""
    if family == "unix":
        unix = await worker.create_unix_listener("\0name")
        async with unix, await worker.connect_unix("\0name") as near, await unix.accept() as far:
            yield near, far
        return
    host = {"IPv4": "127.0.0.1", "IPv6": "::1"}[family]
    async with await worker.create_tcp_listener(local_host=host) as listener:
        address = listener.listeners[0].extra(SocketAttribute.local_address)
        (tcp,) = listener.listeners
        assert isinstance(tcp, SocketListener)
        async with await worker.connect_tcp(*address) as near, await tcp.accept() as far:
            yield near, far


families = pytest.mark.parametrize("family", ["IPv4", "IPv6", "unix"])


@families
async def test_half_close(worker: Worker, family: str) -> None:
    async with connected(worker, family) as (near, far):
        await near.send(b"question")
        await near.send_eof()
        with anyio.fail_after(10):
            assert await far.receive() == b"question"
            with pytest.raises(anyio.EndOfStream):
                await far.receive()
            await far.send(b"answer")
            assert await near.receive() == b"answer"


@families
async def test_a_receive_that_is_cancelled_loses_nothing(worker: Worker, family: str) -> None:
    async with connected(worker, family) as (near, far):
        for _ in range(3):
            with anyio.move_on_after(0.01) as scope:
                await near.receive()
            assert scope.cancelled_caught
        await far.send(b"later")
        with anyio.fail_after(10):
            assert await near.receive() == b"later"


@families
async def test_large_sends(worker: Worker, family: str) -> None:
    data = bytes(range(256)) * (LARGE // 256)
    async with connected(worker, family) as (near, far), anyio.create_task_group() as tasks:
        tasks.start_soon(near.send, data)
        received = bytearray()
        with anyio.fail_after(60):
            while len(received) < len(data):
                received += await far.receive()
        assert received == data


@families
async def test_what_nobody_receives_is_held_back(worker: Worker, family: str) -> None:
    """By the end that has connected: what anyio's listeners accept on asyncio reads on, whether or not aions has part in it."""
    async with connected(worker, family) as (_near, sending), anyio.create_task_group() as tasks:
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await sending.send(bytes(65536))
                sent += 65536

        tasks.start_soon(send)
        with anyio.move_on_after(0.5):
            while sent < LARGE:
                await anyio.sleep(0.01)
        assert sent < LARGE
        tasks.cancel_scope.cancel()


@families
async def test_a_peer_that_is_gone(worker: Worker, family: str) -> None:
    async with connected(worker, family) as (near, far):
        await far.aclose()
        with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
            await near.receive()
        await near.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await near.send(b"late")


@families
async def test_one_task_receives(worker: Worker, family: str) -> None:
    async with connected(worker, family) as (near, _far), anyio.create_task_group() as tasks:
        tasks.start_soon(near.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await near.receive()
        tasks.cancel_scope.cancel()


async def test_attributes(worker: Worker) -> None:
    async with connected(worker, "IPv6") as (near, far):
        assert near.extra(SocketAttribute.family) == socket.AF_INET6
        assert near.extra(SocketAttribute.remote_address) == far.extra(SocketAttribute.local_address)
        assert near.extra(SocketAttribute.local_port) == far.extra(SocketAttribute.remote_port)
        assert near.extra(SocketAttribute.raw_socket).fileno() >= 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("how", ["tls", "context", "hostname"])
async def test_tls(worker: Worker, how: str, host: str) -> None:
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("server.test", host).configure_cert(theirs)
    authority.configure_trust(ours)

    async def greet(stream: TLSStream) -> None:
        with suppress(anyio.BrokenResourceError):  # a client that is not compatible hangs up without a word
            async with stream:
                await stream.send(b"hello")

    async with await worker.create_tcp_listener(local_host=host) as tcp, anyio.create_task_group() as tasks:
        port = tcp.extra(SocketAttribute.local_port)
        tasks.start_soon(TLSListener(tcp, theirs).serve, greet)
        if how == "tls":
            with pytest.raises(ssl.SSLCertVerificationError):  # the default context does not know the authority
                await worker.connect_tcp(host, port, tls=True)
        hostname = "server.test" if how == "hostname" else None
        stream = await worker.connect_tcp(host, port, ssl_context=ours, tls_hostname=hostname)
        async with stream:
            assert isinstance(stream, TLSStream)
            assert stream.standard_compatible
            assert stream.extra(TLSAttribute.tls_version).startswith("TLS")
            with anyio.fail_after(10):
                assert await stream.receive() == b"hello"
        stream = await worker.connect_tcp(host, port, ssl_context=ours, tls_standard_compatible=False)
        async with stream:
            assert not stream.standard_compatible
        with pytest.raises(ssl.SSLCertVerificationError):
            await worker.connect_tcp(host, port, ssl_context=ours, tls_hostname="other.test")
        tasks.cancel_scope.cancel()
