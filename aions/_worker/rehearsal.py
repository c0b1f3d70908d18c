"""What a worker does while it is in reserve: a command, for nothing.

A fork shares its memory with its parent until it writes to it; then each page is copied, which takes a few microseconds. The
first command takes some hundred of them. In reserve there is time for that.
"""

from __future__ import annotations

import os

from aions._wire import codec
from aions._wire.fdsocket import Packet
from aions._wire.messages import Spawn, Started
from aions._worker.commands import spawn
from aions._worker.loop import Server, failure

_IDLE = 2
"""Milliseconds without a request after which nobody seems to wait for this worker."""


def rehearse_if_idle(server: Server) -> None:
    """Do all that a command takes, but for there being a program, unless there is something better to do."""
    if server.poller.poll(_IDLE):
        return
    nothing = Spawn(
        ("/",), False, None, (), os.getpgrp(), os.getsid(0), False, None, None, None, -1, None, False, False, (), 0, 0, 1, 2, ()
    )
    _, request = codec.decode(Packet(codec.encode(1, nothing), nothing.descriptors()), {"Spawn": Spawn})
    try:
        spawn(server, request)
    except OSError as error:
        codec.encode(1, failure(error))
    codec.encode(1, Started(0, 0))
