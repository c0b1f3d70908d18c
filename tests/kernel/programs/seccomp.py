"""A seccomp filter like that of Docker: system calls that are refused, to this process and to all that it starts."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_NUMBERS = {
    "x86_64": {
        "ioctl": 16,
        "setresuid": 117,
        "mount": 165,
        "sethostname": 170,
        "unshare": 272,
        "setns": 308,
        "pidfd_open": 434,
        "close_range": 436,
    },
    "aarch64": {
        "ioctl": 29,
        "mount": 40,
        "unshare": 97,
        "setresuid": 147,
        "sethostname": 161,
        "setns": 268,
        "pidfd_open": 434,
        "close_range": 436,
    },
}[platform.machine()]

_NUMBER, _SECOND_ARGUMENT = 0, 24
"""Where a filter finds them, in struct seccomp_data."""

_ALLOW = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _allow_unless(offset: int, value: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset) + struct.pack("HBBI", 0x15, 1, 0, value) + _ALLOW


def deny(*calls: str, second_argument: int | None = None, answer: int = errno.EPERM) -> None:
    """Have these system calls refused from now on, with this errno: all, or those with this second argument."""
    refuse = struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | answer)
    for call in calls:
        checks = [(_NUMBER, _NUMBERS[call])]
        if second_argument is not None:
            checks.append((_SECOND_ARGUMENT, second_argument))
        _install(b"".join([*(_allow_unless(*check) for check in checks), refuse]))


def _install(code: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    zero = ctypes.c_ulong(0)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
