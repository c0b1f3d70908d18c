"""What `Worker` does about mounts, roots and names, as functions that act on the current worker."""

from __future__ import annotations

from collections.abc import Mapping

from aions._app.current import current_worker
from aions._app.membership import HasFileno
from aions._app.mount_values import MountAttribute, MountFlag, Propagation
from aions._app.mounts import MountTree
from aions._app.text import StrOrBytesPath

_NO_FLAGS = MountFlag(0)
_NO_ATTRIBUTES = MountAttribute(0)


async def mount(
    source: StrOrBytesPath | None,
    target: StrOrBytesPath,
    filesystem: str | None = None,
    flags: MountFlag = _NO_FLAGS,
    data: str | None = None,
) -> None:
    """Mount a file system where the current worker is. See `Worker.mount`."""
    await (await current_worker()).mount(source, target, filesystem, flags, data)


async def umount(target: StrOrBytesPath, *, detach: bool = False, force: bool = False, follow_symlinks: bool = True) -> None:
    """Unmount something where the current worker is. See `Worker.umount`."""
    await (await current_worker()).umount(target, detach=detach, force=force, follow_symlinks=follow_symlinks)


async def bind_mount(
    source: StrOrBytesPath, target: StrOrBytesPath, *, read_only: bool = False, recursive: bool = True
) -> None:
    """Have a file or directory appear at another place where the current worker is. See `Worker.bind_mount`."""
    await (await current_worker()).bind_mount(source, target, read_only=read_only, recursive=recursive)


async def open_tree(path: StrOrBytesPath, *, clone: bool = True, recursive: bool = True) -> MountTree:
    """Open a mount of the current worker's as a descriptor. See `Worker.open_tree`."""
    return await (await current_worker()).open_tree(path, clone=clone, recursive=recursive)


async def move_mount(source: StrOrBytesPath | int | HasFileno, target: StrOrBytesPath) -> None:
    """Attach a mount where the current worker is. See `Worker.move_mount`."""
    await (await current_worker()).move_mount(source, target)


async def mount_setattr(
    mount: StrOrBytesPath | int | HasFileno,
    set: MountAttribute = _NO_ATTRIBUTES,
    clear: MountAttribute = _NO_ATTRIBUTES,
    *,
    propagation: Propagation | str | None = None,
    user_namespace: int | HasFileno | None = None,
    recursive: bool = False,
) -> None:
    """Change attributes of a mount where the current worker is. See `Worker.mount_setattr`."""
    await (await current_worker()).mount_setattr(
        mount, set, clear, propagation=propagation, user_namespace=user_namespace, recursive=recursive
    )


async def fsmount(
    filesystem: str, options: Mapping[str, str | None] | None = None, attributes: MountAttribute = _NO_ATTRIBUTES
) -> MountTree:
    """Make a file system with the current worker. See `Worker.fsmount`."""
    return await (await current_worker()).fsmount(filesystem, options, attributes)


async def set_propagation(propagation: Propagation | str) -> None:
    """Set how mounts spread from and to where the current worker is. See `Worker.set_propagation`."""
    await (await current_worker()).set_propagation(propagation)


async def pivot_root(new_root: StrOrBytesPath, put_old: StrOrBytesPath | None = None) -> None:
    """Make a mount the root of the current worker's mount namespace. See `Worker.pivot_root`."""
    await (await current_worker()).pivot_root(new_root, put_old)


async def chroot(path: StrOrBytesPath) -> None:
    """Have the current worker's paths begin at a directory. See `Worker.chroot`."""
    await (await current_worker()).chroot(path)


async def chdir(path: StrOrBytesPath) -> None:
    """Set the current worker's working directory. See `Worker.chdir`."""
    await (await current_worker()).chdir(path)


async def sethostname(name: str) -> None:
    """Set what the machine is called where the current worker is. See `Worker.sethostname`."""
    await (await current_worker()).sethostname(name)


async def setdomainname(name: str) -> None:
    """Set the NIS domain name where the current worker is. See `Worker.setdomainname`."""
    await (await current_worker()).setdomainname(name)
