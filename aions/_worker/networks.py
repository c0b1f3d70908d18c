"""Namespaces as descriptors, and network namespaces made without moving to them for good."""

from __future__ import annotations

import os

from aions._sys import libc, network
from aions._sys.libc import CLONE_NEWNET
from aions._sys.proc import Opened as Open
from aions._wire.messages import Done, NewNetwork, Opened, OpenNamespace, SetLoopbackUp
from aions._worker.loop import Server
from aions._worker.sockets import in_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers


def open_namespace(server: Server, request: OpenNamespace) -> Opened:
    return Opened(_own(server, request.namespace))


def _own(server: Server, name: str) -> int:
    with Open(server.home.proc, f"self/ns/{name}", os.O_RDONLY) as descriptor:
        return os.dup(descriptor)


def new_network(server: Server, request: NewNetwork) -> Opened:
    def make() -> int:
        if request.loopback:
            network.set_loopback_up()
        return _own(server, "net")

    return Opened(in_network(server, lambda: libc.unshare(CLONE_NEWNET), make))


def set_loopback_up(_server: Server, _request: SetLoopbackUp) -> Done:
    network.set_loopback_up()
    return Done()


HANDLERS: Handlers = {"NewNetwork": new_network, "OpenNamespace": open_namespace, "SetLoopbackUp": set_loopback_up}
