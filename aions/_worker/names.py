"""The C library's resolver, called in a fork of a worker: it may take long, and is ended by SIGKILL."""

from __future__ import annotations

import _socket as socket
import errno
import os
import stat

from aions._errors import ProtocolError
from aions._sys import libc, mounts
from aions._sys.calls import KernelError
from aions._wire.fdsocket import close_all, from_memfd, to_memfd
from aions._wire.messages import (
    Done,
    IsolateResolver,
    Named,
    ReadResolverFiles,
    ResolveAddress,
    Resolved,
    ResolveName,
    ResolverFiles,
    Unresolved,
)
from aions._worker import paths
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers

_CONFIGURATION = ("gai.conf", "host.conf", "hosts", "networks", "nsswitch.conf", "protocols", "resolv.conf", "services")
_MS_BIND = 0x1000
_LARGEST = 4 * 1024 * 1024

_DAEMONS = (
    "/run/avahi-daemon/socket",  # libnss_mdns
    "/run/dbus/system_bus_socket",  # libnss_resolve of old
    "/run/nscd/socket",  # the C library itself
    "/run/nslcd/socket",
    "/run/systemd/machine/io.systemd.Machine",  # libnss_mymachines
    "/run/systemd/resolve/io.systemd.Resolve",
    "/var/lib/sss/pipes/nss",
    "/var/run/nscd/socket",
)
"""Where the host's daemons listen. These sockets are of the file system, so that no network namespace keeps them out."""


def read_resolver_files(server: Server, _request: ReadResolverFiles) -> ResolverFiles:
    memfds: list[int] = []
    try:
        for name in _CONFIGURATION:
            memfds.append(to_memfd(_content(server, f"/etc/{name}")))  # noqa: PERF401 - those before one that fails are closed
    except BaseException:
        close_all(memfds)
        raise
    return ResolverFiles(_CONFIGURATION, tuple(memfds))


def _content(server: Server, path: str) -> bytes:
    """Read a file; what is none, or is not there, is as good as empty.

    SECURITY: it may be in somebody else's file system, where a FIFO would hold the worker up, and a link could lead outside.
    """
    try:
        descriptor = paths.opened(server, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, _LARGEST)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def isolate_resolver(_server: Server, request: IsolateResolver) -> Done:
    _unshare_mounts()
    for path in _DAEMONS:
        _cover(path, "/dev/null")
    if request.files:
        _lay_out(request.files, request.contents)
    if request.network_name is not None:
        _lay_over(f"/etc/netns/{request.network_name}")
    return Done()


def _unshare_mounts() -> None:
    """Have mounts that nobody else sees: those of a plain user take a user namespace, in which nothing needs to be mapped."""
    try:
        libc.unshare(libc.CLONE_NEWNS)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
    libc.set_propagation(libc.MS_PRIVATE)


def _cover(path: str, source: str) -> None:
    """Mount a file over another, if that can be reached."""
    try:
        mounts.mount(source, path, None, _MS_BIND, None)
    except KernelError:
        if os.path.exists(path):
            raise


def _lay_out(files: tuple[str, ...], contents: tuple[int, ...]) -> None:
    """Mount contents over files in /etc.

    SECURITY: both come from a worker that may lie. A name with a slash would be a path out of here, for the app's user.
    """
    if not set(files).issubset(_CONFIGURATION):
        raise ValueError("not all of these are files of the resolver")
    mounts.mount("aions", "/tmp", "tmpfs", 0, None)  # noqa: S108  # of this fork alone
    for name, memfd in zip(files, contents, strict=True):
        path = f"/tmp/{name}"  # noqa: S108
        with open(path, "wb") as file:
            file.write(_said(memfd))
        _cover(f"/etc/{name}", path)


def _said(memfd: int) -> bytes:
    try:
        return from_memfd(memfd, _LARGEST)
    except ProtocolError as error:
        raise ValueError(f"no contents of a file: {error}") from None


def _lay_over(directory: str) -> None:
    """Mount what is in a directory over what has the same names in /etc, as `ip netns exec` does."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        _cover(f"/etc/{name}", f"{directory}/{name}")


def resolve_name(_server: Server, request: ResolveName) -> Resolved | Unresolved:
    host = None if request.host is None else os.fsencode(request.host)  # a str would load encodings.idna
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
    address = (request.host, request.port, 0, request.scope) if request.scope else (request.host, request.port)
    try:
        return Named(*socket.getnameinfo(address, request.flags))
    except socket.gaierror as error:
        return _unresolved(error)


def _unresolved(error: socket.gaierror) -> Unresolved:
    return Unresolved(error.errno or socket.EAI_FAIL, error.strerror or "")


HANDLERS: Handlers = {
    "IsolateResolver": isolate_resolver,
    "ReadResolverFiles": read_resolver_files,
    "ResolveAddress": resolve_address,
    "ResolveName": resolve_name,
}
