"""Pseudo-terminals: the ioctls of pty(7) and ioctl_tty(2) that Python does not provide everywhere."""

from __future__ import annotations

import fcntl
import os

from aions._sys.calls import call

_MACHINE = os.uname().machine
_HAS_OTHER_NUMBERS = _MACHINE.startswith(("alpha", "mips", "ppc", "sparc"))
_IO, _IOW = (0x20000000, 0x80040000) if _HAS_OTHER_NUMBERS else (0, 0x40040000)
"""KERNEL: the bits for the direction in the number of an ioctl. asm/ioctl.h"""

_TIOCSPTLCK = _IOW | 0x5431
_TIOCGPTPEER = _IO | 0x5441
_TIOCSCTTY = {"mips": 0x5480, "mips64": 0x5480, "sparc64": 0x20007484}.get(_MACHINE, 0x540E)


def open_slave(master: int) -> int:
    """Open the other end of a pseudo-terminal, wherever its name would lead. TIOCSPTLCK, TIOCGPTPEER (Linux 4.13)."""
    call(lambda: f"ioctl({master}, TIOCSPTLCK, 0)", fcntl.ioctl, master, _TIOCSPTLCK, bytes(4))
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    return call(lambda: f"ioctl({master}, TIOCGPTPEER, {flags:#o})", fcntl.ioctl, master, _TIOCGPTPEER, flags)


def take_as_controlling(terminal: int) -> None:
    """Make a terminal that of the session which this process leads. TIOCSCTTY."""
    call(lambda: f"ioctl({terminal}, TIOCSCTTY, 0)", fcntl.ioctl, terminal, _TIOCSCTTY, 0)
