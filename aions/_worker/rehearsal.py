"""What a worker does while it is in reserve, and the forkserver after it has forked that one: usual requests, for nothing.

After a fork both share their memory until one of them writes to it; then that page is copied, which takes a few microseconds.
The first requests take some hundreds of them. While nobody waits there is time for that.
"""

from __future__ import annotations

import _socket as socket
import os

from aions._sys.calls import Log
from aions._wire import codec, fdsocket
from aions._wire.messages import Prepare, ReadProcess, Request, Spawn, Unshare
from aions._worker.loop import Server

_IDLE = 2
"""Milliseconds without a request after which nobody seems to wait for this process."""


def rehearse_as_worker(server: Server) -> None:
    """Be in a new namespace, and start a command; but none."""
    was_sealed = server.sealed
    _rehearse_if_idle(server, Prepare(codec.encode_steps([Unshare(0)])), _no_program(server))
    if not was_sealed:
        server.unseal()  # nothing was started


def rehearse_as_forkserver(server: Server) -> None:
    """Have to do with a file of a process, as it has when it writes maps."""
    _rehearse_if_idle(server, Prepare(codec.encode_steps([ReadProcess(None, "uid_map")])))


def _rehearse_if_idle(server: Server, *requests: Request) -> None:
    """Serve requests that change nothing, unless there is something better to do. They are not logged."""
    lines = Log.lines
    try:
        for request in requests:
            if not server.poller.poll(_IDLE):
                _rehearse(server, request)
    except OSError:
        pass  # another table is full, or too many descriptors are under way: it will be dearer then
    finally:
        Log.lines = lines


def _no_program(server: Server) -> Spawn:
    return Spawn(
        arguments=("/",),
        environment=(),
        process_group=os.getpgrp(),
        session=os.getsid(0),
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
