"""asyncssh, listening and connecting where a worker is. On asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh

from aions import Worker


async def ssh_server(worker: Worker, port: int, **options: Any) -> asyncssh.SSHAcceptor:
    """Listen for ssh."""
    sock = await worker.socket()
    sock.bind(("0.0.0.0", port))
    return await asyncssh.listen(sock=sock, **options)


async def ssh_client(worker: Worker, address: tuple[str, int], **options: Any) -> asyncssh.SSHClientConnection:
    """Connect by ssh to an address."""
    sock = await worker.socket()
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
        return await asyncssh.connect(sock=sock, **options)
    except BaseException:
        sock.close()
        raise
