"""Running a command: by posix_spawn(3), or, where more has to be changed before it runs than that can do, by a fork.

The app's descriptors take their places in the command's process only, so the worker's own are never in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os

from aions._sys import proc as procfs
from aions._sys.calls import KernelError, Log, call
from aions._sys.spawn import posix_spawn
from aions._wire import codec
from aions._wire.fdsocket import Packet, close_all
from aions._wire.messages import Done, Failed, Spawn
from aions._worker import privileges, sessions, signals
from aions._worker.groups import AppsGroup
from aions._worker.loop import Server, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    Start = Callable[[str, list[str]], int]


_OF_THE_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP)
"""Why a program cannot be started from one place, and perhaps from another."""

_REPORTS: dict[str, type[Done | Failed]] = {"Done": Done, "Failed": Failed}


def spawn(server: Server, request: Spawn) -> int:
    """Start a command and return its pid as this process counts."""
    server.children.expect()
    procfs.close_on_exec(server.home.proc, 3)  # what a user's function may have left open
    with Placed(request) as places, AppsGroup(server.home, request.process_group, request.session) as group:
        if server.session is not None:
            group = 0  # its own
        pid = _started(request, places, None if request.new_session else group, _terminal(server, request))
    server.children.add(pid, request.exit)
    if server.session is not None:
        server.session.command = pid
    return pid


def _terminal(server: Server, request: Spawn) -> int:
    """Return the terminal that a command is to start in the foreground of, or -1."""
    session = server.session
    return -1 if session is None or request.new_session or not session.foreground else session.terminal


def _started(request: Spawn, places: dict[int, int], group: int | None, terminal: int) -> int:
    is_other = (request.user, request.group, request.extra_groups) != (None, None, None)
    if is_other or terminal >= 0 or privileges.are_touched(request):
        return _forked(request, places, group, terminal)
    return _spawned(request, places, group)


class Placed:
    """Which descriptor is to become which number in the command. Those in the way of others are copied to other numbers."""

    def __init__(self, request: Spawn) -> None:
        self._wanted = {0: request.stdin, 1: request.stdout, 2: request.stderr}
        self._wanted |= zip(request.pass_fds, request.passed, strict=True)
        self._copies: list[int] = []

    def __enter__(self) -> dict[int, int]:
        try:
            return {number: self._apart(descriptor, number) for number, descriptor in self._wanted.items()}
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_exception: object) -> None:
        close_all(self._copies)

    def _apart(self, descriptor: int, number: int) -> int:
        while descriptor in self._wanted and descriptor != number:
            descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
            self._copies.append(descriptor)
        return descriptor


def _spawned(request: Spawn, places: dict[int, int], group: int | None) -> int:
    """Start a command by posix_spawn(3), which does not copy this process.

    What would certainly fail is found out before. KERNEL: what fails has been a process, and as the first one of a pid
    namespace it would have been the last one as well.
    """
    directory = request.directory or "."
    if request.directory is not None:
        call(lambda: f'chdir("{directory}")', os.stat, f"{directory}/.", path=directory)

    def start(program: str, arguments: list[str]) -> int:
        return posix_spawn(program, arguments, request.environment, places, request.directory, group, request.new_session)

    before = _set_umask(request)
    try:
        return _first_found(request, "posix_spawn", start, lambda program: _obstacle(os.path.join(directory, program)))
    finally:
        if before >= 0:
            os.umask(before)


def _set_umask(request: Spawn) -> int:
    """Set the umask, if there is one to set; return what it was, or -1."""
    if request.umask < 0:
        return -1
    return call(lambda: f"umask({request.umask:#o})", os.umask, request.umask)


def _forked(request: Spawn, places: dict[int, int], group: int | None, terminal: int = -1) -> int:
    """Start a command by fork(2) and execve(2). If anything in between fails, that comes out of a pipe which exec closes."""
    reading, writing = os.pipe()
    pid = 0
    try:
        pid = call(lambda: "fork()", os.fork)
        if pid == 0:
            _become(request, places, group, terminal, writing)
        os.close(writing)
        writing = -1
        report = b"".join(iter(lambda: os.read(reading, 65536), b""))
    finally:
        close_all(descriptor for descriptor in (reading, writing) if descriptor >= 0)
    for line in report.splitlines():
        packet = Packet(line, [])
        _, said = codec.decode(packet, _REPORTS)
        if Log.lines is not None:
            Log.lines += packet.log or ()
        if isinstance(said, Failed):
            os.waitpid(pid, 0)
            error = KernelError(said.errno, said.call, said.path)
            error.hint = said.hint
            raise error
    return pid


def _tell(report: int, what: Done | Failed) -> None:
    """Tell the worker, from the fork, what came of it, and what the fork has called."""
    os.write(report, codec.encode(0, what, Log.lines) + b"\n")
    if Log.lines is not None:
        Log.lines = []


def _become(request: Spawn, places: dict[int, int], group: int | None, terminal: int, report: int) -> NoReturn:
    """Become the command, in the fork."""
    try:
        if Log.lines is not None:
            Log.lines = []
        if terminal >= 0:
            sessions.come_to_foreground(terminal)
        while report in places:
            report = os.dup(report)
        _place(places)
        _prepare(request, group)
        if Log.lines is not None:
            _tell(report, Done())
        environment = dict(variable.split("=", 1) for variable in request.environment)
        _first_found(request, "execve", lambda program, arguments: os.execve(program, arguments, environment))  # noqa: S606
    except OSError as error:
        _tell(report, failure(error))
    except Exception as error:
        _tell(report, Failed(errno.EINVAL, "", None, f"{error!r:.200}"))
    finally:
        os._exit(255)


def _place(places: dict[int, int]) -> None:
    for number, descriptor in places.items():
        if number == descriptor:
            os.set_inheritable(number, True)
        else:
            call(lambda: f"dup2({descriptor}, {number})", os.dup2, descriptor, number)  # noqa: B023 - called at once


def _prepare(request: Spawn, group: int | None) -> None:
    """Change the process into what the command is to find itself as, in the order in which `subprocess` does it."""
    directory, uid, gid, groups = request.directory, request.user, request.group, request.extra_groups
    if directory is not None:
        call(lambda: f'chdir("{directory}")', os.chdir, directory, path=directory)
    _set_umask(request)
    signals.restore()
    if request.new_session:
        call(lambda: "setsid()", os.setsid)
    if group is not None:
        call(lambda: f"setpgid(0, {group})", os.setpgid, 0, group)
    privileges.prepare(request)
    if groups is not None:
        call(lambda: f"setgroups({list(groups)!s:.200})", os.setgroups, groups)
    if gid is not None:
        call(lambda: f"setregid({gid}, {gid})", os.setregid, gid, gid)
    if uid is not None:
        call(lambda: f"setreuid({uid}, {uid})", os.setreuid, uid, uid)
    privileges.settle(request)


def _first_found(request: Spawn, name: str, start: Start, obstacle: Callable[[str], int] = lambda _program: 0) -> int:
    """Start the program from the first place that works, as execvpe(3) looks for it; `obstacle` is an errno, or 0 for none."""
    arguments = ["/bin/sh", "-c", *request.arguments] if request.shell else list(request.arguments)
    refused = errno.ENOENT, arguments[0]
    for program in _places_of(arguments[0], request.environment):
        number = obstacle(program)
        if number == 0:
            try:
                return call(lambda: f'{name}("{program}", {arguments})', start, program, arguments, path=arguments[0])  # noqa: B023
            except KernelError as error:
                if error.errno not in _OF_THE_PLACE:
                    raise
                number = error.errno or errno.EIO
        if number not in (errno.ENOENT, errno.ENOTDIR) and refused[0] == errno.ENOENT:
            refused = number, program
    raise KernelError(refused[0], f'{name}("{refused[1]}", {arguments})', arguments[0])


def _places_of(program: str, environment: tuple[str, ...]) -> Iterator[str]:
    """Yield where a program may be: where its name says, or, if that is a bare one, where PATH says."""
    if "/" in program:
        yield program
        return
    paths = [variable[5:] for variable in environment if variable.startswith("PATH=")] or [os.defpath]
    for directory in paths[0].split(":"):
        yield f"{directory or '.'}/{program}"


def _obstacle(path: str) -> int:
    """Return the errno that running a file would certainly fail with."""
    if os.access(path, os.X_OK):
        return 0
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EACCES
