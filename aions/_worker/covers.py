"""Making read-only what is the machine's in a proc or a sysfs.

SECURITY: the kernel asks for no capability there but goes by the owner of a file, so root of the machine can write to it from
any user namespace, and be root outside (core_pattern, uevent_helper).
"""

from __future__ import annotations

import os
from errno import ENOENT
from stat import S_ISDIR, S_ISREG, S_IWGRP, S_IWOTH, S_IWUSR

from aions._sys import mounts
from aions._sys.calls import KernelError
from aions._sys.mounts import AT_RECURSIVE, MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ANYBODYS = "pressure"
"""A directory of files that anybody may write to. KERNEL: what is written to them is about the writer. proc_pressure(5)"""

_OF_THE_NETWORK = {"proc": "sys/net", "sysfs": "devices/virtual/net"}
"""What is about the network namespace of the reader.

KERNEL: what is about all of them is read-only there, except in the initial one.
"""


def cover(mounted: int, kind: str, own_network: bool) -> None:
    """Make read-only what is not about a process, or, with a network of one's own, about that. It must be attached."""
    left = _copy_if_there(mounted, _OF_THE_NETWORK[kind]) if own_network else -1
    try:
        if kind == "sysfs":
            mounts.mount_setattr(mounted, "", True, MOUNT_ATTR_RDONLY, 0, 0, 0)
        else:
            for name in _of_the_machine(mounted):
                _make_read_only(mounted, name)
        if left >= 0:
            mounts.move_mount(left, "", mounted, _OF_THE_NETWORK[kind])
    finally:
        if left >= 0:
            os.close(left)


def _copy_if_there(directory: int, path: str) -> int:
    try:
        return mounts.open_tree(path, OPEN_TREE_CLONE | AT_RECURSIVE, directory)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
        return -1


def _of_the_machine(proc: int) -> Iterator[str]:
    """Yield what is neither a process nor a link into one, and may be written to, or have something in it that may."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        names = [name for name in os.listdir(readable) if not name.isdecimal() and name != _ANYBODYS]
        for name in names:
            mode = os.stat(name, dir_fd=readable, follow_symlinks=False).st_mode
            if S_ISDIR(mode) or (S_ISREG(mode) and mode & (S_IWUSR | S_IWGRP | S_IWOTH)):
                yield name
    finally:
        os.close(readable)


def _make_read_only(directory: int, name: str) -> None:
    copy = mounts.open_tree(name, OPEN_TREE_CLONE | AT_RECURSIVE, directory)
    try:
        mounts.mount_setattr(copy, "", True, MOUNT_ATTR_RDONLY, 0, 0, 0)
        mounts.move_mount(copy, "", directory, name)
    finally:
        os.close(copy)
