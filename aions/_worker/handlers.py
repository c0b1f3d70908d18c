"""One function for each request, in the worker that it was sent to."""

from __future__ import annotations

import _socket as socket
import os
from errno import EPERM

from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, Log, call
from aions._wire import messages
from aions._wire.fdsocket import close_all
from aions._wire.messages import Done, Started
from aions._worker import building, credentials, files, late, mounts, names, namespaces, networks, privileges, sessions, sockets
from aions._worker.groups import AppsGroup
from aions._worker.loop import Server
from aions._worker.namespaces import wait_for_single_thread
from aions._worker.signals import kill_all
from aions._worker.traceback import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from aions._worker.loop import Handlers


def fork(server: Server, request: messages.Fork) -> Started:
    """Fork a worker: in the child, never return."""
    server.children.expect()
    wait_for_single_thread(server)
    server.prepare_fork()
    gate = Gate() if server.seals_forks and not server.sealed else None
    try:
        parent = os.pidfd_open(os.getpid())
        try:
            with AppsGroup(server.home, request.process_group, request.session):
                pid = call(lambda: "fork()", os.fork)
                if pid == 0:
                    serve_as_worker(server, request, parent, gate)
        finally:
            os.close(parent)
        if gate is not None:
            _seal_both(server, pid, gate)
    finally:
        if gate is not None:
            gate.close()
    server.children.add(pid, request.exit)
    return started(server, pid)


class Gate:
    """Holds up a process that has forked until the fork has closed `theirs`, or has ended."""

    def __init__(self) -> None:
        self._ours, self.theirs = call(lambda: "pipe2()", os.pipe2, os.O_CLOEXEC)

    def wait(self) -> None:
        """Close it, but wait before."""
        os.close(self.theirs)
        self.theirs = -1
        os.read(self._ours, 1)

    def close(self) -> None:
        """Close it."""
        close_all(each for each in (self._ours, self.theirs) if each >= 0)


def _seal_both(server: Server, pid: int, gate: Gate) -> None:
    """Seal this process, and wait until its fork has sealed itself.

    SECURITY: this process may start something next. KERNEL: a fork of a sealed one could not open its clock offsets any more.
    """
    try:
        server.seal()
    except OSError:
        kill_all([pid])
        raise
    gate.wait()


def serve_as_worker(parent: Server, request: messages.Fork, parent_pidfd: int, gate: Gate | None) -> NoReturn:
    """Do all that the fork does; whatever happens, it does not return into the code of its parent."""
    try:
        server = become_worker(parent, request.socket, parent_pidfd, gate)
        if request.in_advance:
            from aions._worker import rehearsal  # see late

            rehearsal.rehearse_as_worker(server)
        server.serve()
    except BaseException as error:
        os.write(2, f"aions: worker {os.getpid()}: {error!r}\n{describe(error.__traceback__)}\n".encode())
    finally:
        os._exit(1)


def become_worker(parent: Server, connection: int, parent_pidfd: int, gate: Gate | None) -> Server:
    """Turn the fork of a worker into one of its own: nothing of the parent's stays open but the way home."""
    if Log.lines is not None:
        Log.lines = []  # those before were the parent's
    parent.connection.detach()
    home = parent.home.for_workers()
    held = [] if gate is None else [gate.theirs]
    procfs.close_all_but(home.proc, 0, 1, 2, connection, parent_pidfd, *held)
    server = Server(socket.socket(fileno=connection), home, HANDLERS, parent_pidfd, parent.sealed)
    server.has_entered = parent.has_entered
    if parent.seals_forks:
        server.seal()
    close_all(held)
    server.renew()
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


def set_propagation(_server: Server, request: messages.SetPropagation) -> Done:
    libc.set_propagation(request.propagation)
    return Done()


def spawn(server: Server, request: messages.Spawn) -> Started:
    from aions._worker import commands  # see late

    server.seal()
    return started(server, commands.spawn(server, request))


def call_function(server: Server, request: messages.CallFunction) -> messages.Called:
    late.load()  # it may change the root
    from aions._worker import functions

    server.seal()  # what it starts, it may start in ways that are not ours
    return functions.call(server, request)


HANDLERS: Handlers = {
    **credentials.HANDLERS,
    **privileges.HANDLERS,
    **building.HANDLERS,
    **files.HANDLERS,
    **mounts.HANDLERS,
    **names.HANDLERS,
    **namespaces.HANDLERS,
    **networks.HANDLERS,
    **sessions.HANDLERS,
    **sockets.HANDLERS,
    "CallFunction": call_function,
    "Fork": fork,
    "SetPropagation": set_propagation,
    "Spawn": spawn,
    "WriteMap": write_map,
}
