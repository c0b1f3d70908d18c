"""Signals through a descriptor: waited for like anything else that becomes readable, and with a word about who sent them."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from aions._sys import libc
from aions._sys.calls import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SI_KERNEL = 0x80
"""The `si_code` of what a terminal sends, to a whole process group. sigaction(2)"""

_RECORD = struct.Struct("=Iii116x")
"""struct signalfd_siginfo: number, errno, code, and more that nobody here asks for."""

_signalfd = libc.function("signalfd", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def open_signalfd(numbers: Iterable[int]) -> int:
    """Open a descriptor for signals, which have to be blocked. It is the caller's. Kernel: signalfd(2)."""
    numbers = sorted(numbers)
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(8, sys.byteorder).ljust(128, b"\0")
    descriptor: int = call(lambda: f"signalfd(-1, {numbers})", _signalfd, -1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    return descriptor


def receive(descriptor: int) -> tuple[int, int] | None:
    """Return number and `si_code` of a signal that has arrived; None if there is none."""
    try:
        number, _errno, code = _RECORD.unpack(os.read(descriptor, _RECORD.size))
    except BlockingIOError:
        return None
    return number, code
