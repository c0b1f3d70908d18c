"""What a worker does while it is in reserve: the requests that come first to most, for nothing.

A fork shares its memory with its parent until it writes to it; then each page is copied, which takes a few microseconds. The
first requests take some hundreds of them. In reserve there is time for that.
"""

from __future__ import annotations

import _socket as socket
import os

from aions._wire import codec, fdsocket
from aions._wire.messages import Prepare, Request, Spawn, Unshare
from aions._worker.loop import Server

_IDLE = 2
"""Milliseconds without a request after which nobody seems to wait for this worker."""


def rehearse_if_idle(server: Server) -> None:
    """Serve requests that change nothing, unless there is something better to do."""
    if server.poller.poll(_IDLE):
        return
    for request in (_no_namespace(), _no_program(server)):
        _rehearse(server, request)


def _no_namespace() -> Prepare:
    return Prepare((codec.encode(0, Unshare(0)).decode(),))


def _no_program(server: Server) -> Spawn:
    return Spawn(
        arguments=("/",),
        shell=False,
        directory=None,
        environment=tuple([f"{name}={value}" for name, value in os.environ.items()]),
        process_group=os.getpgrp(),
        session=os.getsid(0),
        new_session=False,
        user=None,
        group=None,
        extra_groups=None,
        umask=-1,
        capabilities=None,
        keep_capabilities=False,
        no_new_privs=False,
        pass_fds=(),
        exit=server.connection.fileno(),
        stdin=0,
        stdout=1,
        stderr=2,
        passed=(),
    )


def _rehearse(server: Server, request: Request) -> None:
    """Have a request go all the way, and its reply."""
    app, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fdsocket.send(app, codec.encode(0, request), request.descriptors())
        packet = fdsocket.receive(worker)
        assert packet is not None
        request_id, reply = server.served(packet)
        fdsocket.send(worker, codec.encode(request_id, reply), reply.descriptors())
        fdsocket.close_all(reply.descriptors())
        fdsocket.receive(app)
    finally:
        app.close()
        worker.close()
