"""uvicorn and hypercorn, listening where a worker is: both serve on sockets that they are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import hypercorn
import sniffio
import uvicorn

from aions import Worker


async def uvicorn_server(worker: Worker, application: Any, port: int) -> tuple[uvicorn.Server, Callable[[], Awaitable[None]]]:
    """Return a server, which is stopped by `should_exit`, and what runs it. On asyncio."""
    sock = await worker.socket()
    sock.bind(("0.0.0.0", port))
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None))
    return server, lambda: server.serve(sockets=[sock])


async def serve_by_hypercorn(worker: Worker, application: Any, port: int, stop: Callable[[], Awaitable[None]]) -> None:
    """Serve until `stop` returns. On asyncio and on trio."""
    sock = await worker.socket()
    sock.bind(("0.0.0.0", port))
    config = hypercorn.Config()
    config.bind = [f"fd://{sock.detach()}"]
    module = import_module(f"hypercorn.{sniffio.current_async_library()}")
    await module.serve(application, config, shutdown_trigger=stop)
