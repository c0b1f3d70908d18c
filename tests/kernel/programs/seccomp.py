"""A seccomp filter like that of Docker: system calls that are answered EPERM, to this process and to all that it starts."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_NUMBERS = {
    "x86_64": {"unshare": 272, "setns": 308, "mount": 165, "pidfd_open": 434, "setresuid": 117},
    "aarch64": {"unshare": 97, "setns": 268, "mount": 40, "pidfd_open": 434, "setresuid": 147},
}[platform.machine()]

_LOAD_NUMBER = struct.pack("HBBI", 0x20, 0, 0, 0)
_ALLOW = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
_REFUSE = struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def deny(*calls: str) -> None:
    """Have these system calls refused from now on."""
    jumps = [struct.pack("HBBI", 0x15, len(calls) - index, 0, _NUMBERS[call]) for index, call in enumerate(calls)]
    code = b"".join([_LOAD_NUMBER, *jumps, _ALLOW, _REFUSE])
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    zero = ctypes.c_ulong(0)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
