"""Running a command: by posix_spawn(3), or, where more has to be changed before it runs than that can do, by a fork.

The app's descriptors take their places in the command's process only, so the worker's own are never in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, Log, call
from aions._sys.spawn import CAN_CLOSE_FROM, posix_spawn
from aions._wire import codec
from aions._wire.fdsocket import Packet, close_all
from aions._wire.messages import Done, Failed, Spawn
from aions._worker import paths, privileges, sessions, signals
from aions._worker.groups import AppsGroup
from aions._worker.loop import Server, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import NoReturn

    Start = Callable[[str, list[str]], int]


_OF_THE_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP)
"""Why a program cannot be started from one place, and perhaps from another."""

_REPORTS: dict[str, type[Done | Failed]] = {"Done": Done, "Failed": Failed}


def spawn(server: Server, request: Spawn) -> int:
    """Start a command and return its pid as this process counts."""
    server.children.expect()
    with (
        Placed(request) as places,
        AppsGroup(server.home, request.process_group, request.session) as group,
        Command(server, request, places, group) as command,
    ):
        pid = command.start()
    server.children.add(pid, request.exit)
    if server.session is not None:
        server.session.command = pid
    return pid


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


class Command:
    """A command that is to be started.

    Args:
        server: the worker that starts it.
        request: what was asked for.
        places: the descriptor for each number that it is to have open.
        group: the number of the process group that it joins; None: the one that this process is in by now.

    `directory` is a descriptor of where it starts, -1 for where the worker is. `terminal` is one that it is to start in the
    foreground of, or -1. `is_inside` says whether it sees other files than the app.
    """

    def __init__(self, server: Server, request: Spawn, places: dict[int, int], group: int | None) -> None:
        session = server.session
        self.request = request
        self.places = places
        self.program = "/bin/sh" if request.shell else request.arguments[0]
        self.group = 0 if session is not None else group
        if request.new_session:
            self.group = None
        self.terminal = session.terminal if session is not None and session.foreground and not request.new_session else -1
        self.is_inside = not server.home.has_same_files()
        self.directory = -1
        self._resolve = paths.how_to_look_up(server, request.may_wait)
        self._server = server
        self._proc = server.home.proc

    def __enter__(self) -> Command:
        path = self.request.directory
        if path is not None:
            flags = os.O_PATH | os.O_DIRECTORY
            try:
                opened = paths.opened if self.request.may_wait else paths.opened_at_once
                self.directory = call(lambda: f'chdir("{path}")', opened, self._server, path, flags, path=path)
            except KernelError as error:
                if error.errno == errno.ELOOP and self.is_inside:
                    error.hint = paths.NO_MAGIC_LINKS
                raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.directory >= 0:
            os.close(self.directory)

    def start(self) -> int:
        """Start it, by whichever way can do what was asked for; return its pid."""
        if would_be_lost(self._server) or self.terminal >= 0 or _takes_fork(self.request):
            return _forked(self, self._others(), would_be_lost(self._server))
        closed_from = max(self.places) + 1 if CAN_CLOSE_FROM and libc.may_close_range() else None
        closed = [] if closed_from == 3 else self._others(closed_from)
        if max([closed_from or 0, *closed]) >= os.sysconf("SC_OPEN_MAX"):
            return _forked(self, self._others())  # posix_spawn(3) does not take such numbers
        return _spawned(self, closed, closed_from)

    def _others(self, end: int | None = None) -> list[int]:
        """Return what is open here, below a number, and is not to be open in the command."""
        opened = procfs.open_descriptors(self._proc)
        return [number for number in opened if number not in self.places and (end is None or number < end)]

    def magic_links(self) -> set[str]:
        """Return where the program may be and must not be started from: inside, the path has a magic link in it."""
        if not self.is_inside and not self._resolve:
            return set()
        places = _places_of(self.program, self.request.environment)
        return {program for program in places if self.obstacle(program) == errno.ELOOP}

    def obstacle(self, program: str) -> int:
        """Return the errno that running a program would certainly fail with; 0 for none that can be told.

        SECURITY: inside, a magic link is one. What is put in the program's place after this look can be no worse than a script
        whose first line names a magic link: the command has no other descriptors than its own.
        """
        try:
            found = paths.opened_below(self._server, self.directory, program, self._resolve)
        except OSError as error:
            if error.errno not in _OF_THE_PLACE:
                raise
            return error.errno or errno.EIO
        os.close(found)
        return 0 if os.access(os.path.join(self.request.directory or ".", program), os.X_OK) else errno.EACCES


def _takes_fork(request: Spawn) -> bool:
    return (request.user, request.group, request.extra_groups) != (None, None, None) or privileges.are_touched(request)


def would_be_lost(server: Server) -> bool:
    """Whether nobody of ours could find a command any more once this worker has been killed.

    KERNEL: inside of a pid namespace that was entered its first process, which somebody else has started, adopts the command.
    Against that it can get a signal when its parent dies, but not from posix_spawn(3).
    """
    return server.has_entered and os.getpid() != 1 and not server.home.is_pid_namespace()


def _spawned(command: Command, closed: Iterable[int], closed_from: int | None) -> int:
    """Start a command by posix_spawn(3), which does not copy this process.

    What would certainly fail is found out before. KERNEL: what fails has been a process, and as the first one of a pid
    namespace it would have been the last one as well.
    """
    request = command.request

    def start(program: str, arguments: list[str]) -> int:
        return posix_spawn(
            program,
            arguments,
            request.environment,
            command.places,
            closed,
            closed_from,
            command.directory,
            command.group,
            request.new_session,
        )

    before = _set_umask(request)
    try:
        return _first_found(command, "posix_spawn", start, command.obstacle)
    finally:
        if before >= 0:
            os.umask(before)


def _set_umask(request: Spawn) -> int:
    """Set the umask, if there is one to set; return what it was, or -1."""
    if request.umask < 0:
        return -1
    return call(lambda: f"umask({request.umask:#o})", os.umask, request.umask)


def _forked(command: Command, others: Iterable[int], ends_with_worker: bool = False) -> int:
    """Start a command by fork(2) and execve(2). If anything in between fails, that comes out of a pipe which exec closes.

    `others` are the descriptors of this process that the command is not to have. One that `ends_with_worker` gets SIGKILL from
    the kernel when this process ends.
    """
    reading, writing = os.pipe()
    pid = 0
    try:
        closed_to = command.magic_links()
        pid = call(lambda: "fork()", os.fork)
        if pid == 0:
            _become(command, [*others, reading], writing, ends_with_worker, closed_to)
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


def _become(command: Command, others: Iterable[int], report: int, ends_with_worker: bool, closed_to: Iterable[str]) -> NoReturn:
    """Become the command, in the fork."""
    request = command.request
    try:
        if Log.lines is not None:
            Log.lines = []
        if command.terminal >= 0:
            sessions.come_to_foreground(command.terminal)
        if command.directory >= 0:
            call(lambda: f'chdir("{request.directory}")', os.fchdir, command.directory, path=request.directory)
        while report in command.places:
            report = os.dup(report)
        _place(command.places)
        _close(number for number in others if number != report)
        _prepare(request, command.group)
        libc.set_dumpable(0)  # a change of credentials sets it to fs.suid_dumpable
        if ends_with_worker:
            _end_with_parent(report)
        if Log.lines is not None:
            _tell(report, Done())
        environment = dict(variable.split("=", 1) for variable in request.environment)

        def start(program: str, arguments: list[str]) -> int:
            os.execve(program, arguments, environment)  # noqa: S606

        _first_found(command, "execve", start, lambda program: errno.ELOOP if program in closed_to else 0)
    except OSError as error:
        _tell(report, failure(error))
    except Exception as error:
        _tell(report, Failed(errno.EINVAL, "", None, f"{error!r:.200}"))
    finally:
        os._exit(255)


def _end_with_parent(report: int) -> None:
    """Have the kernel end this process with its parent, which is there as long as somebody is to read the report."""
    libc.die_with_parent()
    poller = select.poll()
    poller.register(report, 0)
    if poller.poll(0):
        os._exit(255)


def _place(places: dict[int, int]) -> None:
    for number, descriptor in places.items():
        if number == descriptor:
            os.set_inheritable(number, True)
        else:
            call(lambda: f"dup2({descriptor}, {number})", os.dup2, descriptor, number)  # noqa: B023 - called at once


def _close(descriptors: Iterable[int]) -> None:
    """Close descriptors, of which one is closed already: that by which they were listed."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass


def _prepare(request: Spawn, group: int | None) -> None:
    """Change the process into what the command is to find itself as, in the order in which `subprocess` does it."""
    uid, gid, groups = request.user, request.group, request.extra_groups
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


def _first_found(command: Command, name: str, start: Start, obstacle: Callable[[str], int]) -> int:
    """Start the program from the first place that works, as execvpe(3) looks for it; `obstacle` is an errno, or 0 for none."""
    request = command.request
    arguments = [command.program, "-c", *request.arguments] if request.shell else list(request.arguments)
    refused = errno.ENOENT, command.program
    for program in _places_of(command.program, request.environment):
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
    refusal = KernelError(refused[0], f'{name}("{refused[1]}", {arguments})', arguments[0])
    if refused[0] == errno.ELOOP and command.is_inside:
        refusal.hint = paths.NO_MAGIC_LINKS
    raise refusal


def _places_of(program: str, environment: tuple[str, ...]) -> Iterator[str]:
    """Yield where a program may be: where its name says, or, if that is a bare one, where PATH says."""
    if "/" in program:
        yield program
        return
    paths = [variable[5:] for variable in environment if variable.startswith("PATH=")] or [os.defpath]
    for directory in paths[0].split(":"):
        yield f"{directory or '.'}/{program}"
