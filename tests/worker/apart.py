"""Running a piece of a worker where a worker runs: in a process of its own, which may reap, close and change what it likes."""

from __future__ import annotations

import fcntl
import os
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn


def fork(function: Callable[[], object]) -> tuple[int, int]:
    """Call a function in a fork of this process; return its pid and a pipe with what went wrong there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests leave idle threads, which the fork does without
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _call_and_exit(function, writing)
    os.close(writing)
    return pid, reading


def _call_and_exit(function: Callable[[], object], complaints: int) -> NoReturn:
    status = 1
    try:
        complaints = fcntl.fcntl(complaints, fcntl.F_DUPFD_CLOEXEC, 900)  # out of the way of what the function does
        function()
        status = 0
    except BaseException:
        os.write(complaints, traceback.format_exc().encode())
    finally:
        os._exit(status)


def join(pid: int, complaints: int) -> int:
    """Wait for a fork and return its exit status; fail where something went wrong in it."""
    with open(complaints, "rb") as pipe:
        complaint = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not complaint, complaint
    return status


def apart(function: Callable[[], object]) -> None:
    """Call a function in a fork of this process, and fail if it fails."""
    assert join(*fork(function)) == 0
