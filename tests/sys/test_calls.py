"""What a refusal knows of its call, and what the log says of calls."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from aions._sys import libc
from aions._sys.calls import KernelError, Log, call, note

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{6} (.*) <\d+\.\d{6}>")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    Log.lines = []
    yield Log.lines
    Log.lines = None


def never() -> NoReturn:
    raise AssertionError("the text was made, and nobody reads it")


def refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number), "what the function calls it")


@pytest.mark.parametrize("path", [None, "/proc/1/uid_map"])
def test_a_kernel_error_is_an_os_error_that_knows_its_call(path: str | None) -> None:
    error = KernelError(errno.EPERM, "unshare(CLONE_NEWNET)", path)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename) == (errno.EPERM, "Operation not permitted", path)
    assert error.call == "unshare(CLONE_NEWNET)"
    assert str(error).startswith("[Errno 1] Operation not permitted")


def test_a_call_that_succeeds_writes_nothing_where_nobody_reads() -> None:
    assert call(never, divmod, 7, 2) == (3, 1)


def test_a_refused_call_is_named() -> None:
    with pytest.raises(KernelError) as caught:
        call(lambda: "refuse(22)", refuse, errno.EINVAL, path="/some/path")
    assert (caught.value.errno, caught.value.call, caught.value.filename) == (errno.EINVAL, "refuse(22)", "/some/path")


def test_calls_are_logged_as_strace_does(lines: list[str]) -> None:
    libc.unshare(0)
    assert call(lambda: "open()", max, 3, 7) == 7
    with call(lambda: "socket()", socket.socket) as sock:
        expected = f"socket() = {sock.fileno()}"
    with pytest.raises(KernelError):
        libc.setns(-1, 0)
    with pytest.raises(KernelError):
        call(lambda: "refuse(9999)", refuse, 9999)
    matches = [LINE.fullmatch(line) for line in lines]
    assert [match and match[1] for match in matches] == [
        "unshare(0) = 0",
        "open() = 7",
        expected,
        "setns(-1, 0) = -1 EBADF (Bad file descriptor)",
        "refuse(9999) = -1 9999 (Unknown error 9999)",
    ]


def test_a_line_bears_the_time_of_day_and_the_duration(lines: list[str]) -> None:
    noon = 12 * 3600 + 34 * 60 + 56.25
    note(lines, noon, "call()")
    assert lines[0].startswith("12:34:56.250000 call() <")
    start = time.time()
    lines.clear()
    note(lines, start - 2, "call()")
    match = re.fullmatch(r".* <(.*)>", lines[0])
    assert match is not None
    assert 2 <= float(match[1]) < 2 + 5
