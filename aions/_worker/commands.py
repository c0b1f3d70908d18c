"""Running a command: `subprocess` in the worker, with the app's descriptors."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess

from aions._sys.calls import KernelError
from aions._wire.fdsocket import close_all
from aions._wire.messages import Spawn
from aions._worker.loop import Server


def spawn(server: Server, request: Spawn) -> int:
    """Start a command and return its pid as this process counts."""
    if request.pass_fds:
        server.ignore_children()  # the number of the pipe that SIGCHLD writes to may be another's for the moment
    try:
        command = _started(server, request)
    finally:
        if request.pass_fds:
            server.watch_children_again()
    server.children.add(command.pid, request.exit, command)
    return command.pid


def _started(server: Server, request: Spawn) -> subprocess.Popen[bytes]:
    with _Placed(request) as (stdin, stdout, stderr):
        try:
            return subprocess.Popen(
                request.arguments[0] if request.shell else list(request.arguments),
                shell=request.shell,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=request.directory,
                env=request.environment,
                start_new_session=request.new_session,
                process_group=_process_group(server, request),
                pass_fds=request.pass_fds,
                user=request.user,
                group=request.group,
                extra_groups=request.extra_groups,
                umask=request.umask,
            )
        except OSError as error:
            raise KernelError(error.errno or 0, "execve" if error.filename else "clone", error.filename) from None


def _process_group(server: Server, request: Spawn) -> int | None:
    """Return the app's process group where a command can be in it: in the same session, and where its number is known."""
    known = server.home.is_pid_namespace_for_children() and request.session == os.getsid(0)
    return request.process_group if known and not request.new_session else None


class _Placed:
    """For a while, `pass_fds` hold the passed descriptors under the very numbers that the command shall see.

    Whatever this worker has under those numbers is kept elsewhere meanwhile, and comes back: nothing else runs in between.
    """

    def __init__(self, request: Spawn) -> None:
        self._request = request
        self._above = max(request.pass_fds, default=0) + 1
        self._kept: dict[int, int | None] = {}
        self._copies: list[int] = []

    def __enter__(self) -> tuple[int, int, int]:
        request = self._request
        standard = (request.stdin, request.stdout, request.stderr)
        if not request.pass_fds:
            return standard
        try:
            for descriptor in (*standard, *request.passed):
                self._copies.append(self._copy(descriptor))
            for number, copy in zip(request.pass_fds, self._copies[3:], strict=True):
                self._lend(number, copy)
        except BaseException:
            self.__exit__()
            raise
        stdin, stdout, stderr = self._copies[:3]
        return stdin, stdout, stderr

    def _lend(self, number: int, copy: int) -> None:
        kept = self._copy_if_open(number)
        try:
            os.dup2(copy, number)
        except OSError:
            if kept is not None:
                os.close(kept)
            raise
        self._kept[number] = kept

    def __exit__(self, *_exception: object) -> None:
        for number, kept in self._kept.items():
            if kept is None:
                os.close(number)
            else:
                os.dup2(kept, number, inheritable=False)
                os.close(kept)
        close_all(self._copies)

    def _copy(self, descriptor: int) -> int:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self._above)

    def _copy_if_open(self, number: int) -> int | None:
        try:
            return self._copy(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return None
