"""httpx and aiohttp, connecting from where a worker is; names are looked up there too."""

from __future__ import annotations

import socket
from collections import defaultdict
from typing import Any

import aiohttp
import anyio
import httpcore
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
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
                return AnyIOStream(await self.worker.connect_tcp(host, port, local_host=local_address))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error


def httpx_client(worker: Worker) -> httpx.AsyncClient:
    """Return a client whose connections begin where the worker is."""
    transport = httpx.AsyncHTTPTransport()
    transport._pool = httpcore.AsyncConnectionPool(network_backend=Backend(worker))
    return httpx.AsyncClient(transport=transport)


class Inside(AbstractResolver):
    """Looks names up for aiohttp, and has a socket ready for each address: aiohttp's factory of sockets cannot wait for one."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.sockets: dict[int, list[socket.socket]] = defaultdict(list)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        rows = await self.worker.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        for row in rows:
            self.sockets[row[0]].append(await self.worker.socket(row[0]))
        return [
            ResolveResult(
                hostname=host, host=row[4][0], port=row[4][1], family=row[0], proto=row[2], flags=socket.AI_NUMERICHOST
            )
            for row in rows
        ]

    async def close(self) -> None:
        for left in self.sockets.values():
            while left:
                left.pop().close()


def aiohttp_session(worker: Worker) -> aiohttp.ClientSession:
    """Return a session whose connections begin where the worker is. For hosts that have names; on asyncio."""
    resolver = Inside(worker)
    connector = aiohttp.TCPConnector(
        resolver=resolver,
        use_dns_cache=False,
        force_close=True,
        socket_factory=lambda address: resolver.sockets[address[0]].pop(),
    )
    return aiohttp.ClientSession(connector=connector)
