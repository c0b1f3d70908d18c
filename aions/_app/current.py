"""The current worker, and the functions that act on it.

It is the worker of the innermost `async with open_worker()` around the call in this task, or in the task that started this one;
else the event loop's default worker, which is forked when it is first needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from aions._app import targets
from aions._app.home import Home, current_home
from aions._app.link import Link
from aions._app.namespace_file import NamespaceFile
from aions._app.targets import Target
from aions._app.worker import Worker
from aions._types import Namespace, NamespaceLike

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
        if not home.default_worker._link.closed:
            home.default_worker._link.drop()
            await checkpoint()  # see Home.forkserver
        home.default_worker = None
    home.default_worker = Worker(await home.fork())


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


unshare = _on_current(Worker.unshare)
set_namespace = _on_current(Worker.set_namespace)
enter_namespace = _on_current(Worker.enter_namespace)
get_namespace_id = _on_current(Worker.get_namespace_id)
write_user_mappings = _on_current(Worker.write_user_mappings)
write_group_mappings = _on_current(Worker.write_group_mappings)
read_user_mappings = _on_current(Worker.read_user_mappings)
read_group_mappings = _on_current(Worker.read_group_mappings)
translate_user_id = _on_current(Worker.translate_user_id)
translate_group_id = _on_current(Worker.translate_group_id)
get_owner_uid = _on_current(Worker.get_owner_uid)
get_owning_namespace = _on_current(Worker.get_owning_namespace)
get_parent_namespace = _on_current(Worker.get_parent_namespace)
get_credentials = _on_current(Worker.get_credentials)
restrict = _on_current(Worker.restrict)
set_clock_offset = _on_current(Worker.set_clock_offset)
run_process = _on_current(Worker.run_process)
open_process = _on_current(Worker.open_process)
run_sync = _on_current(Worker.run_sync)
socket = _on_current(Worker.socket)
sockets = _on_current(Worker.sockets)
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
mount = _on_current(Worker.mount)
umount = _on_current(Worker.umount)
bind_mount = _on_current(Worker.bind_mount)
open_tree = _on_current(Worker.open_tree)
move_mount = _on_current(Worker.move_mount)
mount_setattr = _on_current(Worker.mount_setattr)
fsmount = _on_current(Worker.fsmount)
set_propagation = _on_current(Worker.set_propagation)
pivot_root = _on_current(Worker.pivot_root)
chroot = _on_current(Worker.chroot)
chdir = _on_current(Worker.chdir)
sethostname = _on_current(Worker.sethostname)
setdomainname = _on_current(Worker.setdomainname)


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
    try:
        return await targets.open_namespace(target, namespace)
    except PermissionError:
        worker = current_home().worker_with(await targets.pid_behind(target))
        if worker is None:
            raise
    return await Worker(worker).open_namespace(Namespace(0) if namespace is None else namespace)
