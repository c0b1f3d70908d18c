"""TCP listeners and UDP sockets as anyio makes them, on sockets of a worker."""

from __future__ import annotations

import socket as sockets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from errno import EADDRINUSE, EAFNOSUPPORT
from functools import partial
from socket import AF_INET, AF_INET6, AI_ADDRCONFIG, AI_PASSIVE, SOCK_DGRAM, SOCK_STREAM, AddressFamily

from anyio.abc import ConnectedUDPSocket, IPAddressType, SocketListener, SocketStream, UDPSocket
from anyio.streams.stapled import MultiListener

from aions._app.connecting import connect_socket
from aions._app.link import Link
from aions._app.names import Address, endpoints
from aions._app.namespace_file import NamespaceFile
from aions._app.sockets import LARGEST_BACKLOG, open_socket, wrapped

Target = tuple[AddressFamily, Address]

_ATTEMPTS = 10
"""How often to look for a port that is free on all addresses of a host: anyio's number."""

_ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}  # noqa: S104


async def create_tcp_listener(
    worker: Link,
    local_host: IPAddressType | None,
    local_port: int,
    family: AddressFamily,
    backlog: int,
    reuse_port: bool,
    namespace: NamespaceFile | None,
) -> MultiListener[SocketStream]:
    """Listen on all addresses of a host, on one port; without a host, on all addresses that there are."""
    listen = partial(_listening, worker, backlog=backlog, reuse_port=reuse_port, namespace=namespace)
    if local_host is None:
        return MultiListener([await SocketListener.from_socket(await _on_any(listen, local_port, family))])
    targets = await endpoints(
        worker, local_host, local_port, family=family, flags=AI_PASSIVE | AI_ADDRCONFIG, namespace=namespace
    )
    listening = await _on_all(listen, list(dict.fromkeys(targets)), local_port)
    return MultiListener([await SocketListener.from_socket(sock) for sock in listening])


async def _on_any(listen: Callable[..., Awaitable[sockets.socket]], port: int, family: AddressFamily) -> sockets.socket:
    """Listen for both families at once, where either will do."""
    if family:
        return await listen(_any(family, port))
    try:
        return await listen(_any(AF_INET6, port), v6only=False)
    except OSError as error:
        if error.errno != EAFNOSUPPORT:
            raise
    return await listen(_any(AF_INET, port))


def _any(family: AddressFamily, port: int) -> Target:
    """Return the address that stands for all of a family.

    Raises:
        socket.gaierror: the family has none.
    """
    if family not in _ANY:
        raise sockets.gaierror(sockets.EAI_FAMILY, "ai_family not supported")
    return family, (_ANY[family], port)


async def _on_all(
    listen: Callable[[Target], Awaitable[sockets.socket]], targets: list[Target], port: int
) -> list[sockets.socket]:
    """Listen on several addresses. Where any port will do, it is the one that the first of them gets, if it is free on all."""
    refusals: list[OSError] = []
    for _ in range(_ATTEMPTS):
        listening: list[sockets.socket] = []
        with ExitStack() as begun:
            try:
                for family, address in targets:
                    chosen = port or (listening[0].getsockname()[1] if listening else 0)
                    sock = await listen((family, (address[0], chosen, *address[2:])))
                    listening.append(begun.enter_context(sock))
            except OSError as error:
                if error.errno != EADDRINUSE or port or not listening:
                    raise
                refusals.append(error)
            else:
                begun.pop_all()
                return listening
        targets.append(targets.pop(0))
    raise OSError(f"Could not create {len(targets)} listeners with a consistent port") from ExceptionGroup(
        "Several bind attempts failed", refusals
    )


async def _listening(
    worker: Link,
    target: Target,
    *,
    v6only: bool = True,
    backlog: int,
    reuse_port: bool,
    namespace: NamespaceFile | None,
) -> sockets.socket:
    family, address = target
    sock = await open_socket(worker, family, SOCK_STREAM, namespace=namespace)
    try:
        if family == AF_INET6:
            sock.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, v6only)
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        _bind(sock, address, reuse_port)
        sock.listen(min(backlog, LARGEST_BACKLOG))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: sockets.socket, address: Address | None, reuse_port: bool) -> None:
    if reuse_port:
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEPORT, 1)
    if address is not None:
        sock.bind(address)


async def create_udp_socket(
    worker: Link,
    family: AddressFamily,
    local_host: IPAddressType | None,
    local_port: int,
    reuse_port: bool,
    namespace: NamespaceFile | None,
) -> UDPSocket:
    """Bind to the first address of a host, or to all of a family."""
    if not family and not local_host:
        raise ValueError('Either "family" or "local_host" must be given')
    local = await _local(worker, family, local_host, local_port, namespace)
    sock = await open_socket(worker, local[0], SOCK_DGRAM, namespace=namespace)
    try:
        _bind(sock, local[1], reuse_port)
        return await wrapped(UDPSocket.from_socket, sock)
    except BaseException:
        sock.close()
        raise


async def create_connected_udp_socket(
    worker: Link,
    remote_host: IPAddressType,
    remote_port: int,
    family: AddressFamily,
    local_host: IPAddressType | None,
    local_port: int,
    reuse_port: bool,
    namespace: NamespaceFile | None,
) -> ConnectedUDPSocket:
    """Connect to the first address of a host, from the first of another one where that is named."""
    local: Address | None = None
    if local_host:
        family, local = await _local(worker, family, local_host, local_port, namespace)
    remotes = await endpoints(worker, remote_host, remote_port, family=family, type=SOCK_DGRAM, namespace=namespace)
    family, remote = remotes[0]
    if local is None and local_port:
        _family, local = _any(family, local_port)
    sock = await open_socket(worker, family, SOCK_DGRAM, namespace=namespace)
    try:
        _bind(sock, local, reuse_port)
        await connect_socket(sock, remote)
        return await wrapped(ConnectedUDPSocket.from_socket, sock)
    except BaseException:
        sock.close()
        raise


async def _local(
    worker: Link, family: AddressFamily, host: IPAddressType | None, port: int, namespace: NamespaceFile | None
) -> Target:
    if not host:
        return _any(family, port)
    flags = AI_PASSIVE | AI_ADDRCONFIG
    found = await endpoints(worker, host, port, family=family, type=SOCK_DGRAM, flags=flags, namespace=namespace)
    return found[0]
