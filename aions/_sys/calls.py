"""One place where a refusal of the kernel becomes an error that names the call, and where calls are written down.

A call's text is made only where somebody will read it: in an error, or in the log while one is kept.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


class KernelError(OSError):
    """An `OSError` that knows which call it comes from, as strace would write it, and may bear a `hint` of its caller's.

    Being a subclass, it is never a `FileNotFoundError` or the like: go by `errno`.
    """

    def __init__(self, number: int, call: str, path: str | None = None) -> None:
        super().__init__(number, os.strerror(number), path)
        self.call = call
        self.hint: str | None = None


class Log:
    """What this process has called, a line each in strace's manner, while `lines` is a list."""

    lines: list[str] | None = None


def call(text: Callable[[], str], function: Callable[[*Ts], T], *arguments: *Ts, path: str | None = None) -> T:
    """Make a system call.

    Args:
        text: makes what strace would write of the call.
        function: makes the call; raises `OSError` where the kernel refuses.
        arguments: for the function.
        path: the file that it is about, as the error shall name it.

    Raises:
        KernelError: the kernel refuses.
    """
    if Log.lines is None:
        try:
            return function(*arguments)
        except OSError as error:
            raise KernelError(error.errno or 0, text(), path) from None
    return _logged(Log.lines, text(), function, arguments, path)


def _logged(lines: list[str], text: str, function: Callable[[*Ts], T], arguments: tuple[*Ts], path: str | None) -> T:
    start = time.time()
    try:
        result = function(*arguments)
    except OSError as error:
        number = error.errno or 0
        name = errno.errorcode.get(number, number)
        note(lines, start, f"{text} = -1 {name} ({os.strerror(number)})")
        raise KernelError(number, text, path) from None
    shown = result if type(result) is int else getattr(result, "fileno", int)()
    note(lines, start, f"{text} = {shown}")
    return result


def note(lines: list[str], start: float, text: str) -> None:
    """Write down a call that began at `start`, by the real-time clock: the only one that is the same in every namespace."""
    lines.append(f"{_clock(start)} {text} <{time.time() - start:.6f}>")


def _clock(seconds: float) -> str:
    """Write a time of day (UTC) down, without reading the time zone's file."""
    return f"{time.strftime('%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}"
