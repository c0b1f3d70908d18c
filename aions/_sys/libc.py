"""System calls through the C library.

`os.unshare` and `os.setns` exist from Python 3.12 only, the others not at all, so all of them go this way on every version.
"""

from __future__ import annotations

import ctypes
import os

from aions._sys.calls import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import _NamedFuncPointer
    from typing import Any

NAMESPACE_FLAGS = {
    "CLONE_NEWTIME": 0x00000080,
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    NAMESPACE_FLAGS[name] for name in ("CLONE_NEWTIME", "CLONE_NEWNS", "CLONE_NEWUSER", "CLONE_NEWPID", "CLONE_NEWNET")
)

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_SYS_CLOSE_RANGE = 436
_SYS_RT_SIGACTION = {"x86_64": 13, "i686": 174, "armv7l": 174, "ppc64le": 173, "s390x": 174}.get(os.uname().machine, 134)
_SIGSET_SIZE = 8
_INTERNAL_SIGNALS = 32, 33
_UINT_MAX = 2**32 - 1

_library = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, _function: object, _arguments: object) -> int:
    """Raise what the C library says by -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def function(name: str, *arguments: Any) -> _NamedFuncPointer:
    """Find a function of the C library that returns an int, or -1 and errno."""
    found = _library[name]
    found.argtypes = arguments
    found.restype = ctypes.c_int
    found.errcheck = _checked  # type: ignore[assignment]
    return found


_unshare = function("unshare", ctypes.c_int)
_setns = function("setns", ctypes.c_int, ctypes.c_int)
_mount = function("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_prctl = function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_syscall = function("syscall", *[ctypes.c_ulong] * 5)


def restore_internal_signals() -> None:
    """Give the two signals that the C library keeps for itself their defaults: posix_spawn(3) leaves them ignored.

    Its own sigaction(3) refuses them. A struct of zeros says SIG_DFL whatever its layout.
    """
    default = ctypes.create_string_buffer(64)
    for number in _INTERNAL_SIGNALS:
        try:
            _syscall(_SYS_RT_SIGACTION, number, ctypes.addressof(default), 0, _SIGSET_SIZE)
        except OSError:
            pass  # a machine with other numbers: they stay as they are


def flag_names(flags: int) -> str:
    """Spell namespace flags as C does: CLONE_NEWUSER|CLONE_NEWNET."""
    return "|".join(name for name, flag in NAMESPACE_FLAGS.items() if flags & flag) or str(flags)


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    call(lambda: f"unshare({flag_names(flags)})", _unshare, flags)


def setns(descriptor: int, flags: int) -> None:
    """Call setns(2); with a pidfd since Linux 5.8."""
    call(lambda: f"setns({descriptor}, {flag_names(flags)})", _setns, descriptor, flags)


def set_propagation(propagation: int) -> None:
    """Call mount(2) with one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, on the root and all below it."""
    flags = MS_REC | propagation
    call(lambda: f'mount(NULL, "/", NULL, {flags:#x}, NULL)', _mount, None, b"/", None, flags, None)


def die_with_parent() -> None:
    """Have the kernel send SIGKILL when the parent ends. PR_SET_PDEATHSIG; a change of credentials clears it."""
    call(lambda: "prctl(PR_SET_PDEATHSIG, SIGKILL)", _prctl, _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def become_subreaper() -> None:
    """Adopt descendants whose parent ends. PR_SET_CHILD_SUBREAPER; children do not inherit it."""
    call(lambda: "prctl(PR_SET_CHILD_SUBREAPER, 1)", _prctl, _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_from(lowest: int) -> None:
    """Close every descriptor from a number on. close_range(2), Linux 5.9. No line of the log is made of it, as of no close."""
    _syscall(_SYS_CLOSE_RANGE, lowest, _UINT_MAX, 0, 0)


def may_close_range() -> bool:
    """Return whether close_range(2) works: there is none before Linux 5.9, and a seccomp filter may refuse it."""
    try:
        _syscall(_SYS_CLOSE_RANGE, _UINT_MAX, _UINT_MAX, 0, 0)  # where nothing can be open
    except OSError:
        return False
    return True


def set_dumpable(dumpable: int) -> None:
    """Set whether processes of the same user may look into this one. PR_SET_DUMPABLE.

    A change of credentials sets it to fs.suid_dumpable, which usually is 0.
    """
    call(lambda: f"prctl(PR_SET_DUMPABLE, {dumpable})", _prctl, _PR_SET_DUMPABLE, dumpable, 0, 0, 0)
