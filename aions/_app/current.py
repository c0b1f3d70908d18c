"""The current worker, and the functions that act on it.

It is the worker of the innermost `async with open_worker()` around the call in this task, or in the task that started this one;
else the event loop's default worker, which is forked when it is first needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from subprocess import PIPE, CompletedProcess
from typing import Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app import targets
from aions._app.capabilities import Capabilities
from aions._app.credentials import Credentials
from aions._app.descriptor import HasFileno
from aions._app.home import Home, current_home
from aions._app.link import Link
from aions._app.namespace_file import NamespaceFile
from aions._app.processes import Process, Stream
from aions._app.targets import Target
from aions._app.text import StrOrBytesPath
from aions._app.worker import Worker
from aions._types import Clock, GroupMapping, Namespace, NamespaceID, NamespaceLike, Namespaces, UserMapping

P = ParamSpec("P")
T = TypeVar("T")
Args = TypeVarTuple("Args")

_current: ContextVar[tuple[Home, Worker] | None] = ContextVar("aions_current_worker", default=None)
"""With the event loop that it belongs to: a context may be copied into another one, by way of a thread."""


@contextmanager
def being_current(home: Home, worker: Worker) -> Iterator[None]:
    """Make a worker the current one. No token is kept: a fixture may leave the block in another context than it entered in."""
    before = _current.get()
    now = (home, worker)
    _current.set(now)
    try:
        yield
    finally:
        if _current.get() is now:
            _current.set(before)


async def current_worker() -> Worker:
    """Return the worker that the functions of this package act on here.

    The default worker starts in the app's namespaces, lives as long as the event loop, and keeps whatever namespaces it was
    moved to: for work that is to be on its own, `open_worker`.

    Raises:
        WorkerDied: the default worker was moved to other namespaces and has then ended. It is not replaced by one that is
            somewhere else.
    """
    home = current_home()
    current = _current.get()
    if current is not None and current[0] is home:
        return current[1]
    default = home.default_worker
    if default is not None and not _is_to_be_replaced(default._link):
        return default
    async with home.choosing_default:
        if home.default_worker is None or _is_to_be_replaced(home.default_worker._link):
            await _replace_default(home)
        assert home.default_worker is not None
        return home.default_worker


def _is_to_be_replaced(default: Link) -> bool:
    """Whether the default worker was closed, or has ended where nobody had moved it.

    SECURITY: one that was moved stays dead. Its successor would run in the app's namespaces what was meant for others.
    """
    return default.closed or (default.has_died and not default.moved)


async def _replace_default(home: Home) -> None:
    if home.default_worker is not None:
        home.default_worker._link.let_go()
        home.default_worker = None
    home.default_worker = Worker(await home.fork())


async def unshare(namespaces: Namespaces) -> None:
    """Move the current worker into new namespaces. See `Worker.unshare`."""
    await (await current_worker()).unshare(namespaces)


async def set_namespace(
    fd: int | HasFileno, namespace: Namespaces | None = None, *, preserve_credentials: bool = False
) -> None:
    """Move the current worker into what a descriptor stands for. See `Worker.set_namespace`."""
    await (await current_worker()).set_namespace(fd, namespace, preserve_credentials=preserve_credentials)


async def enter_namespace(pid: int, namespace: Namespaces, *, preserve_credentials: bool = False) -> None:
    """Move the current worker into namespaces of a process. See `Worker.enter_namespace`."""
    await (await current_worker()).enter_namespace(pid, namespace, preserve_credentials=preserve_credentials)


async def get_namespace_id(pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify a namespace of a process, or (None) of the current worker. See `Worker.get_namespace_id`."""
    return await (await current_worker()).get_namespace_id(pid, namespace)


async def write_user_mappings(pid: int | None, mappings: Iterable[UserMapping]) -> None:
    """Write the uid map of a process, or (None) of the current worker. See `Worker.write_user_mappings`."""
    await (await current_worker()).write_user_mappings(pid, mappings)


async def write_group_mappings(pid: int | None, mappings: Iterable[GroupMapping], deny_setgroups: bool = False) -> None:
    """Write the gid map of a process, or (None) of the current worker. See `Worker.write_group_mappings`."""
    await (await current_worker()).write_group_mappings(pid, mappings, deny_setgroups)


async def read_user_mappings(pid: int | None) -> list[UserMapping]:
    """Read the uid map of a process, or (None) of the current worker. See `Worker.read_user_mappings`."""
    return await (await current_worker()).read_user_mappings(pid)


async def read_group_mappings(pid: int | None) -> list[GroupMapping]:
    """Read the gid map of a process, or (None) of the current worker. See `Worker.read_group_mappings`."""
    return await (await current_worker()).read_group_mappings(pid)


async def translate_user_id(user: int, source: int | None, target: int | None) -> int | None:
    """Say which number a user of one user namespace has in another. See `Worker.translate_user_id`."""
    return await (await current_worker()).translate_user_id(user, source, target)


async def translate_group_id(group: int, source: int | None, target: int | None) -> int | None:
    """Say which number a group of one user namespace has in another. See `Worker.translate_group_id`."""
    return await (await current_worker()).translate_group_id(group, source, target)


async def get_owner_uid(pid: int | None) -> int:
    """Say who owns the user namespace of a process, or (None) of the current worker. See `Worker.get_owner_uid`."""
    return await (await current_worker()).get_owner_uid(pid)


async def get_owning_namespace(pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify the user namespace that owns one of a process, or of the current worker. See `Worker.get_owning_namespace`."""
    return await (await current_worker()).get_owning_namespace(pid, namespace)


async def get_parent_namespace(pid: int | None, namespace: NamespaceLike) -> NamespaceID:
    """Identify the parent of a namespace of a process, or of the current worker. See `Worker.get_parent_namespace`."""
    return await (await current_worker()).get_parent_namespace(pid, namespace)


async def get_credentials(pid: int | None) -> Credentials:
    """Read who a process, or (None) the current worker, is and what it may. See `Worker.get_credentials`."""
    return await (await current_worker()).get_credentials(pid)


async def restrict(
    *, capabilities: Capabilities | None = None, keep_capabilities: bool = False, no_new_privs: bool = False
) -> None:
    """Have the current worker give up privileges, for good. See `Worker.restrict`."""
    await (await current_worker()).restrict(
        capabilities=capabilities, keep_capabilities=keep_capabilities, no_new_privs=no_new_privs
    )


async def set_clock_offset(clock: Clock, seconds: int, nanoseconds: int = 0) -> None:
    """Set a clock of the current worker's new time namespace. See `Worker.set_clock_offset`."""
    await (await current_worker()).set_clock_offset(clock, seconds, nanoseconds)


async def run_process(
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    *,
    input: bytes | None = None,
    stdin: Stream = None,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    check: bool = True,
    cwd: StrOrBytesPath | None = None,
    env: Mapping[str, str] | None = None,
    startupinfo: Any = None,
    creationflags: int = 0,
    start_new_session: bool = False,
    pass_fds: Sequence[int] = (),
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    capabilities: Capabilities | None = None,
    keep_capabilities: bool = False,
    no_new_privs: bool = False,
) -> CompletedProcess[bytes]:
    """Run a command where the current worker is. See `Worker.run_process`."""
    return await (await current_worker()).run_process(
        command,
        input=input,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        check=check,
        cwd=cwd,
        env=env,
        startupinfo=startupinfo,
        creationflags=creationflags,
        start_new_session=start_new_session,
        pass_fds=pass_fds,
        user=user,
        group=group,
        extra_groups=extra_groups,
        umask=umask,
        capabilities=capabilities,
        keep_capabilities=keep_capabilities,
        no_new_privs=no_new_privs,
    )


async def open_process(
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    *,
    stdin: Stream = PIPE,
    stdout: Stream = PIPE,
    stderr: Stream = PIPE,
    cwd: StrOrBytesPath | None = None,
    env: Mapping[str, str] | None = None,
    startupinfo: Any = None,
    creationflags: int = 0,
    start_new_session: bool = False,
    pass_fds: Sequence[int] = (),
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    capabilities: Capabilities | None = None,
    keep_capabilities: bool = False,
    no_new_privs: bool = False,
) -> Process:
    """Start a command where the current worker is. See `Worker.open_process`."""
    return await (await current_worker()).open_process(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=env,
        startupinfo=startupinfo,
        creationflags=creationflags,
        start_new_session=start_new_session,
        pass_fds=pass_fds,
        user=user,
        group=group,
        extra_groups=extra_groups,
        umask=umask,
        capabilities=capabilities,
        keep_capabilities=keep_capabilities,
        no_new_privs=no_new_privs,
    )


async def run_sync(
    func: Callable[[*Args], T],
    *args: *Args,
    cancellable: bool = False,
    limiter: anyio.CapacityLimiter | None = None,
) -> T:
    """Call a function in the current worker. See `Worker.run_sync`."""
    return await (await current_worker()).run_sync(func, *args, cancellable=cancellable, limiter=limiter)


def _on_current(
    method: Callable[Concatenate[Worker, P], Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make the function that calls a method of the current worker."""

    @wraps(method)
    async def function(*args: P.args, **kwargs: P.kwargs) -> T:
        return await method(await current_worker(), *args, **kwargs)

    signature = inspect.signature(method)
    function.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    function.__module__, function.__qualname__ = "aions", method.__name__
    return function


socket = _on_current(Worker.socket)
connect_tcp = _on_current(Worker.connect_tcp)
create_tcp_listener = _on_current(Worker.create_tcp_listener)
create_udp_socket = _on_current(Worker.create_udp_socket)
create_connected_udp_socket = _on_current(Worker.create_connected_udp_socket)
connect_unix = _on_current(Worker.connect_unix)
create_unix_listener = _on_current(Worker.create_unix_listener)
create_unix_datagram_socket = _on_current(Worker.create_unix_datagram_socket)
create_connected_unix_datagram_socket = _on_current(Worker.create_connected_unix_datagram_socket)
getaddrinfo = _on_current(Worker.getaddrinfo)
getnameinfo = _on_current(Worker.getnameinfo)
enter = _on_current(Worker.enter)
open = _on_current(Worker.open)
open_file = _on_current(Worker.open_file)
new_namespace = _on_current(Worker.new_namespace)


async def open_namespace(target: Target, namespace: NamespaceLike | None = None) -> NamespaceFile:
    """Open a namespace of somebody else's, so that it lives as long as the handle. No worker is needed, and none moves.

    Args:
        target: whatever `Worker.enter` takes.
        namespace: of a process, which one; of one namespace, which kind it has to be. None takes any.

    Raises:
        ValueError: a process and no kind of namespace; a namespace of another kind.
        OSError: ENOENT: no such name or path; nothing is created. ESRCH: no such process. EINVAL: what was found is no
            namespace. EACCES: another user's process.

    Kernel: namespaces(7), ioctl_nsfs(2).
    """
    if isinstance(target, Worker):
        return await target.open_namespace(Namespace(0) if namespace is None else namespace)
    await checkpoint_if_cancelled()
    return targets.open_namespace(target, namespace)
