"""posix_spawn(3): starting a program without a copy of this process.

`os.posix_spawn` cannot change the directory, and the C library would leave its two own signals ignored in the program.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_SETPGROUP, _SETSIGDEF, _SETSIGMASK, _SETSID = 0x02, 0x04, 0x08, 0x80

_ALL_SIGNALS = b"\xff" * 128
_NO_SIGNALS = bytes(128)

_ROOM = 1024
"""Bytes: more than a posix_spawnattr_t or a posix_spawn_file_actions_t takes in any C library."""

_library = ctypes.CDLL(None)


def _checked(result: int, _function: object, _arguments: object) -> int:
    """Raise what these functions, unlike others, return."""
    if result:
        raise OSError(result, os.strerror(result))
    return result


def _function(name: str, *arguments: Any) -> Any:
    function = _library[f"posix_spawn{name}"]
    function.argtypes = arguments
    function.errcheck = _checked  # type: ignore[assignment]
    return function


_buffer, _strings = ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)
_spawn = _function("", ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, _buffer, _buffer, _strings, _strings)
_actions_init = _function("_file_actions_init", _buffer)
_actions_destroy = _function("_file_actions_destroy", _buffer)
_add_dup2 = _function("_file_actions_adddup2", _buffer, ctypes.c_int, ctypes.c_int)
_add_close = _function("_file_actions_addclose", _buffer, ctypes.c_int)
_add_fchdir = _function("_file_actions_addfchdir_np", _buffer, ctypes.c_int)
_attributes_init = _function("attr_init", _buffer)
_attributes_destroy = _function("attr_destroy", _buffer)
_set_flags = _function("attr_setflags", _buffer, ctypes.c_short)
_set_group = _function("attr_setpgroup", _buffer, ctypes.c_int)
_set_defaults = _function("attr_setsigdefault", _buffer, ctypes.c_char_p)
_set_mask = _function("attr_setsigmask", _buffer, ctypes.c_char_p)

CAN_CLOSE_FROM = hasattr(_library, "posix_spawn_file_actions_addclosefrom_np")
"""Since glibc 2.34; not in musl."""

if CAN_CLOSE_FROM:
    _add_close_from = _function("_file_actions_addclosefrom_np", _buffer, ctypes.c_int)


def posix_spawn(
    program: str,
    arguments: Sequence[str],
    environment: Sequence[str],
    descriptors: Mapping[int, int],
    closed: Iterable[int],
    closed_from: int | None,
    directory: int,
    process_group: int | None,
    new_session: bool,
) -> int:
    """Start a program with all signals at their defaults and none blocked, and return its pid.

    Args:
        program: its path, relative to `directory`.
        arguments: with the name that it is called by.
        environment: strings of the form NAME=value.
        descriptors: for each number that it shall have open the descriptor that is to have it, which may not be one of the
            other numbers.
        closed: numbers that it shall not have open, all below the limit on open files. KERNEL: when posix_spawn(3) returns,
            execve(2) may not have closed yet what is to be closed by it.
        closed_from: likewise all from a number on, if `CAN_CLOSE_FROM`; None means none. It takes close_range(2), or a /proc.
        directory: a descriptor of where it starts; -1 means here.
        process_group: which it joins; None means this one.
        new_session: whether it leads a session of its own.

    Raises:
        OSError: any step failed; which one, the C library does not tell.
    """
    attributes, actions = ctypes.create_string_buffer(_ROOM), ctypes.create_string_buffer(_ROOM)
    pid = ctypes.c_int()
    _attributes_init(attributes)
    _actions_init(actions)
    try:
        group = 0 if process_group is None else _SETPGROUP
        _set_flags(attributes, _SETSIGDEF | _SETSIGMASK | group | (_SETSID if new_session else 0))
        _set_defaults(attributes, _ALL_SIGNALS)
        _set_mask(attributes, _NO_SIGNALS)
        _set_group(attributes, process_group or 0)
        if directory >= 0:
            _add_fchdir(actions, directory)
        for number, descriptor in descriptors.items():
            _add_dup2(actions, descriptor, number)
        for number in closed:
            _add_close(actions, number)
        if closed_from is not None:
            _add_close_from(actions, closed_from)
        _spawn(pid, os.fsencode(program), actions, attributes, _array(arguments), _array(environment))
    finally:
        _actions_destroy(actions)
        _attributes_destroy(attributes)
    return pid.value


def _array(strings: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """Make what C calls a char *[]."""
    return (ctypes.c_char_p * (len(strings) + 1))(*map(os.fsencode, strings))
