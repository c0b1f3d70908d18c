"""Sockets that a worker makes for the app, and those of unix(7), whose paths are the worker's."""

from __future__ import annotations

import os
import socket as sockets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from os import PathLike
from socket import AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_STREAM, SocketKind
from typing import Any, TypeVar

import anyio
from anyio.abc import ConnectedUNIXDatagramSocket, SocketListener, UNIXDatagramSocket, UNIXSocketStream

from aions._app import apart
from aions._app.link import Link
from aions._app.namespace_file import NamespaceFile, networks
from aions._app.text import c_int, socket_path
from aions._errors import ProtocolError
from aions._wire.fdsocket import close_all
from aions._wire.messages import Opened, OpenedInEach, OpenSocket, OpenSockets, OpenUnixSocket

T = TypeVar("T")

Path = str | bytes | PathLike[Any]

LARGEST_BACKLOG = 65536
"""anyio's."""

_FLAGS = sockets.SOCK_NONBLOCK | sockets.SOCK_CLOEXEC

_AT_ONCE = 100
"""So many sockets to a request: others have to wait for a worker, and for the event loop, no longer than a few milliseconds."""

_LONGEST_WAIT = 0.05
"""Seconds between two attempts to connect to a listener whose queue is full: no descriptor tells when there is room."""


async def open_socket(
    worker: Link, family: int, type: int, protocol: int = 0, namespace: NamespaceFile | None = None
) -> sockets.socket:
    """Have a socket made. It is non-blocking, close-on-exec, and the caller's."""
    kind = _kind(family, type, protocol)
    return _taken((await worker.call(OpenSocket(*kind, networks(namespace)), Opened)).descriptor, *kind)


async def open_sockets(
    worker: Link, namespaces: Iterable[NamespaceFile], family: int, type: int, protocol: int
) -> list[sockets.socket]:
    """Have a socket made in each of several namespaces; none is left open if one cannot be made."""
    kind = _kind(family, type, protocol)
    remaining = iter(namespaces)
    made: list[sockets.socket] = []
    with ExitStack() as stack:
        while some := [number for namespace in islice(remaining, _AT_ONCE) for number in networks(namespace)]:
            arrived = iter(await _opened_in_each(worker, OpenSockets(*kind, tuple(some))))
            stack.callback(close_all, arrived)  # what is left of them
            made.extend(stack.enter_context(_taken(descriptor, *kind)) for descriptor in arrived)
        stack.pop_all()
    return made


def _kind(family: int, type: int, protocol: int) -> tuple[int, int, int]:
    """Take the numbers of a kind of socket; as for `socket.socket`, -1 stands for the default."""
    family, type = AF_INET if family == -1 else family, SOCK_STREAM if type == -1 else type
    return c_int(family), c_int(type), c_int(protocol)


async def _opened_in_each(worker: Link, request: OpenSockets) -> tuple[int, ...]:
    reply = await worker.call(request, OpenedInEach)
    if len(reply.sockets) != len(request.namespaces):
        close_all(reply.sockets)
        raise ProtocolError(f"the worker sent {len(reply.sockets)} sockets instead of {len(request.namespaces)}")
    return reply.sockets


def _taken(descriptor: int, family: int, type: int, protocol: int) -> sockets.socket:
    """Make an object of a socket that came from a worker.

    SECURITY: what is no such socket is refused, whatever the worker says.
    """
    sock = sockets.socket(family, type, protocol, fileno=descriptor)
    try:
        there = tuple(sock.getsockopt(sockets.SOL_SOCKET, option) for option in (sockets.SO_DOMAIN, sockets.SO_TYPE))
        if there != (family, type & ~_FLAGS):
            raise ProtocolError(f"the worker sent a socket of the wrong kind: {there}")
        sock.setblocking(False)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise ProtocolError("the worker sent what is no socket") from None
        raise
    return sock


async def wrapped(wrap: Callable[[sockets.socket], Awaitable[T]], sock: sockets.socket) -> T:
    """Make anyio's object of a socket, which is closed if that fails. It takes a turn of the loop, and is not cancelled in it.

    Cancelled, uvloop would keep the socket of a datagram transport open.
    """
    try:
        with anyio.CancelScope(shield=True):
            made = await wrap(sock)
    except BaseException:
        sock.close()
        raise
    return made


async def _open_unix_socket(
    worker: Link,
    type: int,
    *,
    local: Path | None = None,
    mode: int | None = None,
    backlog: int | None = None,
    remote: Path | None = None,
    namespace: NamespaceFile | None,
) -> sockets.socket:
    paths = [None if path is None else _checked(path) for path in (local, remote)]
    arguments = int(type), paths[0], mode, backlog, paths[1], networks(namespace)
    opened = await apart.call(worker, lambda may_wait: OpenUnixSocket(*arguments, may_wait), Opened)
    return _taken(opened.descriptor, AF_UNIX, type, 0)


def _checked(path: Path) -> str:
    """Refuse what the kernel has no room for, as Python does."""
    name = os.fsencode(path)
    if len(name) + (not name.startswith(b"\0")) > 108:
        raise OSError("AF_UNIX path too long")
    if b"\0" in name[1:] and not name.startswith(b"\0"):
        raise ValueError("embedded null byte")
    return socket_path(path)


def _as_stream(sock: sockets.socket) -> sockets.socket:
    """Call a SOCK_SEQPACKET socket a stream: `from_socket` takes no other, though anyio's own functions make these as well."""
    return sockets.socket(AF_UNIX, SOCK_STREAM, fileno=sock.detach())


async def connect_unix(worker: Link, path: Path, kind: SocketKind, namespace: NamespaceFile | None) -> UNIXSocketStream:
    delay = 0.001
    while True:
        try:
            sock = await _open_unix_socket(worker, kind, remote=os.fspath(path), namespace=namespace)
        except BlockingIOError:
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_WAIT)
        else:
            return await UNIXSocketStream.from_socket(_as_stream(sock))


async def create_unix_listener(
    worker: Link, path: Path, mode: int | None, backlog: int, kind: SocketKind, namespace: NamespaceFile | None
) -> SocketListener:
    backlog = min(backlog, LARGEST_BACKLOG)
    sock = await _open_unix_socket(worker, kind, local=os.fspath(path), mode=mode, backlog=backlog, namespace=namespace)
    return await SocketListener.from_socket(_as_stream(sock))


async def create_unix_datagram_socket(
    worker: Link, path: Path | None, mode: int | None, namespace: NamespaceFile | None
) -> UNIXDatagramSocket:
    sock = await _open_unix_socket(worker, SOCK_DGRAM, local=path, mode=mode, namespace=namespace)
    return await UNIXDatagramSocket.from_socket(sock)


async def create_connected_unix_datagram_socket(
    worker: Link, remote: Path, path: Path | None, mode: int | None, namespace: NamespaceFile | None
) -> ConnectedUNIXDatagramSocket:
    remote = os.fspath(remote)
    sock = await _open_unix_socket(worker, SOCK_DGRAM, local=path, mode=mode, remote=remote, namespace=namespace)
    return await ConnectedUNIXDatagramSocket.from_socket(sock)
