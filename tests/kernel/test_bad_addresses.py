"""What is wrong for anyio's functions, and for sockets, is wrong for ours in the same way; no worker minds it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from aions import Worker, open_worker
from tests.kernel.explained import works
from tests.kernel.targets import on_one_loop

pytestmark = on_one_loop


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker where the app is, which has to work when the test is over."""
    async with open_worker() as worker:
        yield worker
        assert await works(worker)


async def outcome(call: Callable[[], Awaitable[Any]]) -> tuple[object, ...]:
    """Return what a call returns, or of what kind its refusal is."""
    try:
        return (await call(),)
    except Exception as error:
        return type(error), getattr(error, "errno", None), str(error) if type(error) is OSError else None


CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "bytes that are no UTF-8": lambda on: on.getaddrinfo(b"\xff", 80),
    "a zero byte in a host": lambda on: on.getaddrinfo(b"a\0b", 80),
    "a number for a host": lambda on: on.getaddrinfo(5, 80),
    "a port in bytes": lambda on: on.getaddrinfo("127.0.0.1", b"80", type=socket.SOCK_STREAM),
    "a port in half a letter": lambda on: on.getaddrinfo("127.0.0.1", "\udc80"),
    "flags beyond an int": lambda on: on.getaddrinfo("127.0.0.1", 80, flags=2**40),
    "a family beyond an int": lambda on: on.getaddrinfo("127.0.0.1", 80, family=2**31),
    "an address of nothing": lambda on: on.getnameinfo(()),
    "an address without a port": lambda on: on.getnameinfo(("127.0.0.1",)),
    "an address with a zero byte": lambda on: on.getnameinfo(("a\0", 80)),
    "an address of half a letter": lambda on: on.getnameinfo(("\udc80", 80)),
    "flags for an address beyond an int": lambda on: on.getnameinfo(("127.0.0.1", 80), 2**40),
    "a port beyond an int": lambda on: on.getnameinfo(("127.0.0.1", 2**40)),
    "an address with a scope": lambda on: on.getnameinfo(("fe80::1", 80, 0, 1), socket.NI_NUMERICHOST),
    "a TCP listener of another family": lambda on: on.create_tcp_listener(family=socket.AF_UNIX),
    "a local address of another family": lambda on: on.connect_tcp("127.0.0.1", 1, local_host="::1"),
    "a scope that is not there": lambda on: on.connect_tcp("fe80::1%nosuch", 1),
    "no path": lambda on: on.connect_unix(None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_the_same_as_anyio(worker: Worker, call: Callable[[Any], Awaitable[Any]]) -> None:
    assert await outcome(partial(call, worker)) == await outcome(partial(call, anyio))


async def test_numbers_of_sockets(worker: Worker) -> None:
    with await worker.socket(-1, -1, -1) as sock, socket.socket() as theirs:
        assert (sock.family, sock.type) == (theirs.family, theirs.type)
    for kind in ((2**31, 1, 0), (2, 2**31, 0), (2, 1, -(2**31) - 1)):
        with pytest.raises(OverflowError):
            await worker.socket(*kind)
    with pytest.raises(socket.gaierror, match="family"):
        await worker.create_udp_socket(socket.AF_UNIX)  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["blue", 3, "/run/netns/blue"])
async def test_a_namespace_that_is_not_held(worker: Worker, namespace: Any) -> None:
    for call in (worker.socket(namespace=namespace), worker.getaddrinfo("localhost", 80, namespace=namespace)):
        with pytest.raises(TypeError, match="is no NamespaceFile"):
            await call


async def test_paths_that_are_none(worker: Worker) -> None:
    for call in (worker.create_unix_listener, worker.create_connected_unix_datagram_socket, worker.connect_unix):
        with pytest.raises(TypeError):
            await call(None)  # type: ignore[arg-type]
