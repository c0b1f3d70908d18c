"""The C library's resolver, called in a fork of a worker: it may take long, and is ended by SIGKILL."""

from __future__ import annotations

import _socket as socket

from aions._wire.messages import Named, ResolveAddress, Resolved, ResolveName, Unresolved
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers


def resolve_name(_server: Server, request: ResolveName) -> Resolved | Unresolved:
    host = None if request.host is None else request.host.encode()  # a str would load encodings.idna
    try:
        found = socket.getaddrinfo(host, request.port, request.family, request.type, request.protocol, request.flags)
    except socket.gaierror as error:
        return _unresolved(error)
    rows = [(*row[:4], *_parts(row[4])) for row in found if isinstance(row[4][0], str)]
    return Resolved(*(zip(*rows, strict=True) if rows else [()] * 7))


def _parts(address: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int, int]:
    """Return host, port and scope."""
    return address[0].partition("%")[0], address[1], address[3] if len(address) == 4 else 0


def resolve_address(_server: Server, request: ResolveAddress) -> Named | Unresolved:
    try:
        return Named(*socket.getnameinfo((request.host, request.port), request.flags))
    except socket.gaierror as error:
        return _unresolved(error)


def _unresolved(error: socket.gaierror) -> Unresolved:
    return Unresolved(error.errno or socket.EAI_FAIL, error.strerror or "")


HANDLERS: Handlers = {"ResolveAddress": resolve_address, "ResolveName": resolve_name}
