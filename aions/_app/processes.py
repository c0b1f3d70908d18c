"""Running commands in a worker, as anyio runs them in the app."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import warnings
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from os import PathLike
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess
from typing import IO, Any

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from aions._app import apart
from aions._app.capabilities import Capabilities, mask
from aions._app.child import Child, Lifeline
from aions._app.descriptor import Descriptor
from aions._app.link import Link
from aions._app.pipes import PipeReceiveStream, PipeSendStream
from aions._app.text import StrOrBytesPath, text
from aions._errors import WorkerDied
from aions._wire.messages import Spawn, Started

Stream = int | IO[Any] | None

_PATIENCE = 5
"""Seconds to wait for a command that was sent SIGKILL. Only one that sleeps uninterruptibly in the kernel takes longer."""

_MAX_GROUPS = 65536
"""The kernel takes no more (NGROUPS_MAX)."""

_REAPING = 0.1
"""Seconds to wait for the status of a command that was killed: its worker may be busy, and a cancelled task is in a hurry."""


class Process(anyio.abc.Process):
    """A command that runs where its worker is. Comes from `open_process`; used as `anyio.abc.Process` is.

    Leaving its `async with` block waits for it; being cancelled there kills it. It belongs to the event loop that it was opened
    in. If nobody keeps it, the command goes on until its worker is closed, and a `ResourceWarning` names the command.
    """

    def __init__(
        self,
        worker: Link,
        command: object,
        child: Child,
        stdin: PipeSendStream | None,
        stdout: PipeReceiveStream | None,
        stderr: PipeReceiveStream | None,
    ) -> None:
        self._worker = worker
        self._command = command
        self._child = child
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._returncode: int | None = None
        self._closed = False
        worker.commands.add(child, stdin, stdout, stderr)

    def __repr__(self) -> str:
        return f"<aions.Process {self._command!r} pid={self.pid}>"

    def __del__(self) -> None:
        if self._closed:
            return
        if self._child.is_ours and not self._child.has_ended and self._worker.commands.leave(self._child):
            text = f"unclosed process {self._command!r} (pid {self.pid})"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)
        else:
            self._worker.commands.remove(self._child)
            self._child.close()  # the pipes may have other users, and close themselves

    async def wait(self) -> int:
        """Wait until the command ends, and return its exit status (negative: the signal that ended it).

        Raises:
            WorkerDied: the worker ended, and the command has been killed. (Before Linux 6.15 also if the command had ended
                already, or the worker was closed: nobody can tell its status then.)
        """
        if self._returncode is None:
            try:
                status = await self._child.wait()
            except anyio.ClosedResourceError:
                if self._returncode is None:
                    raise
                return self._returncode
            is_killed = self._child.is_orphan and status == -signal.SIGKILL and not self._worker.closed
            if status is None or is_killed:
                raise WorkerDied(f"the worker that ran process {self.pid} has ended")
            self._returncode = status
        return self._returncode

    async def aclose(self) -> None:
        """Close the pipes and wait for the command; when cancelled, kill it. In a fork of the app, only close.

        Closing again does nothing. Several tasks may close it at once; if one of them is cancelled, the command is killed.
        """
        pipes = [pipe for pipe in (self._stdin, self._stdout, self._stderr) if pipe is not None]
        if not self._child.is_ours:
            self._closed = True
            for pipe in pipes:
                pipe.let_go()
            self._child.close()
            return
        if self._closed:
            await checkpoint()
            return
        self._child.check_loop()
        for pipe in pipes:
            pipe.close()
        is_thrown_away = False
        try:
            await self._wait_at_last()
        except anyio.ClosedResourceError:  # another task has closed it
            pass
        except GeneratorExit:  # whoever awaited this is thrown away, with the event loop perhaps: nothing can be awaited here
            is_thrown_away = True
            with suppress(PermissionError):
                self.kill()
            raise
        except BaseException:
            await self._end()
            raise
        finally:
            self._closed = True
            self._worker.commands.remove(self._child)
            self._child.close()
            if not is_thrown_away:
                await self._worker.end_runner()

    async def _wait_at_last(self) -> None:
        """Wait; where the worker was closed before, as the event loop does it at its end, a status nobody knows will do."""
        try:
            await self.wait()
        except WorkerDied:
            if not self._worker.closed:
                raise

    async def _end(self) -> None:
        try:
            self.kill()
        except PermissionError:  # another user's by now, by a setuid program: it is left to itself
            return
        with anyio.move_on_after(_PATIENCE, shield=True), suppress(anyio.ClosedResourceError):
            await self._child.wait_ended()
        with anyio.move_on_after(_REAPING, shield=True), suppress(WorkerDied, anyio.ClosedResourceError):
            await self.wait()
        if self.returncode is None:
            self._returncode = -signal.SIGKILL

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, signal: int) -> None:
        """Send a signal. By pidfd, so never to another process; does nothing once the command has ended."""
        self._child.signal(signal)

    @property
    def pid(self) -> int:
        """Its process id, as the app sees it."""
        return self._child.pid

    @property
    def pidfd(self) -> int:
        """A pidfd of it, which this handle owns; -1 once closed."""
        return self._child.pidfd.fileno()

    @property
    def returncode(self) -> int | None:
        """The exit status; None while the command runs."""
        return self._child.poll() if self._returncode is None else self._returncode

    @property
    def stdin(self) -> PipeSendStream | None:
        return self._stdin

    @property
    def stdout(self) -> PipeReceiveStream | None:
        return self._stdout

    @property
    def stderr(self) -> PipeReceiveStream | None:
        return self._stderr


async def open_process(
    worker: Link,
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    cwd: StrOrBytesPath | None,
    env: Mapping[str, str] | None,
    startupinfo: Any,
    creationflags: int,
    start_new_session: bool,
    pass_fds: Sequence[int],
    user: str | int | None,
    group: str | int | None,
    extra_groups: Iterable[str | int] | None,
    umask: int,
    capabilities: Capabilities | None,
    keep_capabilities: bool,
    no_new_privs: bool,
) -> Process:
    """Start a command. The parameters are those of `anyio.open_process`, and then ours."""
    if startupinfo is not None or creationflags:
        raise ValueError("startupinfo and creationflags are for Windows only")
    shell = isinstance(command, str | bytes | PathLike)
    arguments = (command,) if isinstance(command, str | bytes | PathLike) else tuple(command)
    if not arguments:
        raise ValueError("the command is empty")
    if any(number < 0 for number in pass_fds):
        raise ValueError("a descriptor in pass_fds is negative")
    if not -(2**31) <= umask < 2**31:
        raise OverflowError(f"{umask} is no umask")
    numbers = tuple(dict.fromkeys(number for number in pass_fds if number > 2))
    uid, gid, groups = await _ids(user, group, extra_groups)
    with ExitStack() as ours, ExitStack() as theirs:
        lifeline = Lifeline()
        ours.callback(lifeline.ours.close)
        theirs.callback(lifeline.theirs.close)
        stdin_pipe, stdin_fd = _input(stdin, ours, theirs)
        stdout_pipe, stdout_fd = _output(stdout, 1, ours, theirs)
        stderr_pipe, stderr_fd = (None, stdout_fd) if stderr == STDOUT else _output(stderr, 2, ours, theirs)
        worker.has_children = True

        def spawn(may_wait: bool) -> Spawn:
            return Spawn(
                arguments=tuple(map(text, arguments)),
                shell=shell,
                directory=None if cwd is None else text(cwd),
                environment=_environment(env),
                process_group=os.getpgrp(),
                session=os.getsid(0),
                new_session=start_new_session or (worker.entered and not any(map(_is_terminal, (stdin, stdout, stderr)))),
                user=uid,
                group=gid,
                extra_groups=groups,
                umask=umask,
                capabilities=mask(capabilities),
                keep_capabilities=keep_capabilities,
                no_new_privs=no_new_privs,
                pass_fds=numbers,
                exit=lifeline.theirs.fileno(),
                stdin=stdin_fd,
                stdout=stdout_fd,
                stderr=stderr_fd,
                passed=numbers,
                may_wait=may_wait,
            )

        runner, started = await _started(worker, spawn)
        ours.pop_all()
    shown = command if shell else list(arguments)
    return Process(runner, shown, Child(started.pid, started.pidfd, lifeline.ours), stdin_pipe, stdout_pipe, stderr_pipe)


async def _started(worker: Link, spawn: Callable[[bool], Spawn]) -> tuple[Link, Started]:
    """Start a command; where it may take long to find it, in a fork of the worker, which ends with the command's handle."""
    started = await apart.at_once(worker, spawn(False), Started)
    if started is not None:
        return worker, started
    if worker.next_child_is_first:
        return worker, await worker.call(spawn(True), Started)
    runner = await worker.fork()
    try:
        runner.has_children = True
        started = await runner.call(spawn(True), Started, on_behalf_of=worker)
    except BaseException:
        await runner.aclose()
        raise
    worker.runners.add(runner)
    return runner, started


def _environment(variables: Mapping[str, str] | None) -> tuple[str, ...]:
    """Write an environment down as execve(2) takes it; None is the app's."""
    if variables is None:
        return tuple([(name + b"=" + value).decode("utf-8", "surrogateescape") for name, value in os.environb.items()])
    environment = {text(name): text(value) for name, value in variables.items()}
    if any("=" in name for name in environment):
        raise ValueError("illegal environment variable name")
    return tuple([f"{name}={value}" for name, value in environment.items()])


def _input(stream: Stream, ours: ExitStack, theirs: ExitStack) -> tuple[PipeSendStream | None, int]:
    if stream != PIPE:
        return None, _given(stream, 0, theirs)
    read, write = os.pipe()
    theirs.callback(os.close, read)
    pipe = PipeSendStream(write)
    ours.callback(pipe.close)
    return pipe, read


def _output(stream: Stream, inherited: int, ours: ExitStack, theirs: ExitStack) -> tuple[PipeReceiveStream | None, int]:
    if stream != PIPE:
        return None, _given(stream, inherited, theirs)
    read, write = os.pipe()
    theirs.callback(os.close, write)
    pipe = PipeReceiveStream(read)
    ours.callback(pipe.close)
    return pipe, write


def _given(stream: Stream, inherited: int, theirs: ExitStack) -> int:
    """Return the app's descriptor for a stream that is no pipe of ours."""
    if stream is None:
        return inherited
    if stream == DEVNULL:
        null = Descriptor(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        theirs.callback(null.close)
        return null.fileno()
    return stream if isinstance(stream, int) else stream.fileno()


def _is_terminal(stream: Stream) -> bool:
    """Whether a stream is a terminal that was handed over on purpose; those that a command merely inherits are not.

    SECURITY: a process can type into the terminal of its session (TIOCSTI), and so run commands as whoever sits there.
    """
    if stream is None or stream in (PIPE, STDOUT, DEVNULL):
        return False
    return os.isatty(stream if isinstance(stream, int) else stream.fileno())


Ids = tuple[int | None, int | None, tuple[int, ...] | None]
"""A user, a group, and others; None for what stays as it is."""


async def _ids(user: str | int | None, group: str | int | None, extra_groups: Iterable[str | int] | None) -> Ids:
    """Return numbers for names. They are looked up in a thread: it may be a directory service that has them."""
    if isinstance(extra_groups, str):
        raise ValueError("extra_groups is a string: put it into a list")
    groups = None if extra_groups is None else tuple(extra_groups)
    if any(isinstance(name, str) for name in (user, group, *(groups or ()))):
        return await to_thread.run_sync(_looked_up, user, group, groups, abandon_on_cancel=True)
    return _looked_up(user, group, groups)


def _looked_up(user: str | int | None, group: str | int | None, groups: tuple[str | int, ...] | None) -> Ids:
    return (
        None if user is None else _user_id(user),
        None if group is None else _group_id(group),
        None if groups is None else _group_ids(groups),
    )


def _user_id(user: str | int) -> int:
    return _checked_id(pwd.getpwnam(user).pw_uid if isinstance(user, str) else user)


def _group_id(group: str | int) -> int:
    return _checked_id(grp.getgrnam(group).gr_gid if isinstance(group, str) else group)


def _group_ids(groups: tuple[str | int, ...]) -> tuple[int, ...]:
    ids = tuple(map(_group_id, groups))
    if len(ids) > _MAX_GROUPS:
        raise ValueError(f"{len(ids)} extra_groups are too many: {_MAX_GROUPS} at most")
    return ids


def _checked_id(number: int) -> int:
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f"{number} is the id of no user or group")
    return number


async def communicate(process: Process, input: bytes | None) -> tuple[bytes | None, bytes | None]:
    """Feed a command its input, collect its output, and wait for it."""
    outputs: list[bytes | None] = [None, None]
    died: WorkerDied | None = None

    async def collect(stream: AsyncIterable[bytes], index: int) -> None:
        outputs[index] = b"".join([chunk async for chunk in stream])

    async with anyio.create_task_group() as tasks:
        for index, stream in enumerate((process.stdout, process.stderr)):
            if stream is not None:
                tasks.start_soon(collect, stream, index)
        if process.stdin is not None and input:
            try:
                await process.stdin.send(input)
            except anyio.BrokenResourceError:
                pass  # it does not want (all of) it, as with subprocess
            await process.stdin.aclose()
        try:
            await process.wait()
        except WorkerDied as error:  # which is to come out by itself, not in an ExceptionGroup
            died = error
            tasks.cancel_scope.cancel()
    if died is not None:
        raise died
    return outputs[0], outputs[1]


def completed(
    command: StrOrBytesPath | Sequence[StrOrBytesPath],
    process: Process,
    outputs: tuple[bytes | None, bytes | None],
    check: bool,
) -> CompletedProcess[bytes]:
    """Make the result of `run_process`; raise it where `check` asks for that."""
    assert process.returncode is not None
    if check and process.returncode != 0:
        raise CalledProcessError(process.returncode, command, *outputs)
    return CompletedProcess(command, process.returncode, *outputs)
