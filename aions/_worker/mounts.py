"""Mounts, roots and names, a system call for each request; and what else a worker is given besides namespaces."""

from __future__ import annotations

import _socket as socket
import errno
import os
import resource

from aions._sys import mounts
from aions._sys.calls import KernelError, call
from aions._wire import messages
from aions._wire.messages import Done, Opened
from aions._worker import late, paths
from aions._worker.loop import MustWait, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from aions._worker.loop import Handlers

    Blocking: TypeAlias = (
        messages.Mount
        | messages.Unmount
        | messages.OpenTree
        | messages.MoveMount
        | messages.SetMountAttributes
        | messages.NewMount
    )


def _begin(server: Server, request: Blocking, filesystem: str | None = None) -> None:
    """Refuse what may have to wait for whoever serves a file system, unless it may."""
    if not request.may_wait and not (paths.is_local(filesystem) and paths.has_only_local_files(server)):
        raise MustWait


def mount(server: Server, request: messages.Mount) -> Done:
    _begin(server, request, request.filesystem)
    mounts.mount(request.source, request.target, request.filesystem, request.flags, request.data)
    return Done()


def umount(server: Server, request: messages.Unmount) -> Done:
    _begin(server, request)
    mounts.umount(request.target, request.flags)
    return Done()


def open_tree(server: Server, request: messages.OpenTree) -> Opened:
    _begin(server, request)
    return Opened(paths.opened_tree(server, request.path, request.flags))


def move_mount(server: Server, request: messages.MoveMount) -> Done:
    _begin(server, request)
    tree = request.tree[0] if request.tree else mounts.AT_FDCWD
    mounts.move_mount(tree, request.source, mounts.AT_FDCWD, request.target)
    return Done()


def set_attributes(server: Server, request: messages.SetMountAttributes) -> Done:
    _begin(server, request)
    tree = mounts.AT_FDCWD if request.path else request.given[0]
    user_namespace = request.given[-1] if request.mapped else 0
    to_set = request.to_set | (mounts.MOUNT_ATTR_IDMAP if request.mapped else 0)
    mounts.mount_setattr(tree, request.path, request.recursive, to_set, request.to_clear, request.propagation, user_namespace)
    return Done()


def new_mount(server: Server, request: messages.NewMount) -> Opened:
    _begin(server, request, request.filesystem)
    return Opened(mounts.new_mount(request.filesystem, request.options, request.attributes))


def pivot_root(server: Server, request: messages.PivotRoot) -> Done:
    late.load()
    with _named(server, "pivot_root", request.new_root, request.given) as new_root:
        if request.put_old is None:
            make_root(new_root, request.new_root)
        else:
            mounts.pivot_root(request.new_root, request.put_old)
    return Done()


def change_root(server: Server, request: messages.ChangeRoot) -> Done:
    late.load()
    with Directory(".") as before, _named(server, "chroot", request.path, request.given) as root:
        os.fchdir(root)
        try:
            call(lambda: f'chroot("{request.path}")', os.chroot, ".", path=request.path)
        finally:
            os.fchdir(before)
    return Done()


def change_directory(server: Server, request: messages.ChangeDirectory) -> Done:
    with _named(server, "chdir", request.path, request.given, request.may_wait) as directory:
        call(lambda: f'chdir("{request.path}")', os.fchdir, directory, path=request.path)
    return Done()


def _named(server: Server, name: str, path: str, given: tuple[int, ...], may_wait: bool = False) -> Directory:
    """Have a directory open that a call is to be about."""
    if given:
        return Directory(path, os.dup(given[0]))
    opened = paths.opened if may_wait else paths.opened_at_once
    flags = os.O_PATH | os.O_DIRECTORY
    return Directory(path, call(lambda: f'{name}("{path}")', opened, server, path, flags, path=path))


def set_host_name(_server: Server, request: messages.SetHostName) -> Done:
    call(lambda: f'sethostname("{request.name}")', socket.sethostname, request.name)
    return Done()


def set_domain_name(_server: Server, request: messages.SetDomainName) -> Done:
    mounts.setdomainname(request.name)
    return Done()


def set_limit(_server: Server, request: messages.SetLimit) -> Done:
    limits = request.soft, request.hard
    call(lambda: f"setrlimit({request.resource}, {limits})", _setrlimit, request.resource, limits)
    return Done()


def _setrlimit(number: int, limits: tuple[int, int]) -> None:
    """Call setrlimit(2). Python makes a `ValueError` of EINVAL, and of EPERM sometimes."""
    try:
        resource.setrlimit(number, limits)
    except ValueError as error:
        refused = errno.EPERM if "raise maximum" in str(error) else errno.EINVAL
        raise OSError(refused, os.strerror(refused)) from None


def join_cgroup(_server: Server, request: messages.JoinCgroup) -> Done:
    """Move this process into a cgroup. KERNEL: 0 is whoever writes; the same in both versions of cgroups."""
    path = os.path.join(request.directory, "cgroup.procs")
    descriptor = call(lambda: f'open("{path}", O_WRONLY)', os.open, path, os.O_WRONLY | os.O_CLOEXEC, path=path)
    try:
        call(lambda: f'write({descriptor}<{path}>, "0")', os.write, descriptor, b"0", path=path)
    finally:
        os.close(descriptor)
    return Done()


class Directory:
    """Have a directory open for the length of a `with` block, as a path only."""

    def __init__(self, path: str, opened: int | None = None) -> None:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if opened is None:
            opened = call(lambda: f'open("{path}", O_PATH|O_DIRECTORY)', os.open, path, flags, path=path)
        self._descriptor = opened

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def make_root(new_root: int, path: str) -> None:
    """Make a mount the root, and let go of the old one.

    KERNEL: pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on top of the new one, and is taken off there.
    """
    with Directory(".") as before:
        os.fchdir(new_root)
        try:
            mounts.pivot_root(".", ".", shown=path)
        except KernelError:
            os.fchdir(before)
            raise
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")


HANDLERS: Handlers = {
    "ChangeDirectory": change_directory,
    "ChangeRoot": change_root,
    "JoinCgroup": join_cgroup,
    "Mount": mount,
    "MoveMount": move_mount,
    "NewMount": new_mount,
    "OpenTree": open_tree,
    "PivotRoot": pivot_root,
    "SetDomainName": set_domain_name,
    "SetHostName": set_host_name,
    "SetLimit": set_limit,
    "SetMountAttributes": set_attributes,
    "Unmount": umount,
}
