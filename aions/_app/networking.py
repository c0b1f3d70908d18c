"""What a worker does on the network as anyio does it here: with anyio's names, parameters and types, and `namespace`."""

from __future__ import annotations

import socket as stdlib
import ssl
from collections.abc import Iterable
from os import PathLike
from socket import AddressFamily, SocketKind
from typing import Any, Literal, overload

from anyio.abc import (
    ConnectedUDPSocket,
    ConnectedUNIXDatagramSocket,
    IPAddressType,
    IPSockAddrType,
    SocketListener,
    SocketStream,
    UDPSocket,
    UNIXDatagramSocket,
    UNIXSocketStream,
)
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream

from aions._app import connecting, listening, names  # fmt: skip
from aions._app import sockets as unix
from aions._app.link import Link
from aions._app.namespace_file import NamespaceFile

AnyIPAddressFamily = Literal[AddressFamily.AF_UNSPEC, AddressFamily.AF_INET, AddressFamily.AF_INET6]


class Networking:
    """The part of `Worker` that gives sockets and names.

    All sockets are the caller's, driven by the app's own event loop; from their making on the worker has no part in them. They
    stay in their network namespace wherever the worker goes. Each function takes `namespace`: the network namespace to be used
    instead of the worker's, in which the worker is for the length of that one request.

    Host names, and addresses with the name of an interface, are looked up as `getaddrinfo` does; paths of unix sockets are
    those of the worker's mount namespace.
    """

    _link: Link

    async def socket(
        self,
        family: int = stdlib.AF_INET,
        type: int = stdlib.SOCK_STREAM,
        proto: int = 0,
        *,
        namespace: NamespaceFile | None = None,
    ) -> stdlib.socket:
        """Make a socket in the worker's network namespace, where it stays wherever the worker goes.

        Args:
            family: of any family that the kernel has: AF_NETLINK, AF_PACKET, AF_VSOCK, …
            type: with or without SOCK_NONBLOCK and SOCK_CLOEXEC, which are set anyway.
            proto: 0 is the family's own choice.
            namespace: a network namespace to make it in instead.

        Returns:
            An ordinary, non-blocking, close-on-exec socket, which is the caller's: ready for an event loop, or for
            `anyio.abc.SocketStream.from_socket` and its like. From here on the worker has no part in it.

        Raises:
            OSError: EPERM: a raw or packet socket without CAP_NET_RAW; with `namespace`, no CAP_SYS_ADMIN there or in the
                worker's own network namespace. EMFILE: no descriptors left, in the app or in the worker.

        Kernel: socket(2), network_namespaces(7).
        """
        return await unix.open_socket(self._link, family, type, proto, namespace)

    async def sockets(
        self,
        namespaces: Iterable[NamespaceFile],
        family: int = stdlib.AF_INET,
        type: int = stdlib.SOCK_STREAM,
        proto: int = 0,
    ) -> list[stdlib.socket]:
        """Make a socket in each of any number of network namespaces, a hundred to a request.

        Args:
            namespaces: in the order in which the sockets are wanted; they remain the caller's, and must stay open meanwhile.
            family: as for `socket`.
            type: as for `socket`.
            proto: as for `socket`.

        Returns:
            One socket for each namespace, as from `socket`. If one cannot be made, none is left open.

        Raises:
            ValueError: one is no network namespace.
            anyio.ClosedResourceError: one is closed.
            OSError: as `socket`. EMFILE: in the worker, no room for two descriptors for each of a hundred.

        Kernel: socket(2), setns(2).
        """
        return await unix.open_sockets(self._link, namespaces, family, type, proto)

    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        local_host: IPAddressType | None = ...,
        local_port: int | None = ...,
        ssl_context: ssl.SSLContext | None = ...,
        tls_standard_compatible: bool = ...,
        tls_hostname: str,
        happy_eyeballs_delay: float = ...,
        namespace: NamespaceFile | None = ...,
    ) -> TLSStream: ...

    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        local_host: IPAddressType | None = ...,
        local_port: int | None = ...,
        ssl_context: ssl.SSLContext,
        tls_standard_compatible: bool = ...,
        tls_hostname: str | None = ...,
        happy_eyeballs_delay: float = ...,
        namespace: NamespaceFile | None = ...,
    ) -> TLSStream: ...

    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        local_host: IPAddressType | None = ...,
        local_port: int | None = ...,
        tls: Literal[True],
        ssl_context: ssl.SSLContext | None = ...,
        tls_standard_compatible: bool = ...,
        tls_hostname: str | None = ...,
        happy_eyeballs_delay: float = ...,
        namespace: NamespaceFile | None = ...,
    ) -> TLSStream: ...

    @overload
    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        local_host: IPAddressType | None = ...,
        local_port: int | None = ...,
        tls: Literal[False] = ...,
        happy_eyeballs_delay: float = ...,
        namespace: NamespaceFile | None = ...,
    ) -> SocketStream: ...

    async def connect_tcp(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        local_host: IPAddressType | None = None,
        local_port: int | None = None,
        tls: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        tls_standard_compatible: bool = True,
        tls_hostname: str | None = None,
        happy_eyeballs_delay: float = 0.25,
        namespace: NamespaceFile | None = None,
    ) -> SocketStream | TLSStream:
        """Connect by TCP: `anyio.connect_tcp`, elsewhere. With `tls`, `ssl_context` or `tls_hostname` TLS is spoken on it.

        Raises:
            OSError: no attempt has succeeded; its cause is the refusal, or a group of those.
            socket.gaierror: the name cannot be resolved.
        """
        stream = await connecting.connect_tcp(
            self._link, remote_host, remote_port, local_host, local_port, happy_eyeballs_delay, namespace
        )
        if tls or tls_hostname or ssl_context:
            hostname = tls_hostname or str(remote_host)
            return await connecting.secured(stream, hostname, ssl_context, tls_standard_compatible)
        return stream

    async def create_tcp_listener(
        self,
        *,
        local_host: IPAddressType | None = None,
        local_port: int = 0,
        family: AnyIPAddressFamily = AddressFamily.AF_UNSPEC,
        backlog: int = 65536,
        reuse_port: bool = False,
        namespace: NamespaceFile | None = None,
    ) -> MultiListener[SocketStream]:
        """Listen for TCP connections: `anyio.create_tcp_listener`, elsewhere.

        Without `local_host` it listens on all addresses of both families, whatever is configured when it is made.

        Raises:
            OSError: EADDRINUSE, EADDRNOTAVAIL. EACCES: a privileged port without CAP_NET_BIND_SERVICE over the namespace.
            socket.gaierror: the name cannot be resolved.
        """
        return await listening.create_tcp_listener(self._link, local_host, local_port, family, backlog, reuse_port, namespace)

    async def create_udp_socket(
        self,
        family: AnyIPAddressFamily = AddressFamily.AF_UNSPEC,
        *,
        local_host: IPAddressType | None = None,
        local_port: int = 0,
        reuse_port: bool = False,
        namespace: NamespaceFile | None = None,
    ) -> UDPSocket:
        """Make a bound UDP socket: `anyio.create_udp_socket`, elsewhere.

        Raises:
            ValueError: neither a family nor a local host.
            OSError: as `create_tcp_listener`.
        """
        return await listening.create_udp_socket(self._link, family, local_host, local_port, reuse_port, namespace)

    async def create_connected_udp_socket(
        self,
        remote_host: IPAddressType,
        remote_port: int,
        *,
        family: AnyIPAddressFamily = AddressFamily.AF_UNSPEC,
        local_host: IPAddressType | None = None,
        local_port: int = 0,
        reuse_port: bool = False,
        namespace: NamespaceFile | None = None,
    ) -> ConnectedUDPSocket:
        """Make a connected UDP socket: `anyio.create_connected_udp_socket`, elsewhere.

        Raises:
            OSError: as `create_tcp_listener`; ENETUNREACH: there is no way to the remote host.
        """
        return await listening.create_connected_udp_socket(
            self._link, remote_host, remote_port, family, local_host, local_port, reuse_port, namespace
        )

    async def connect_unix(
        self,
        path: str | bytes | PathLike[Any],
        kind: Literal[SocketKind.SOCK_STREAM, SocketKind.SOCK_SEQPACKET] = stdlib.SOCK_STREAM,
        *,
        namespace: NamespaceFile | None = None,
    ) -> UNIXSocketStream:
        """Connect to a unix socket: `anyio.connect_unix`, elsewhere. To the other side it is the worker that connects.

        Raises:
            OSError: ENOENT, ECONNREFUSED, EACCES, as connect(2).

        Kernel: unix(7).
        """
        return await unix.connect_unix(self._link, path, kind, namespace)

    async def create_unix_listener(
        self,
        path: str | bytes | PathLike[Any],
        *,
        mode: int | None = None,
        backlog: int = 65536,
        kind: Literal[SocketKind.SOCK_STREAM, SocketKind.SOCK_SEQPACKET] = SocketKind.SOCK_STREAM,
        namespace: NamespaceFile | None = None,
    ) -> SocketListener:
        """Listen on a unix socket: `anyio.create_unix_listener`, elsewhere. A socket that lies at the path is removed first.

        Raises:
            OSError: EADDRINUSE: something else lies there. ENOENT, EACCES, EROFS, as bind(2).

        Kernel: unix(7).
        """
        return await unix.create_unix_listener(self._link, path, mode, backlog, kind, namespace)

    async def create_unix_datagram_socket(
        self,
        *,
        local_path: str | bytes | PathLike[Any] | None = None,
        local_mode: int | None = None,
        namespace: NamespaceFile | None = None,
    ) -> UNIXDatagramSocket:
        """Make a unix datagram socket: `anyio.create_unix_datagram_socket`, elsewhere.

        What is sent to a path later goes to where the path leads in the *app's* mount namespace: to send to a path of the
        worker's, connect the socket.

        Raises:
            OSError: as `create_unix_listener`.
        """
        return await unix.create_unix_datagram_socket(self._link, local_path, local_mode, namespace)

    async def create_connected_unix_datagram_socket(
        self,
        remote_path: str | bytes | PathLike[Any],
        *,
        local_path: str | bytes | PathLike[Any] | None = None,
        local_mode: int | None = None,
        namespace: NamespaceFile | None = None,
    ) -> ConnectedUNIXDatagramSocket:
        """Make a connected unix datagram socket: `anyio.create_connected_unix_datagram_socket`, elsewhere.

        Raises:
            OSError: as `create_unix_listener` and `connect_unix`.
        """
        return await unix.create_connected_unix_datagram_socket(self._link, remote_path, local_path, local_mode, namespace)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: str | int | None,
        *,
        family: int | AddressFamily = 0,
        type: int | SocketKind = 0,
        proto: int = 0,
        flags: int = 0,
        namespace: NamespaceFile | None = None,
    ) -> list[tuple[AddressFamily, SocketKind, int, str, tuple[str, int]]]:
        """Look up a name as a program inside would: `anyio.getaddrinfo`, elsewhere.

        Raises:
            socket.gaierror: it cannot be resolved.

        Kernel: getaddrinfo(3), in a fork of the worker: lookups wait for nothing else, and a cancelled one ends at once.
        """
        found = await names.lookup(
            self._link, host, port, family=family, type=type, proto=proto, flags=flags, namespace=namespace
        )
        return [(*row[:4], names.public(row[4])) for row in found]

    async def getnameinfo(
        self, sockaddr: IPSockAddrType, flags: int = 0, *, namespace: NamespaceFile | None = None
    ) -> tuple[str, str]:
        """Look up the names of an address and a port: `anyio.getnameinfo`, elsewhere.

        Raises:
            socket.gaierror: as getnameinfo(3) says.
        """
        return await names.getnameinfo(self._link, sockaddr, flags, namespace)
