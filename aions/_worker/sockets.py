"""Sockets, made where the worker is, or in another network namespace where it is for a moment only."""

from __future__ import annotations

import _socket as socket
import errno
import os
import stat

from aions._sys import libc
from aions._sys.calls import call
from aions._sys.libc import CLONE_NEWNET
from aions._sys.proc import Opened as Open
from aions._wire.fdsocket import close_all
from aions._wire.messages import Opened, OpenedInEach, OpenSocket, OpenSockets, OpenUnixSocket
from aions._worker import paths
from aions._worker.loop import MustWait, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from aions._worker.loop import Handlers

    T = TypeVar("T")

_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


def in_network(server: Server, move: Callable[[], None], action: Callable[[], T]) -> T:
    """Move to another network namespace, do something there, and come back.

    SECURITY: a worker that could not come back would do in one namespace what is meant for another, so it ends. The way back is
    tried before it is needed: in a network namespace that the worker has no rights over, as a plain user has none over the
    host's, the kernel refuses that already.
    """
    server.seal()
    with Open(server.home.proc, "self/ns/net", os.O_RDONLY) as back:
        libc.setns(back, CLONE_NEWNET)
        try:
            move()
            return action()
        finally:
            try:
                libc.setns(back, CLONE_NEWNET)
            except BaseException:
                os._exit(1)


def in_namespace(server: Server, namespace: tuple[int, ...], action: Callable[[], T]) -> T:
    """Do something in the network namespace that a request came with; where the worker is, if there is none."""
    if not namespace:
        return action()
    return in_network(server, lambda: libc.setns(namespace[0], CLONE_NEWNET), action)


def open_socket(server: Server, request: OpenSocket) -> Opened:
    kind = request.family, request.type, request.protocol
    return Opened(in_namespace(server, request.namespace, lambda: _socket(*kind).detach()))


def open_sockets(server: Server, request: OpenSockets) -> OpenedInEach:
    kind = request.family, request.type, request.protocol
    return OpenedInEach(in_network(server, lambda: None, lambda: _sockets(kind, request.namespaces)))


def _sockets(kind: tuple[int, int, int], namespaces: tuple[int, ...]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for namespace in namespaces:
            libc.setns(namespace, CLONE_NEWNET)
            made.append(_socket(*kind).detach())
    except BaseException:
        close_all(made)
        raise
    return tuple(made)


def _socket(family: int, type: int, protocol: int) -> socket.socket:
    text = f"socket({family}, {type}|SOCK_CLOEXEC|SOCK_NONBLOCK, {protocol})"
    return call(lambda: text, socket.socket, family, type | _FLAGS, protocol)


def open_unix_socket(server: Server, request: OpenUnixSocket) -> Opened:
    has_file = any(path is not None and not path.startswith("\0") for path in (request.local, request.remote))
    if has_file and not request.may_wait and not paths.has_only_local_files(server):
        raise MustWait
    return Opened(in_namespace(server, request.namespace, lambda: _unix_socket(server, request)))


def _unix_socket(server: Server, request: OpenUnixSocket) -> int:
    sock = _socket(socket.AF_UNIX, request.type, 0)
    try:
        if request.local is not None:
            _bind(server, sock, request.local, request.mode)
        if request.backlog is not None:
            call(lambda: f"listen({sock.fileno()}, {request.backlog})", sock.listen, request.backlog)
        if request.remote is not None:
            _refuse_magic_links(server, request.remote)
            _with_path("connect", sock.connect, request.remote)
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def _bind(server: Server, sock: socket.socket, path: str, mode: int | None) -> None:
    if path.startswith("\0"):
        _with_path("bind", sock.bind, path)
        return
    _refuse_magic_links(server, os.path.dirname(path) or ".")
    _remove_socket(server, path)
    _with_path("bind", sock.bind, path)
    if mode is not None:
        call(lambda: f'chmod("{path}", {mode:#o})', _change_mode, server, path, mode, path=path)


def _refuse_magic_links(server: Server, path: str) -> None:
    if not path.startswith("\0"):
        call(lambda: f'openat2("{path}", O_PATH)', paths.refuse_magic_links, server, path, path=path)


def _change_mode(server: Server, path: str, mode: int) -> None:
    """Change the mode of a socket. SECURITY: and of nothing else that somebody has put in its place."""
    found = paths.opened(server, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_ISSOCK(os.fstat(found).st_mode):
            os.chmod(f"self/fd/{found}", mode, dir_fd=server.home.proc)
    finally:
        os.close(found)


def _remove_socket(server: Server, path: str) -> None:
    """Take away a socket that an earlier program left; what is no socket stays, and bind(2) will say so."""
    parent, name = os.path.split(path)
    try:
        directory = paths.opened(server, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return  # bind(2) will say so
    try:
        if stat.S_ISSOCK(os.stat(name, dir_fd=directory).st_mode):
            call(lambda: f'unlink("{path}")', _unlink, name, directory, path=path)
    except OSError as error:
        if error.errno not in _NO_SUCH_FILE:
            raise
    finally:
        os.close(directory)


def _unlink(name: str, directory: int) -> None:
    os.unlink(name, dir_fd=directory)


def _with_path(name: str, function: Callable[[bytes], None], path: str) -> None:
    shown = path.replace("\0", "@", 1)
    call(lambda: f'{name}({{AF_UNIX, "{shown}"}})', function, os.fsencode(path), path=shown)


HANDLERS: Handlers = {"OpenSocket": open_socket, "OpenSockets": open_sockets, "OpenUnixSocket": open_unix_socket}
