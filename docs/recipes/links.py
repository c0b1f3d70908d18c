"""pyroute2 over a netlink socket that aions made inside: no fork and no setns of pyroute2's own. On asyncio."""

from __future__ import annotations

import socket

from pyroute2 import AsyncIPRoute

from aions import Worker


async def routes(worker: Worker) -> AsyncIPRoute:
    """Return pyroute2's handle of the links, addresses and routes where the worker is."""
    sock = await worker.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    return AsyncIPRoute(fileno=sock.detach())
