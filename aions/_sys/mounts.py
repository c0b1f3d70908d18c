"""Mounts: mount(2) and its like, and the calls of the new mount API, of which the C library has few everywhere.

In the new API a mount is a descriptor until `move_mount` attaches it somewhere. That is what is used wherever the target could
be in somebody else's hands: a descriptor of it can be had by `openat2`, and cannot be swapped for a symbolic link any more.
"""

from __future__ import annotations

import errno
import os
import struct
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong

from aions._sys.calls import KernelError, call
from aions._sys.libc import function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AT_FDCWD = -100
MOUNT_ATTR_RDONLY = 0x01
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MNT_DETACH = 2
MOUNT_ATTR_IDMAP = 0x00100000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MAX_ATTEMPTS = 1000

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 437, 442
"""KERNEL: the numbers of system calls from 424 on are the same on every architecture that Python supports."""

_mount = function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = function("umount2", c_char_p, c_int)
_pivot_root = function("pivot_root", c_char_p, c_char_p)
_open_tree = function("syscall", c_long, c_int, c_char_p, c_uint)
_move_mount = function("syscall", c_long, c_int, c_char_p, c_int, c_char_p, c_uint)
_mount_setattr = function("syscall", c_long, c_int, c_char_p, c_uint, c_char_p, c_size_t)
_fsopen = function("syscall", c_long, c_char_p, c_uint)
_fsconfig = function("syscall", c_long, c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = function("syscall", c_long, c_int, c_uint, c_uint)
_setdomainname = function("setdomainname", c_char_p, c_size_t)
_openat2 = function("syscall", c_long, c_int, c_char_p, c_char_p, c_size_t)


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else f'"{text}"'


def _at(directory: int) -> str:
    return "AT_FDCWD" if directory == AT_FDCWD else str(directory)


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(source: str | None, target: str, filesystem: str | None, flags: int, data: str | None) -> None:
    """Call mount(2)."""
    call(
        lambda: f'mount({_quoted(source)}, "{target}", {_quoted(filesystem)}, {flags:#x}, {_quoted(data)})',
        _mount,
        _encoded(source),
        os.fsencode(target),
        _encoded(filesystem),
        flags,
        _encoded(data),
        path=target,
    )


def umount(target: str, flags: int) -> None:
    """Call umount2(2)."""
    call(lambda: f'umount2("{target}", {flags:#x})', _umount2, os.fsencode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str, shown: str | None = None) -> None:
    """Call pivot_root(2). Errors call the new root `shown`."""
    call(
        lambda: f'pivot_root("{new_root}", "{put_old}")',
        _pivot_root,
        os.fsencode(new_root),
        os.fsencode(put_old),
        path=shown or new_root,
    )


def open_tree(path: str, flags: int, directory: int = AT_FDCWD, shown: str | None = None) -> int:
    """Call open_tree(2), Linux 5.2: a descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy.

    An empty path means the descriptor before it; errors call it `shown`.
    """
    flags |= _OPEN_TREE_CLOEXEC | (0 if path else AT_EMPTY_PATH)
    tree: int = call(
        lambda: f'open_tree({_at(directory)}, "{path}", {flags:#x})',
        _open_tree,
        _OPEN_TREE,
        directory,
        os.fsencode(path),
        flags,
        path=path or shown,
    )
    return tree


def move_mount(tree: int, source: str, directory: int, target: str, shown: str | None = None) -> None:
    """Call move_mount(2), Linux 5.2. An empty path means the descriptor before it; errors call the target `shown`."""
    flags = (0 if source else _MOVE_MOUNT_F_EMPTY_PATH) | (0 if target else _MOVE_MOUNT_T_EMPTY_PATH)
    call(
        lambda: f'move_mount({_at(tree)}, "{source}", {_at(directory)}, "{target}", {flags:#x})',
        _move_mount,
        _MOVE_MOUNT,
        tree,
        os.fsencode(source),
        directory,
        os.fsencode(target),
        flags,
        path=shown or target,
    )


def mount_setattr(
    directory: int, path: str, recursive: bool, to_set: int, to_clear: int, propagation: int, user_namespace: int
) -> None:
    """Call mount_setattr(2), Linux 5.12. An empty path means the descriptor before it."""
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    attributes = struct.pack("QQQQ", to_set, to_clear, propagation, user_namespace)
    call(
        lambda: (
            f'mount_setattr({_at(directory)}, "{path}", {flags:#x}, {{set={to_set:#x}, clear={to_clear:#x}, '
            f"propagation={propagation:#x}, userns_fd={user_namespace}}})"
        ),
        _mount_setattr,
        _MOUNT_SETATTR,
        directory,
        os.fsencode(path),
        flags,
        attributes,
        len(attributes),
        path=path or None,
    )


def new_mount(filesystem: str, options: Iterable[str], attributes: int) -> int:
    """Call fsopen(2), fsconfig(2) and fsmount(2), Linux 5.2: a descriptor of a new mount that is not attached yet.

    An option is NAME or NAME=value. Where a step is refused, what the file system says of it is the hint.
    """
    context = call(lambda: f'fsopen("{filesystem}")', _fsopen, _FSOPEN, os.fsencode(filesystem), _FSOPEN_CLOEXEC)
    try:
        for option in options:
            _set_option(context, option)
        call(lambda: f"fsconfig({filesystem}, FSCONFIG_CMD_CREATE)", _config, context, _FSCONFIG_CMD_CREATE, None, None)
        text = f"fsmount({filesystem}, {attributes:#x})"
        tree: int = call(lambda: text, _fsmount, _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
        return tree
    except KernelError as error:
        error.hint = _complaints(context)
        raise
    finally:
        os.close(context)


def _set_option(context: int, option: str) -> None:
    """Have a file system that is being made take an option."""
    name, equals, text = option.partition("=")
    command, value = (_FSCONFIG_SET_STRING, text) if equals else (_FSCONFIG_SET_FLAG, None)
    call(lambda: f'fsconfig("{name}", {_quoted(value)})', _config, context, command, name, value)


def _config(context: int, command: int, name: str | None, value: str | None) -> int:
    result: int = _fsconfig(_FSCONFIG, context, command, _encoded(name), _encoded(value), 0)
    return result


def _complaints(context: int) -> str | None:
    """Read what a file system has to say about a refusal: lines that begin with e, w or i, and a blank."""
    said = []
    try:
        while True:
            said.append(os.read(context, 1024).decode(errors="replace").rstrip()[2:])
    except OSError:  # ENODATA: that was all
        return f"The kernel says: {'; '.join(said)}." if said else None


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open a path so that no symbolic link and no `..` in it leads out of a root. openat2(2), Linux 5.6."""
    return call(
        lambda: f'openat2({_at(root)}, "{path}", {{flags={flags:#o}, resolve=RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}})',
        openat2,
        root,
        path,
        flags,
        0,
        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
        path=path,
    )


def openat2(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """Call openat2(2), Linux 5.6, of which no line of the log is made. RESOLVE_CACHED is understood since 5.12.

    KERNEL: EAGAIN where something was renamed or mounted meanwhile, so that a `..` cannot be trusted. Flags and modes without a
    meaning are refused, which open(2) ignores.
    """
    flags |= os.O_CLOEXEC
    if flags & os.O_PATH:
        flags &= os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    creates = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    how = struct.pack("QQQ", flags, mode & 0o7777 if creates else 0, resolve)
    attempts = 1 if resolve & RESOLVE_CACHED else _MAX_ATTEMPTS
    for attempt in range(attempts):
        try:
            result: int = _openat2(_OPENAT2, directory, os.fsencode(path), how, len(how))
            return result
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == attempts - 1:
                raise
    raise AssertionError


def setdomainname(name: str) -> None:
    """Call setdomainname(2)."""
    encoded = os.fsencode(name)
    call(lambda: f'setdomainname("{name}", {len(encoded)})', _setdomainname, encoded, len(encoded))
