"""httpx and aiohttp, connecting from where a worker is; names are looked up there too."""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
import anyio
import httpcore
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from anyio.abc import SocketAttribute
from httpcore._backends.anyio import AnyIOStream

from aions import Worker


class Backend(httpcore.AnyIOBackend):
    """Connects for httpcore, which httpx stands on. On asyncio and on trio."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                stream = await self.worker.connect_tcp(host, port, local_host=local_address)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for option in socket_options or ():
            stream.extra(SocketAttribute.raw_socket).setsockopt(*option)
        return AnyIOStream(stream)


def httpx_client(worker: Worker, **options: Any) -> httpx.AsyncClient:
    """Return a client whose connections begin where the worker is. Options are those of httpx's transport."""
    transport = httpx.AsyncHTTPTransport(**options)
    pool: Any = transport._pool
    pool._network_backend = Backend(worker)
    return httpx.AsyncClient(transport=transport)


class Names(AbstractResolver):
    """Looks names up for aiohttp."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=row[4][0], port=row[4][1], family=row[0], proto=row[2], flags=socket.AI_NUMERICHOST
            )
            for row in await self.worker.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        ]

    async def close(self) -> None:
        pass


class Connector(aiohttp.TCPConnector):
    """Has a socket ready for each address, before aiohttp asks its factory of sockets, which cannot wait for one."""

    def __init__(self, worker: Worker, **options: Any) -> None:
        super().__init__(resolver=Names(worker), socket_factory=lambda address: _ready.get().pop(address), **options)
        self.worker = worker

    async def _wrap_create_connection(self, *args: Any, addr_infos: list[Any], **kwargs: Any) -> Any:
        addr_infos = list(dict.fromkeys(addr_infos))
        ready: dict[Any, socket.socket] = {}
        before = _ready.set(ready)
        try:
            for address in addr_infos:
                ready[address] = await self.worker.socket(address[0])
            return await super()._wrap_create_connection(*args, addr_infos=addr_infos, **kwargs)
        finally:
            _ready.reset(before)
            for unused in ready.values():
                unused.close()


_ready: ContextVar[dict[Any, socket.socket]] = ContextVar("sockets for the connection that is being made")


def aiohttp_session(worker: Worker, **options: Any) -> aiohttp.ClientSession:
    """Return a session whose connections begin where the worker is. Options are those of aiohttp's connector. On asyncio."""
    return aiohttp.ClientSession(connector=Connector(worker, **options))
