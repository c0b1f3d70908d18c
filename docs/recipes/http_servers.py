"""uvicorn and hypercorn, listening where a worker is: both serve on sockets that they are given."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import hypercorn
import sniffio
import uvicorn

from aions import Worker


async def bound(worker: Worker, port: int) -> list[socket.socket]:
    """Return a socket for each family, on all addresses where the worker is."""
    ipv4, ipv6 = await worker.socket(socket.AF_INET), await worker.socket(socket.AF_INET6)
    ipv4.bind(("0.0.0.0", port))
    ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    ipv6.bind(("::", port))
    return [ipv4, ipv6]


async def uvicorn_server(worker: Worker, application: Any, port: int) -> tuple[uvicorn.Server, Callable[[], Awaitable[None]]]:
    """Return a server, which is stopped by `should_exit`, and what runs it. On asyncio."""
    sockets = await bound(worker, port)
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None))
    return server, lambda: server.serve(sockets=sockets)


async def serve_by_hypercorn(worker: Worker, application: Any, port: int, stop: Callable[[], Awaitable[None]]) -> None:
    """Serve until `stop` returns. On asyncio and on trio."""
    config = hypercorn.Config()
    config.bind = [f"fd://{sock.detach()}" for sock in await bound(worker, port)]
    module = import_module(f"hypercorn.{sniffio.current_async_library()}")
    await module.serve(application, config, shutdown_trigger=stop)
