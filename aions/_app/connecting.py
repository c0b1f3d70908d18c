"""Connecting by TCP as anyio does it (happy eyeballs, RFC 6555), on sockets of a worker."""

from __future__ import annotations

import os
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable
from errno import ECONNRESET, EINPROGRESS
from socket import AF_INET6, AF_UNSPEC, SOCK_STREAM, AddressFamily

import anyio
from anyio.abc import IPAddressType, SocketStream
from anyio.streams.tls import TLSStream

from aions._app.link import Link
from aions._app.names import Address, endpoints, is_address
from aions._app.namespace_file import NamespaceFile
from aions._app.sockets import open_socket, wrapped


async def connect_tcp(
    worker: Link,
    remote_host: IPAddressType,
    remote_port: int,
    local_host: IPAddressType | None,
    local_port: int | None,
    delay: float,
    namespace: NamespaceFile | None,
) -> SocketStream:
    """Connect to the first of a host's addresses that answers."""
    local: Address | None = None
    family = AF_UNSPEC
    if local_host:
        family, local = (await endpoints(worker, local_host, local_port, namespace=namespace))[0]
    try:
        targets = await endpoints(worker, remote_host, remote_port, family=family, namespace=namespace)
    except sockets.gaierror as error:
        if not is_address(remote_host):
            raise
        raise OSError("All connection attempts failed") from error  # it is an address of another family, or has no such scope

    async def connect(family: AddressFamily, address: Address) -> sockets.socket:
        sock = await open_socket(worker, family, SOCK_STREAM, sockets.IPPROTO_TCP, namespace)
        try:
            sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            if local is not None:
                sock.bind(local)
            await connect_socket(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    return await _stream(await _Race(connect, delay).run(_in_order(targets)))


def _in_order(targets: list[tuple[AddressFamily, Address]]) -> list[tuple[AddressFamily, Address]]:
    """Put one address of each family first, IPv6 before IPv4; the rest stays as the resolver has it."""
    firsts = {family: (family, address) for family, address in reversed(targets)}
    leading = [firsts[family] for family in sorted(firsts, key=lambda family: family != AF_INET6)]
    return leading + [target for target in targets if target not in leading]


async def connect_socket(sock: sockets.socket, address: Address) -> None:
    """Connect a non-blocking socket to a numeric address.

    Raises:
        OSError: as connect(2).
    """
    error = sock.connect_ex(address)
    if error == EINPROGRESS:
        await anyio.wait_writable(sock)
        error = sock.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


async def _stream(sock: sockets.socket) -> SocketStream:
    try:
        stream = await wrapped(SocketStream.from_socket, sock)
    except ValueError:  # it is not connected any more
        raise OSError("All connection attempts failed") from ConnectionResetError(ECONNRESET, os.strerror(ECONNRESET))
    transport = getattr(stream, "_transport", None)
    if transport is not None:  # asyncio's. anyio pauses one that it has connected itself, but not one that it was given, which
        transport.pause_reading()  # would then take in all that the peer sends, whether or not anybody receives it
    return stream


async def secured(stream: SocketStream, hostname: str, context: ssl.SSLContext | None, compatible: bool) -> TLSStream:
    """Speak TLS on a stream, as the client."""
    try:
        return await TLSStream.wrap(
            stream, server_side=False, hostname=hostname, ssl_context=context, standard_compatible=compatible
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


class _Race:
    """Attempts, each begun when the one before has failed, or has taken `delay` seconds; the first to succeed wins."""

    def __init__(self, connect: Callable[[AddressFamily, Address], Awaitable[sockets.socket]], delay: float) -> None:
        self._connect = connect
        self._delay = delay
        self._winner: sockets.socket | None = None
        self._errors: list[Exception] = []

    async def run(self, targets: list[tuple[AddressFamily, Address]]) -> sockets.socket:
        """Return the winner.

        Raises:
            OSError: none has succeeded.
            AionsError, anyio.ClosedResourceError: the worker is gone.
        """
        try:
            async with anyio.create_task_group() as tasks:
                for target in targets:
                    over = anyio.Event()
                    tasks.start_soon(self._attempt, *target, over, tasks.cancel_scope)
                    with anyio.move_on_after(self._delay):
                        await over.wait()
            if self._winner is None:
                raise self._failure()
            return self._winner
        except BaseException:
            if self._winner is not None:
                self._winner.close()
            raise
        finally:
            self._errors.clear()

    async def _attempt(self, family: AddressFamily, address: Address, over: anyio.Event, scope: anyio.CancelScope) -> None:
        try:
            sock = await self._connect(family, address)
        except Exception as error:
            self._errors.append(error)
            if not isinstance(error, OSError):
                scope.cancel()
        else:
            if self._winner is None:
                self._winner = sock
                scope.cancel()
            else:
                sock.close()
        finally:
            over.set()

    def _failure(self) -> Exception:
        for error in self._errors:
            if not isinstance(error, OSError):
                return error
        failure = OSError("All connection attempts failed")
        failure.__cause__ = (
            self._errors[0]
            if len(self._errors) == 1
            else ExceptionGroup("multiple connection attempts failed", list(self._errors))
        )
        return failure
