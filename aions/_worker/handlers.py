"""One function for each request, in the worker that it was sent to."""

from __future__ import annotations

import _socket as socket
import os
import time
from errno import EPERM

from aions._sys import libc, namespaces
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, Log, call
from aions._sys.libc import CLONE_NEWNS, CLONE_NEWTIME, CLONE_NEWUSER
from aions._wire import messages
from aions._wire.messages import Done, Identified, Started
from aions._worker import building, credentials, files, mounts, names, networks, privileges, sockets
from aions._worker.groups import AppsGroup
from aions._worker.loop import Server
from aions._worker.signals import kill_all
from aions._worker.traceback import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from aions._worker.loop import Handlers


def preload() -> None:
    """Import what a first request should not have to wait for.

    The forkserver does it once it has served that request. SECURITY: a worker does it before it enters a namespace, since
    what it imported afterwards could come from somebody else's file system.
    """
    import aions._worker.commands
    import aions._worker.functions
    import aions._worker.rehearsal  # noqa: F401


def fork(server: Server, request: messages.Fork) -> Started:
    """Fork a worker: in the child, never return."""
    server.children.expect()
    wait_for_single_thread(server)
    parent = os.pidfd_open(os.getpid())
    try:
        with AppsGroup(server.home, request.process_group, request.session):
            pid = call(lambda: "fork()", os.fork)
            if pid == 0:
                serve_as_worker(server, request, parent)
    finally:
        os.close(parent)
    server.children.add(pid, request.exit)
    return started(server, pid)


def serve_as_worker(parent: Server, request: messages.Fork, parent_pidfd: int) -> NoReturn:
    """Do all that the fork does; whatever happens, it does not return into the code of its parent."""
    try:
        server = become_worker(parent, request.socket, parent_pidfd)
        if request.in_advance:
            from aions._worker import rehearsal  # see preload

            rehearsal.rehearse_as_worker(server)
        server.serve()
    except BaseException as error:
        os.write(2, f"aions: worker {os.getpid()}: {error!r}\n{describe(error.__traceback__)}\n".encode())
    finally:
        os._exit(1)


def become_worker(parent: Server, connection: int, parent_pidfd: int) -> Server:
    """Turn the fork of a worker into one of its own: nothing of the parent's stays open but the way home."""
    if Log.lines is not None:
        Log.lines = []  # those before were the parent's
    parent.connection.detach()
    procfs.close_all_but(parent.home.proc, 0, 1, 2, connection, parent_pidfd)
    server = Server(socket.socket(fileno=connection), parent.home, HANDLERS, parent_pidfd)
    server.end_with_parent()
    return server


def started(server: Server, pid: int) -> Started:
    """Describe a child that was just started, to the app: its pid as the app sees it."""
    try:
        pidfd = call(lambda: f"pidfd_open({pid}, 0)", os.pidfd_open, pid)
        seen = pid if server.home.is_pid_namespace() else procfs.pid_of(server.home.proc, pidfd)
    except OSError:
        kill_all([pid])
        raise
    return Started(seen, pidfd)


def unshare(server: Server, request: messages.Unshare) -> Done:
    if request.namespaces & CLONE_NEWNS:
        preload()  # before something is mounted over the place that it would be imported from
    if request.namespaces & CLONE_NEWUSER:
        wait_for_single_thread(server)
    try:
        with_threads_named(server, libc.unshare, request.namespaces)
    except KernelError as error:
        error.hint = error.hint or credentials.hindrance(server)
        raise
    server.end_with_parent()
    return Done()


def set_namespace(server: Server, request: messages.SetNamespace) -> Done:
    preload()
    if request.namespaces & (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWTIME) or request.namespaces == 0:
        wait_for_single_thread(server)
    before = credentials.user_namespace(server)
    with_threads_named(server, libc.setns, request.target, request.namespaces)
    if not request.preserve_credentials and credentials.user_namespace(server) != before:
        server.half_made = True
        credentials.take_root(server)
        server.half_made = False
    server.end_with_parent()
    return Done()


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


def get_namespace_id(server: Server, request: messages.GetNamespaceID) -> Identified:
    pid = "self" if request.pid is None else request.pid
    return Identified(*namespaces.identify(server.home.proc, pid, request.namespace))


def write_map(server: Server, request: messages.WriteMap) -> Done:
    if request.setgroups == request.DENIED:
        procfs.write(server.home.proc, f"{request.pid}/setgroups", "deny")
    try:
        procfs.write(server.home.proc, f"{request.pid}/{request.file}", request.text)
    except KernelError as error:
        if error.errno != EPERM or request.setgroups != request.IF_NEED_BE:
            raise
        procfs.write(server.home.proc, f"{request.pid}/setgroups", "deny")
        procfs.write(server.home.proc, f"{request.pid}/{request.file}", request.text)
    return Done()


def set_clock_offset(server: Server, request: messages.SetClockOffset) -> Done:
    procfs.write(server.home.proc, "self/timens_offsets", request.text)
    return Done()


def set_propagation(_server: Server, request: messages.SetPropagation) -> Done:
    libc.set_propagation(request.propagation)
    return Done()


def spawn(server: Server, request: messages.Spawn) -> Started:
    from aions._worker import commands  # see preload

    return started(server, commands.spawn(server, request))


def call_function(server: Server, request: messages.CallFunction) -> messages.Called:
    from aions._worker import functions  # see preload

    return functions.call(server, request)


HANDLERS: Handlers = {
    **credentials.HANDLERS,
    **privileges.HANDLERS,
    **building.HANDLERS,
    **files.HANDLERS,
    **mounts.HANDLERS,
    **names.HANDLERS,
    **networks.HANDLERS,
    **sockets.HANDLERS,
    "CallFunction": call_function,
    "Fork": fork,
    "GetNamespaceID": get_namespace_id,
    "SetClockOffset": set_clock_offset,
    "SetNamespace": set_namespace,
    "SetPropagation": set_propagation,
    "Spawn": spawn,
    "Unshare": unshare,
    "WriteMap": write_map,
}
