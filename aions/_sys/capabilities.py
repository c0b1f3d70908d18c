"""The capabilities of this process, as masks: bit n is capability number n. capabilities(7)."""

from __future__ import annotations

import ctypes
import errno

from aions._sys.calls import call
from aions._sys.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2

_Header = ctypes.c_uint32 * 2
_Sets = ctypes.c_uint32 * 6
"""Effective, permitted and inheritable, the lower 32 bits of each; then the upper ones."""

_capget = function("capget", _Header, _Sets)
_capset = function("capset", _Header, _Sets)
_prctl = function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def held() -> tuple[int, int]:
    """Return what is permitted and what is inheritable. capget(2)."""
    sets = _Sets()
    call(lambda: "capget()", _capget, _Header(_VERSION_3, 0), sets)
    return sets[1] | sets[4] << 32, sets[2] | sets[5] << 32


def hold(permitted: int, inheritable: int) -> None:
    """Have these, with all that is permitted effective. capset(2)."""
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in (permitted, permitted, inheritable)]
    call(lambda: f"capset({permitted:#x}, {permitted:#x}, {inheritable:#x})", _capset, _Header(_VERSION_3, 0), _Sets(*words))


def bounding() -> Iterator[int]:
    """Yield the numbers of the capabilities that no program can give this process more than. PR_CAPBSET_READ."""
    for number in range(64):
        try:
            if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0):
                yield number
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # beyond the kernel's last
            raise


def drop_bounding(number: int) -> None:
    """Never get a capability again. PR_CAPBSET_DROP; needs CAP_SETPCAP."""
    call(lambda: f"prctl(PR_CAPBSET_DROP, {number})", _prctl, _PR_CAPBSET_DROP, number, 0, 0, 0)


def set_ambient(number: int) -> None:
    """Have programs keep a capability, whoever runs them. PR_CAP_AMBIENT_RAISE; it must be permitted and inheritable."""
    call(
        lambda: f"prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {number})",
        _prctl,
        _PR_CAP_AMBIENT,
        _PR_CAP_AMBIENT_RAISE,
        number,
        0,
        0,
    )


def keep_past_root() -> None:
    """Have what is permitted survive the change from user 0 to another. PR_SET_KEEPCAPS; exec forgets it."""
    call(lambda: "prctl(PR_SET_KEEPCAPS, 1)", _prctl, _PR_SET_KEEPCAPS, 1, 0, 0, 0)


def set_no_new_privs() -> None:
    """Let no program give more privileges: setuid bits and file capabilities do nothing. PR_SET_NO_NEW_PRIVS."""
    call(lambda: "prctl(PR_SET_NO_NEW_PRIVS, 1)", _prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
