"""Which namespaces this process is in: making them, joining them, saying which they are."""

from __future__ import annotations

import os
import time
from errno import ENOENT, EPERM

from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import KernelError
from aions._sys.libc import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from aions._sys.namespaces import NAMES, identify
from aions._sys.proc import Opened as Open
from aions._wire.fdsocket import close_all
from aions._wire.messages import (
    Done,
    GetNamespaceID,
    Identified,
    JoinNamespaces,
    Opened,
    Sealed,
    SetClockOffset,
    SetNamespace,
    StandIn,
    Unshare,
)
from aions._worker import credentials, late
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from aions._worker.loop import Handlers

_OFFSETS = "self/timens_offsets"


def unshare(server: Server, request: Unshare) -> Done | Sealed:
    if _needs_stand_in(server, request.namespaces):
        return Sealed()
    if request.namespaces & CLONE_NEWNS:
        late.load()  # before something is mounted over the place that it would be imported from
    if request.namespaces & CLONE_NEWUSER:
        wait_for_single_thread(server)
    _unshare(server, request.namespaces)
    server.renew()
    return Done()


def _needs_stand_in(server: Server, namespaces: int) -> bool:
    """Whether nobody could write the id maps of a user namespace that this process makes."""
    if not server.sealed or not namespaces & CLONE_NEWUSER or procfs.may_write_maps(server.home.proc):
        return False
    if namespaces & CLONE_NEWPID and not server.home.is_in_pid_namespace_for_children():
        return False  # the kernel refuses it, whoever asks: EINVAL
    wait_for_single_thread(server)
    return True


def _unshare(server: Server, namespaces: int) -> None:
    try:
        with_threads_named(server, libc.unshare, namespaces)
    except KernelError as error:
        error.hint = error.hint or credentials.hindrance(server)
        raise


def set_namespace(server: Server, request: SetNamespace) -> Done:
    late.load()
    server.seal()
    server.has_entered = True
    if request.namespaces & (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWTIME) or request.namespaces == 0:
        wait_for_single_thread(server)
    before = credentials.user_namespace(server)
    with_threads_named(server, libc.setns, request.target, request.namespaces)
    if not request.preserve_credentials and credentials.user_namespace(server) != before:
        server.half_made = True
        credentials.take_root(server)
        server.half_made = False
    server.renew()
    return Done()


def join_namespaces(server: Server, request: JoinNamespaces) -> Done:
    """Join all or none, in the order in which the kernel lets.

    KERNEL: before a user namespace is entered one may have the right to join what the host owns, after it what that namespace
    owns. So all but the user namespace are tried, then it, then those that were refused before.
    """
    late.load()
    server.seal()
    server.has_entered = True
    wait_for_single_thread(server)
    before = credentials.user_namespace(server)
    with WayBack(server, request.namespaces) as way_back:
        refused = [each for each in zip(request.namespaces, request.targets, strict=True) if not _joins(way_back, *each)]
        for namespace, target in sorted(refused, key=_is_not_user):
            way_back.join(namespace, target)
        if not request.preserve_credentials and credentials.user_namespace(server) != before:
            credentials.take_root(server)
    server.renew()
    return Done()


def _is_not_user(each: tuple[int, int]) -> bool:
    return each[0] != CLONE_NEWUSER


def _joins(way_back: WayBack, namespace: int, target: int) -> bool:
    """Join a namespace, unless it is a user namespace, or one that may have to wait for that."""
    if namespace == CLONE_NEWUSER:
        return False
    try:
        way_back.join(namespace, target)
    except KernelError as error:
        if error.errno != EPERM:
            raise
        return False
    return True


class WayBack:
    """Has a worker that could not join all that it was to join go back; it ends where that cannot be."""

    def __init__(self, server: Server, namespaces: tuple[int, ...]) -> None:
        self._server = server
        self._kept: dict[int, int] = {}
        for namespace in namespaces:
            self._keep(namespace)
        self._directories = [_path_of(path) for path in ("/", ".")] if CLONE_NEWNS in namespaces else []
        self._joined: list[int] = []

    def _keep(self, namespace: int) -> None:
        """Keep a namespace open, if there is a way back to it: to a user namespace there is none."""
        if namespace == CLONE_NEWUSER:
            return
        try:
            with Open(self._server.home.proc, f"self/ns/{NAMES[namespace]}", os.O_RDONLY) as descriptor:
                self._kept[namespace] = os.dup(descriptor)
        except KernelError as error:
            if error.errno != ENOENT:  # a pid namespace without a first process yet
                raise

    def join(self, namespace: int, target: int) -> None:
        with_threads_named(self._server, libc.setns, target, namespace)
        self._joined.append(namespace)

    def __enter__(self) -> WayBack:
        return self

    def __exit__(self, kind: object, *_exception: object) -> None:
        try:
            if kind is not None:
                self._go()
        finally:
            close_all([*self._kept.values(), *self._directories])

    def _go(self) -> None:
        self._server.half_made = True
        for namespace in reversed(self._joined):
            if namespace not in self._kept:
                return
            libc.setns(self._kept[namespace], namespace)
            if namespace == CLONE_NEWNS:
                self._go_to_directories()
        self._server.half_made = False

    def _go_to_directories(self) -> None:
        """KERNEL: setns(2) has made the root of the mount namespace both root and working directory."""
        root, directory = self._directories
        os.fchdir(root)
        os.chroot(".")
        os.fchdir(directory)


def _path_of(directory: str) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def with_threads_named(server: Server, function: Callable[..., None], *arguments: int) -> None:
    """Make a system call; if it is refused while there are other threads, say where they come from."""
    try:
        function(*arguments)
    except KernelError as error:
        count = 1 if server.threads_from is None else procfs.thread_count(server.home.proc)
        if count > 1:
            error.hint = f"The worker has {count} threads; the function that left them is {server.threads_from}."
        raise


def wait_for_single_thread(server: Server) -> None:
    """Wait until the threads of a user's function are gone.

    KERNEL: a thread that was joined still counts for a moment, and unshare and setns then say EINVAL.
    """
    deadline = time.monotonic() + 0.1
    while server.threads_from is not None and procfs.thread_count(server.home.proc) > 1:
        if time.monotonic() > deadline:
            return  # the kernel will say what it thinks of it
        time.sleep(0.0002)


def get_namespace_id(server: Server, request: GetNamespaceID) -> Identified:
    pid = "self" if request.pid is None else request.pid
    return Identified(*identify(server.home.proc, pid, request.namespace))


def set_clock_offset(server: Server, request: SetClockOffset) -> Done:
    if server.clock_offsets >= 0:
        procfs.write_to(server.clock_offsets, _OFFSETS, request.text)
    else:
        procfs.write(server.home.proc, _OFFSETS, request.text)
    return Done()


def stand_in(server: Server, request: StandIn) -> Opened:
    """Make namespaces, and be open to others, who shall find nothing. The standard streams are the app's."""
    if request.namespaces:
        _unshare(server, request.namespaces)
    with Open(server.home.proc, "self/ns/user", os.O_RDONLY) as descriptor:
        namespace = os.dup(descriptor)
    for descriptor in (1, 2, server.home.proc):
        os.dup2(0, descriptor, inheritable=False)
    if server.parent is not None:
        os.close(server.parent)
        server.parent = None
    if request.exposed:
        server.unseal()
    return Opened(namespace)


HANDLERS: Handlers = {
    "GetNamespaceID": get_namespace_id,
    "JoinNamespaces": join_namespaces,
    "SetClockOffset": set_clock_offset,
    "SetNamespace": set_namespace,
    "StandIn": stand_in,
    "Unshare": unshare,
}
