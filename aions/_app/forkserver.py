"""The forkserver is started here, by exec."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import anyio

from aions._app.client import Client
from aions._app.link import Forkserver

_PROGRAM = Path(__file__).parent.parent / "_worker" / "__main__.py"


async def start_forkserver() -> Forkserver:
    """Start a forkserver, which ends when its connection is closed or this process ends.

    What is started forks and ends at once, so this process has a child for a few milliseconds only.
    """
    if not sys.executable:
        raise RuntimeError("aions needs the path of the Python interpreter, and sys.executable is empty")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            await _reaped(_launched(theirs.fileno()))
    except BaseException:
        ours.close()
        raise
    return Forkserver(Client(ours))


def _launched(connection: int) -> subprocess.Popen[bytes]:
    app = os.pidfd_open(os.getpid())
    try:
        inherited = (connection, app)
        command = [sys.executable, "-I", "-S", "-X", "utf8", str(_PROGRAM), *map(str, inherited)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited)
    finally:
        os.close(app)


async def _reaped(launcher: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher without blocking the loop, and whoever else may collect it (an `os.wait()` in the app)."""
    try:
        pidfd = os.pidfd_open(launcher.pid)
    except OSError:  # collected by another already, or no room for a descriptor: it takes a few milliseconds
        launcher.wait()
        return
    try:
        with anyio.CancelScope(shield=True):
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)
        launcher.wait()
