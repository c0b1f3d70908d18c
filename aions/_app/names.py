"""Host names, as they are known where a worker is."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Address, ip_address
from socket import AddressFamily, SocketKind
from typing import TypeVar

from anyio.abc import IPAddressType
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app.home import current_home
from aions._app.link import Link
from aions._app.membership import set_namespace
from aions._app.namespace_file import NamespaceFile, networks
from aions._app.text import c_int, text
from aions._errors import ProtocolError
from aions._types import Namespace
from aions._wire.fdsocket import close_all
from aions._wire.messages import (
    Done,
    GetNamespaceID,
    Identified,
    IsolateResolver,
    Named,
    ReadResolverFiles,
    Reply,
    Request,
    ResolveAddress,
    Resolved,
    ResolveName,
    ResolverFiles,
    Unresolved,
)

R = TypeVar("R", bound=Reply)

Address = tuple[str, int] | tuple[str, int, int, int]
"""What connect(2) and bind(2) take. Scopes are numbers: an interface's name would be looked up in the app's network."""

Found = tuple[AddressFamily, SocketKind, int, str, Address]


async def lookup(
    worker: Link,
    host: bytes | str | None,
    port: str | int | None,
    *,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
    namespace: NamespaceFile | None = None,
) -> list[Found]:
    """Call getaddrinfo(3) where the worker is."""
    name = _ascii(host) if isinstance(host, str) else None if host is None else _decoded(host)
    service = None if port is None else _decoded(port if isinstance(port, bytes) else str(port).encode())
    request = ResolveName(name, service, c_int(family), c_int(type), c_int(proto), c_int(flags))
    return _rows(await _resolve(worker, request, Resolved, namespace))


def _ascii(host: str) -> str:
    """Write a name as it is in the DNS (IDNA 2008), with the package that anyio uses for it."""
    if host.isascii():
        return host
    import idna

    return idna.encode(host, uts46=True).decode()


def _decoded(name: bytes) -> str:
    return str(name, "utf-8", "surrogateescape")


def _rows(found: Resolved) -> list[Found]:
    """Read a table that came from a worker.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return [
            (family := AddressFamily(family_number), SocketKind(type), protocol, name, _address(family, host, port, scope))
            for family_number, type, protocol, name, host, port, scope in zip(*found.__dict__.values(), strict=True)
        ]
    except ValueError as error:
        raise ProtocolError(f"the worker sent what is no list of addresses: {error}") from None


def _address(family: AddressFamily, host: str, port: int, scope: int) -> Address:
    ip_address(host)
    return (host, port, 0, scope) if family == AddressFamily.AF_INET6 else (host, port)


def public(address: Address) -> tuple[str, int]:
    """Return an address as anyio shows it: with its scope, where it has one, in the host."""
    scope = address[3] if len(address) == 4 else 0
    return (f"{address[0]}%{scope}" if scope else address[0]), address[1]


async def endpoints(
    worker: Link,
    host: IPAddressType,
    port: int | None,
    *,
    family: int = 0,
    type: int = SocketKind.SOCK_STREAM,
    flags: int = 0,
    namespace: NamespaceFile | None = None,
) -> list[tuple[AddressFamily, Address]]:
    """Return the addresses of a host. For what is an address already nobody is asked."""
    numeric = _numeric(str(host), port or 0)
    if numeric is not None and family in (0, numeric[0]):
        return [numeric]
    found = await lookup(worker, str(host), port, family=family, type=type, flags=flags, namespace=namespace)
    return [(row[0], row[4]) for row in found]


def is_address(host: IPAddressType) -> bool:
    """Whether a host is named by an address."""
    try:
        ip_address(str(host))
    except ValueError:
        return False
    return True


def _numeric(host: str, port: int) -> tuple[AddressFamily, Address] | None:
    try:
        address = ip_address(host)
        scope = int(address.scope_id or 0) if isinstance(address, IPv6Address) else 0
    except ValueError:
        return None
    family = AddressFamily.AF_INET6 if isinstance(address, IPv6Address) else AddressFamily.AF_INET
    return family, _address(family, str(address).partition("%")[0], port, scope)


async def getnameinfo(worker: Link, sockaddr: Address, flags: int, namespace: NamespaceFile | None) -> tuple[str, str]:
    """Call getnameinfo(3) where the worker is."""
    if len(sockaddr) < 2:
        raise TypeError(f"{sockaddr!r} is no address of a socket")
    host = _decoded(text(sockaddr[0]).encode())
    scope = sockaddr[3] if len(sockaddr) == 4 else 0
    request = ResolveAddress(host, c_int(sockaddr[1]), c_int(scope), c_int(flags))
    named = await _resolve(worker, request, Named, namespace)
    return named.host, named.service


async def _resolve(worker: Link, request: Request, expected: type[R], namespace: NamespaceFile | None) -> R:
    async with _resolver(worker, namespace) as resolver:
        answer = await resolver.call(request, Reply)
    if isinstance(answer, expected):
        return answer
    if isinstance(answer, Unresolved):
        raise socket.gaierror(answer.code, answer.reason)
    raise ProtocolError(f"{answer!r:.200} is no answer to {request!r}")


@asynccontextmanager
async def _resolver(worker: Link, namespace: NamespaceFile | None) -> AsyncIterator[Link]:
    """Fork a worker that resolves one name: so that it can be given up, and others wait for nothing."""
    await checkpoint_if_cancelled()
    networks(namespace)
    worker.check_open()
    apart = worker.sees_foreign_files or worker.next_child_is_first
    async with AsyncExitStack() as stack:
        resolver = await (current_home().fork() if apart else worker.fork())
        stack.push_async_callback(resolver.aclose)
        found = ResolverFiles((), ())
        if apart:
            found = await worker.call(ReadResolverFiles(), ResolverFiles)
            stack.callback(close_all, found.contents)
            await _join_network(resolver, worker)
        if namespace is not None:
            await set_namespace(resolver, namespace, Namespace.NETWORK, preserve_credentials=False)
        if worker.moved or namespace is not None:
            name = namespace.name if namespace is not None else worker.network_name
            await resolver.call(IsolateResolver(name, found.files, found.contents), Done)
        yield resolver


async def _join_network(resolver: Link, worker: Link) -> None:
    """Bring a resolver that comes from where the app is to a worker's network, and to nothing else of the worker's.

    SECURITY: the resolver loads libraries. In somebody else's file system, or where one may be mounted over another, these
    would be theirs. So it keeps the app's file system, and takes from the worker's the contents of a few files.
    """
    try:
        await set_namespace(resolver, worker.child.pidfd, Namespace.NETWORK, preserve_credentials=False)
    except PermissionError:
        there, here = [await each.call(GetNamespaceID(None, "net"), Identified) for each in (worker, resolver)]
        kinds = Namespace.USER if there == here else Namespace.USER | Namespace.NETWORK  # nobody inside may join the host's
        await set_namespace(resolver, worker.child.pidfd, kinds, preserve_credentials=False)
