"""The forkserver is started here, by exec.

SECURITY: its environment, which every worker has in its memory, is made here. Of the app's it has paths at most.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import anyio

from aions._app.client import Client
from aions._app.link import Forkserver
from aions._errors import AionsError
from aions._wire.messages import REFUSED, SERVING

_PROGRAM = Path(__file__).parent.parent / "_worker" / "__main__.py"

_MARK = "AIONS_STARTS_FORKSERVER"
"""In the environment of what is started as a Python interpreter. Who finds it in its own is none, and would start itself again.

The forkserver drops it, and commands have their environment from the app.
"""

_OF_THE_LINKER = ("LD_LIBRARY_PATH", "LD_PRELOAD")
_OF_THE_INTERPRETER = ("PYTHONHOME", "PYTHONPLATLIBDIR")
"""What an interpreter may need to start that is not where it was built for; the forkserver drops them once it runs."""

_NOT_RUN = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.ELOOP, errno.ENAMETOOLONG)
"""What execve(2) says of a file, and not of the machine."""

_REFUSED = re.compile(REFUSED.replace(b"%d", rb"(\d+)") + rb"\Z")

_PATIENCE = 60.0
"""Seconds after which what was started is taken to be no Python interpreter."""

_MOST = 4000
"""Bytes to keep of what it says, the last ones."""


async def start_forkserver() -> Forkserver:
    """Start a forkserver, which ends when its connection is closed or this process ends.

    What is started forks and ends at once, so this process has a child for a few milliseconds only.

    Raises:
        AionsError: what is taken for the Python interpreter is none, or does not start.
        OSError: the kernel refuses.
    """
    executable = _executable()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        reading, writing = os.pipe()
        try:
            with theirs:
                try:
                    launcher = _launched(executable, theirs.fileno(), writing)
                finally:
                    os.close(writing)
            await _end_of_launcher(executable, launcher, reading)
        finally:
            os.close(reading)
    except BaseException:
        ours.close()
        raise
    return Forkserver(Client(ours))


def _executable() -> str:
    """Return the path of the Python interpreter: what multiprocessing starts."""
    if _MARK in os.environ:
        raise _cannot_start(f"{sys.executable} is no Python interpreter: aions has started it as one, and it is this program")
    spawn = sys.modules.get("multiprocessing.spawn")  # what is not imported has not been told of another
    named = spawn.get_executable() if spawn is not None else None
    executable = os.fsdecode(named) if named else sys.executable
    if not executable:
        raise _cannot_start("the path of the Python interpreter is not known: sys.executable is empty")
    if getattr(sys, "frozen", False) and executable == sys.executable:
        raise _cannot_start(f"this program is frozen (sys.frozen), and {executable} is the program, not a Python interpreter")
    if not _PROGRAM.is_file():
        raise AionsError(
            f"the forkserver cannot be started: there is no file {_PROGRAM}. aions cannot be run from a zip file, nor without "
            f"its source files: install it in a directory"
        )
    return executable


def _cannot_start(why: str) -> AionsError:
    error = AionsError(f"the forkserver cannot be started: {why}")
    version = ".".join(map(str, sys.version_info[:2]))
    error.add_note(f"Remedy: multiprocessing.set_executable(PATH), with the path of an interpreter of Python {version}.")
    return error


def _environment() -> dict[str, str]:
    passed = _OF_THE_LINKER if sys.flags.ignore_environment else (*_OF_THE_LINKER, *_OF_THE_INTERPRETER)
    return {_MARK: "1", **{name: os.environ[name] for name in passed if name in os.environ}}


def _launched(executable: str, connection: int, report: int) -> subprocess.Popen[bytes]:
    """Start what is to become the forkserver. Until it has, its stdout and stderr are `report`."""
    with ExitStack() as stack:
        app = os.pidfd_open(os.getpid())
        stack.callback(os.close, app)
        inherited = [_out_of_the_way(descriptor, stack) for descriptor in (connection, app, 1, 2)]
        # What -I says, but for -E: the environment is ours, and PYTHONHOME in it counts.
        command = [executable, "-P", "-s", "-S", "-X", "utf8", str(_PROGRAM), *map(str, inherited)]
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=report, stderr=report, pass_fds=inherited, env=_environment()
            )
        except OSError as error:
            if error.errno not in _NOT_RUN:
                raise
            raise _cannot_start(f"{executable}: {error.strerror}") from error


def _out_of_the_way(descriptor: int, stack: ExitStack) -> int:
    """Copy a descriptor to a number that none of stdin, stdout and stderr has; where the app has closed it, /dev/null."""
    try:
        copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            copy = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 3)
        finally:
            os.close(null)
    stack.callback(os.close, copy)
    return copy


async def _end_of_launcher(executable: str, launcher: subprocess.Popen[bytes], reading: int) -> None:
    """Wait until the launcher has ended, and the forkserver has said that it has started."""
    said = b""
    try:
        with anyio.move_on_after(_PATIENCE) as patience:
            while chunk := await _read(reading):
                said = (said + chunk)[-_MOST:]
            await _ended(launcher)
    finally:
        launcher.kill()
        launcher.wait()
    if said.endswith(SERVING):
        return
    if (refused := _REFUSED.search(said)) is not None:
        number = int(refused[1])
        raise OSError(number, os.strerror(number))
    how = f"did not end within {_PATIENCE:.0f} s" if patience.cancelled_caught else f"ended with status {launcher.returncode}"
    words = said.decode(errors="replace").strip()
    raise _cannot_start(f"{shlex.quote(executable)} {how}{f', and said: {words}' if words else ''}")


async def _read(descriptor: int) -> bytes:
    await anyio.wait_readable(descriptor)
    return os.read(descriptor, 65536)


async def _ended(launcher: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher without blocking the loop, whoever else may collect it (an `os.wait()` in the app)."""
    if launcher.poll() is not None:
        return
    try:
        pidfd = os.pidfd_open(launcher.pid)
    except OSError:  # collected by another already, or no room for a descriptor: it is about to end
        return
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)
