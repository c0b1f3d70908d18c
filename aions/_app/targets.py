"""What stands for a namespace, or for the namespaces of a process: from whatever the user has to a descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import select
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

from anyio import ClosedResourceError
from anyio.abc import Process

from aions._app.descriptor import HasFileno
from aions._app.namespace_file import NamespaceFile, namespace_type
from aions._app.unwanted import opened_in_thread
from aions._types import Namespace, NamespaceLike, Namespaces, combine

_IPROUTE2 = Path("/run/netns")
_OF_THE_KERNEL = ("/proc/", f"{_IPROUTE2}/", "/var/run/netns/")
_SIOCGSKNS = 0x894C


class HasPid(Protocol):
    """A process: of aions, of anyio, of asyncio, of `subprocess`."""

    @property
    def pid(self) -> int: ...


class HasPidfd(Protocol):
    """A worker, or a process of one."""

    @property
    def pidfd(self) -> int: ...


Target = int | str | PathLike[str] | HasFileno | HasPid | HasPidfd
"""An int is a pid; a string is a path if it has a slash in it, else a name that `ip netns` knows."""


@dataclass(frozen=True)
class Held:
    """A descriptor of a namespace, or of a process where `is_process`; and the iproute2 name of its network, if it has one."""

    descriptor: int
    is_process: bool = False
    name: str | None = None

    def kinds(self, namespaces: Namespaces | None) -> Namespace:
        """Return which namespaces are meant.

        Raises:
            ValueError: none are named, and it is a process, which is in all eight; or it is one namespace of another kind.
        """
        if self.is_process:
            if namespaces is None:
                raise ValueError("a process is in namespaces of all kinds: name those that are meant")
            return combine(namespaces)
        kind = namespace_type(self.descriptor)
        if namespaces is not None and combine(namespaces) != kind:
            raise ValueError(f"the target is a {kind.kernel_name} namespace, not {combine(namespaces)!r}")
        return kind


@asynccontextmanager
async def held(target: Target) -> AsyncIterator[Held]:
    """Hold a target for the length of a `with` block.

    Raises:
        OSError: ESRCH: the process has ended. ENOENT: no such path or name. EINVAL: what is there is no namespace. EPERM: the
            network namespace of a socket is not the app's to have (CAP_NET_ADMIN).
    """
    if isinstance(target, NamespaceFile):
        target.check_open()
        yield Held(target.fileno(), name=target.name)
    elif hasattr(target, "pidfd"):
        if target.pidfd < 0:
            raise ClosedResourceError
        link = getattr(target, "_link", None)
        yield Held(target.pidfd, is_process=True, name=link.network_name if link is not None else None)
    elif hasattr(target, "fileno"):
        with _of_descriptor(target.fileno()) as found:
            yield found
    else:
        async with _opened(target) as found:
            yield found


@asynccontextmanager
async def _opened(target: int | str | PathLike[str] | HasPid) -> AsyncIterator[Held]:
    """Open what is named by a path, a name or a pid."""
    if isinstance(target, str | PathLike):
        path, name = _located(target)
        found = Held(await _open(path, name), name=name)
    else:
        path = None
        found = Held(_pidfd(target), is_process=True)
    try:
        if path is not None:
            namespace_type(found.descriptor, path)
        yield found
    finally:
        os.close(found.descriptor)


async def _open(path: str, name: str | None) -> int:
    """Open a path: in a thread, unless that can be no file server's. A FIFO there must not hold us up either."""

    def opened() -> int:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    try:
        if posixpath.normpath(path).startswith(_OF_THE_KERNEL):
            return opened()
        return await opened_in_thread(opened, os.close)
    except FileNotFoundError as error:
        if name is not None:
            error.add_note(f"{name!r} is no name that `ip netns list` shows. (What is to be a path has a slash in it.)")
        raise


def _pidfd(target: int | HasPid) -> int:
    """Open a pidfd of a process.

    SECURITY: once a process was collected the kernel may give its pid to another. So an object that stands for one is asked
    whether it was: before, and again when the pidfd is open, which from then on holds what was found. A number cannot be asked.
    """
    pid = _pid(target)
    if _was_collected(target):
        raise _collected(pid)
    pidfd = os.pidfd_open(pid)
    if _was_collected(target) or (_may_be_told_late(target) and not _is_child(pidfd)):
        os.close(pidfd)
        raise _collected(pid)
    return pidfd


def _may_be_told_late(process: object) -> bool:
    """Whether a process may be collected in a thread of asyncio's, some time before the event loop learns of it."""
    return isinstance(process, Process) or type(process).__module__ == "asyncio.subprocess"


def _was_collected(process: object) -> bool:
    """Ask an object whether its process was collected: those that can look do, others say what they were told.

    `is_running` is psutil's, `isalive` pexpect's, `is_alive` that of multiprocessing and sh, `poll` that of `subprocess`;
    `returncode` is what most others have, and `exitcode` some.
    """
    for name in ("is_running", "isalive", "is_alive"):
        if callable(runs := getattr(process, name, None)):
            return not runs()
    if callable(poll := getattr(process, "poll", None)):
        return poll() is not None
    return getattr(process, "returncode", None) is not None or getattr(process, "exitcode", None) is not None


def _is_child(pidfd: int) -> bool:
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _collected(pid: int) -> ProcessLookupError:
    error = ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    error.add_note(f"The process has ended and was collected: {pid} may be the pid of another by now.")
    return error


def _pid(target: int | HasPid) -> int:
    pid = target if isinstance(target, int) else getattr(target, "pid", None)
    if type(pid) is not int:
        raise TypeError(f"{target!r} stands for no namespace and for no process")
    if pid <= 0:
        raise ValueError(f"{pid} is not the pid of a process")
    return pid


def _located(target: str | PathLike[str]) -> tuple[str, str | None]:
    """Return the path that is meant, and the name that `ip netns` has for it."""
    if isinstance(target, PathLike) or "/" in target:
        return os.fspath(target), None
    if target in ("", ".", ".."):
        raise ValueError(f"{target!r} is no name of a network namespace")
    return str(_IPROUTE2 / target), target


@contextmanager
def _of_descriptor(descriptor: int) -> Iterator[Held]:
    """Take a pidfd, the descriptor of a namespace, or a socket, for which its network namespace is opened."""
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        nsfd = fcntl.ioctl(descriptor, _SIOCGSKNS)
        try:
            yield Held(nsfd)
        finally:
            os.close(nsfd)
    elif pid_of(descriptor) is not None:
        yield Held(descriptor, is_process=True)
    else:
        namespace_type(descriptor)
        yield Held(descriptor)


def pid_of(pidfd: int) -> int | None:
    """Return the pid behind a pidfd, -1 once the process is gone; None if it is no pidfd."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return None


async def pid_behind(target: Target) -> int:
    """Return the pid of the process that a target stands for; 0 for a namespace."""
    async with held(target) as found:
        return (pid_of(found.descriptor) or 0) if found.is_process else 0


async def open_namespace(target: Target, namespace: NamespaceLike | None) -> NamespaceFile:
    """Open one namespace of a target."""
    async with held(target) as found:
        kind = found.kinds(namespace)
        if found.is_process:
            name = found.name if kind is Namespace.NETWORK else None
            return NamespaceFile(_of_process(found.descriptor, kind.kernel_name), name)
        return NamespaceFile(os.dup(found.descriptor), found.name)


def _of_process(pidfd: int, name: str) -> int:
    """Open a namespace of the process that a pidfd holds, and of no other that has got its pid."""
    gone = ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    try:
        descriptor = os.open(f"/proc/{pid_of(pidfd)}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise gone from None
    if _has_ended(pidfd):
        os.close(descriptor)
        raise gone
    return descriptor


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
