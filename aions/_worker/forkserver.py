"""The forkserver: a worker that stays where the app is, and ends whatever is left when the app is gone.

It keeps the namespaces and the credentials that the app has. So it is the one that forks workers, that may write the uid and
gid maps of their namespaces, and that sees (and may kill) everything that they have started.
"""

from __future__ import annotations

import _socket as socket
import gc
import os
import select
import time
from errno import EINVAL

from aions._sys import proc as procfs
from aions._sys.calls import KernelError
from aions._wire.messages import SERVING, Done, Fork, Kill, Preload, Started
from aions._worker import late, signals
from aions._worker.children import kill_trees
from aions._worker.handlers import HANDLERS, fork
from aions._worker.home import Home
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from aions._worker.loop import Handlers


_PATIENCE = 1
"""Seconds after which a process that was sent SIGKILL holds up nobody any more: it sleeps uninterruptibly in the kernel."""


class Forkserver(Server):
    """A server that also watches the app, by a pidfd: EOF comes late while a fork of the app holds its sockets open.

    It stays open: whoever could look into it has the app itself.
    """

    seals_forks = False

    def __init__(self, connection: socket.socket, app: int) -> None:
        super().__init__(connection, Home(), FORKSERVER_HANDLERS)
        self._app = app
        self.preloaded: tuple[str, ...] = ()
        self.has_forked_in_advance = False
        self._ended: list[tuple[int, int]] = []
        self._killed: dict[int, float] = {}
        self.poller.register(app, select.POLLIN)

    def look_after(self, descriptor: int) -> None:
        if descriptor == self._app:
            self.end()
        super().look_after(descriptor)

    def attend(self, descriptor: int) -> None:
        super().attend(descriptor)
        if self.has_forked_in_advance:
            from aions._worker import rehearsal  # see late

            self.has_forked_in_advance = False
            rehearsal.rehearse_as_forkserver(self)

    def prepare_fork(self) -> None:
        """Make what the worker gets of this process's home."""
        self.home.for_workers()

    def reap(self) -> None:
        """Collect the workers that have ended, and tell the app once what they left behind has ended as well."""
        self._ended += self.children.collect()
        strays = self.children.strays(self.home.proc)
        kill_trees(self.home.proc, strays)
        now = time.monotonic()
        self._killed = {pid: self._killed.get(pid, now) for pid in strays}
        if all(now - since > _PATIENCE for since in self._killed.values()):
            self.children.report(self._ended)
            self._ended.clear()

    def serve(self) -> NoReturn:
        """Serve the app until it is gone; between the first request and the second, import what later ones take."""
        self.attend(self.poller.poll()[-1][0])
        late.load()
        gc.freeze()
        super().serve()


def kill(server: Server, request: Kill) -> Done:
    """End a worker with all that it has started."""
    pid = procfs.pid_of(server.home.proc, request.pidfd)
    if pid > 0:
        kill_trees(server.home.proc, [pid])
    return Done()


def preload_modules(server: Forkserver, request: Preload) -> Done:
    """Import modules that all workers are to have; this has worked in a worker before."""
    from aions._worker import functions

    server.preloaded += request.modules
    server.children.expect()
    try:
        functions.import_modules(request.path, request.modules)
    finally:
        signals.set_up()
        server.children.expect_again()
    gc.freeze()
    return Done()


def fork_alone(server: Forkserver, request: Fork) -> Started:
    """Fork a worker, if there is but one thread: a module that was preloaded may start another at any time."""
    server.has_forked_in_advance = request.in_advance
    count = procfs.thread_count(server.home.proc) if server.preloaded else 1
    if count > 1:
        error = KernelError(EINVAL, "fork()")
        error.hint = f"The forkserver has {count} threads. What was preloaded: {', '.join(server.preloaded)}."
        raise error
    return fork(server, request)


FORKSERVER_HANDLERS: Handlers = {**HANDLERS, "Fork": fork_alone, "Kill": kill, "Preload": preload_modules}


def started(connection: int, app: int, stdout: int, stderr: int) -> Forkserver:
    """Become the forkserver of an app, whose pidfd is `app`, and say so; then stdout and stderr are the app's."""
    os.setpgid(0, 0)  # Ctrl-C in a terminal is for the app and its commands
    signals.set_up()
    sock = socket.socket(fileno=connection)
    for descriptor in (connection, app):
        os.set_inheritable(descriptor, False)
    server = Forkserver(sock, app)
    gc.freeze()  # keeps the pages of what is loaded shared with the workers
    os.write(1, SERVING)
    for number, descriptor in enumerate((stdout, stderr), 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return server
