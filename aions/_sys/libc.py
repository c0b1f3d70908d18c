"""System calls through the C library: one place where -1 becomes an `OSError`.

`os.unshare` and `os.setns` exist from Python 3.12 only, the others not at all, so all of them go this way on every version.
"""

from __future__ import annotations

import ctypes
import os

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
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWUSER = (
    NAMESPACE_FLAGS[name] for name in ("CLONE_NEWTIME", "CLONE_NEWNS", "CLONE_NEWUSER")
)

MS_REC = 0x4000
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class KernelError(OSError):
    """An `OSError` that knows which call it comes from, as strace would write it, and may bear a `hint` of its caller's.

    Being a subclass, it is never a `FileNotFoundError` or the like: go by `errno`.
    """

    def __init__(self, number: int, call: str, path: str | None = None) -> None:
        super().__init__(number, os.strerror(number), path)
        self.call = call
        self.hint: str | None = None


_library = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *arguments: Any) -> _NamedFuncPointer:
    function = _library[name]
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function


_unshare = _function("unshare", ctypes.c_int)
_setns = _function("setns", ctypes.c_int, ctypes.c_int)
_mount = _function("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_prctl = _function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def _checked(result: int, call: str) -> None:
    if result == -1:
        raise KernelError(ctypes.get_errno(), call)


def flag_names(flags: int) -> str:
    """Spell namespace flags as C does: CLONE_NEWUSER|CLONE_NEWNET."""
    return "|".join(name for name, flag in NAMESPACE_FLAGS.items() if flags & flag) or str(flags)


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    _checked(_unshare(flags), f"unshare({flag_names(flags)})")


def setns(descriptor: int, flags: int) -> None:
    """Call setns(2); with a pidfd since Linux 5.8."""
    _checked(_setns(descriptor, flags), f"setns({descriptor}, {flag_names(flags)})")


def set_propagation(propagation: int) -> None:
    """Call mount(2) with one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, on the root and all below it."""
    flags = MS_REC | propagation
    _checked(_mount(None, b"/", None, flags, None), f'mount(NULL, "/", NULL, {flags:#x}, NULL)')


def die_with_parent(signal: int) -> None:
    """Have the kernel send a signal when the parent ends. PR_SET_PDEATHSIG; a change of credentials clears it."""
    _checked(_prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), f"prctl(PR_SET_PDEATHSIG, {signal})")


def become_subreaper() -> None:
    """Adopt descendants whose parent ends. PR_SET_CHILD_SUBREAPER; children do not inherit it."""
    _checked(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER, 1)")
