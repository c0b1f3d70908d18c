"""Mounts, roots and names, a system call for each function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType

from aions._app import apart
from aions._app.descriptor import Descriptor, HasFileno
from aions._app.link import Link
from aions._app.mount_values import MountAttribute, MountFlag, Propagation
from aions._app.text import StrOrBytesPath, text
from aions._wire.messages import (
    Done,
    Mount,
    MoveMount,
    NewMount,
    Opened,
    OpenTree,
    SetMountAttributes,
    SetPropagation,
    Unmount,
)

_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_OPEN_TREE_CLONE = 1
_AT_RECURSIVE = 0x8000


class MountTree(Descriptor):
    """A mount, with those below it, as a descriptor: from `Worker.open_tree` and `Worker.fsmount`.

    A detached one is attached with `Worker.move_mount`, in the mount namespace of that worker or of another; if it is closed
    before that, it is gone. Leaving its `async with` block closes it.
    """

    async def __aenter__(self) -> MountTree:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close it. Closing again does nothing."""
        self.close()


async def mount(
    worker: Link,
    source: StrOrBytesPath | None,
    target: StrOrBytesPath,
    filesystem: str | None,
    flags: MountFlag,
    data: str | None,
) -> None:
    """Call mount(2)."""
    arguments = _optional(source), text(target), _optional(filesystem), flags.value, _optional(data)
    await apart.call(worker, lambda may_wait: Mount(*arguments, may_wait), Done)


async def umount(worker: Link, target: StrOrBytesPath, detach: bool, force: bool, follow_symlinks: bool) -> None:
    """Call umount2(2)."""
    flags = _MNT_DETACH * detach | _MNT_FORCE * force | _UMOUNT_NOFOLLOW * (not follow_symlinks)
    path = text(target)
    await apart.call(worker, lambda may_wait: Unmount(path, flags, may_wait), Done)


async def open_tree(worker: Link, path: StrOrBytesPath, clone: bool, recursive: bool) -> MountTree:
    """Call open_tree(2). KERNEL: only a clone has a choice whether it is recursive."""
    flags = (_OPEN_TREE_CLONE | _AT_RECURSIVE * recursive) if clone else 0
    name = text(path)
    found = await apart.call(worker, lambda may_wait: OpenTree(name, flags, may_wait), Opened)
    return MountTree(found.descriptor, f"mount tree of {name!r}")


async def fsmount(worker: Link, filesystem: str, options: Mapping[str, str | None], attributes: MountAttribute) -> MountTree:
    """Call fsopen(2), fsconfig(2) and fsmount(2)."""
    written = tuple(_option(text(name), value) for name, value in options.items())
    arguments = text(filesystem), written, attributes.value
    found = await apart.call(worker, lambda may_wait: NewMount(*arguments, may_wait), Opened)
    return MountTree(found.descriptor, f"mount tree of a new {arguments[0]!r}")


async def move_mount(worker: Link, source: StrOrBytesPath | int | HasFileno, target: StrOrBytesPath) -> None:
    """Call move_mount(2)."""
    path, tree = _path_or_descriptor(source)
    arguments = path, text(target), tree
    await apart.call(worker, lambda may_wait: MoveMount(*arguments, may_wait), Done)


async def mount_setattr(
    worker: Link,
    mount: StrOrBytesPath | int | HasFileno,
    to_set: MountAttribute,
    to_clear: MountAttribute,
    propagation: Propagation | str | None,
    user_namespace: int | HasFileno | None,
    recursive: bool,
) -> None:
    """Call mount_setattr(2)."""
    path, given = _path_or_descriptor(mount)
    mapped = user_namespace is not None
    if user_namespace is not None:
        given = (*given, _descriptor(user_namespace))
    flag = 0 if propagation is None else Propagation(propagation).flag
    arguments = path, recursive, to_set.value, _cleared(to_set, to_clear), flag, mapped, given
    await apart.call(worker, lambda may_wait: SetMountAttributes(*arguments, may_wait), Done)


async def set_propagation(worker: Link, propagation: Propagation | str) -> None:
    """Call mount(2) for the root and all below it."""
    await worker.call(SetPropagation(Propagation(propagation).flag), Done)


_ATIME = 0x70
_ATIMES = MountAttribute.NOATIME | MountAttribute.STRICTATIME


def _cleared(to_set: MountAttribute, to_clear: MountAttribute) -> int:
    """KERNEL: of what is no flag but a choice, how access times are kept, all bits have to be cleared to set another one."""
    return to_clear.value | (_ATIME if (to_set | to_clear) & _ATIMES else 0)


def _option(name: str, value: str | None) -> str:
    if "=" in name:
        raise ValueError(f"{name!r} is the name of no option")
    return name if value is None else f"{name}={text(value)}"


def _optional(value: StrOrBytesPath | None) -> str | None:
    return None if value is None else text(value)


def _descriptor(value: int | HasFileno) -> int:
    return value if isinstance(value, int) else value.fileno()


def _path_or_descriptor(value: StrOrBytesPath | int | HasFileno) -> tuple[str, tuple[int, ...]]:
    """Return the one, and nothing of the other."""
    if isinstance(value, str | bytes | os.PathLike):
        path = text(value)
        if not path:
            raise ValueError("the path is empty")
        return path, ()
    return "", (_descriptor(value),)
