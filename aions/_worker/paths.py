"""Paths that the app names, looked up where the worker is.

Rule 1. Where the worker sees other files than the app, their owner may be hostile. There no magic link is followed (those of
        /proc/PID: fd, root, cwd, exe, ns, …), which could lead to what the worker holds, and a working directory outside of
        the root is refused.
Rule 2. What may have to wait for somebody else (a FIFO, a lease, a file server) is not begun (`MustWait`), unless this process
        exists for nothing else: the app then has a fork do it.
"""

from __future__ import annotations

import errno
import os
import stat

from aions._sys import mounts
from aions._sys.calls import KernelError
from aions._sys.mounts import AT_FDCWD, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from aions._worker.loop import MustWait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Server

_LOCAL = frozenset(
    (
        b"bcachefs bdev binfmt_misc bpf btrfs cgroup cgroup2 configfs cramfs debugfs devpts devtmpfs ecryptfs "
        b"efivarfs erofs exfat ext2 ext3 ext4 f2fs fusectl hfs hfsplus hugetlbfs iso9660 jfs mqueue msdos nilfs2 nsfs "
        b"ntfs ntfs3 overlay proc pstore ramfs reiserfs resctrl rootfs rpc_pipefs securityfs selinuxfs smackfs "
        b"squashfs sysfs tmpfs tracefs ubifs udf vfat xfs zonefs zfs"
    ).split()
)
"""The file systems that the kernel serves by itself."""

NO_MAGIC_LINKS = (
    "Inside, no link of /proc/PID/fd, root, cwd, exe, ns or map_files is followed: it could lead outside. For a namespace of "
    "the worker's, use Worker.open_namespace."
)

_MEMORY_DEVICES = 1
_PTMX = os.makedev(5, 2)


def opened(server: Server, path: str, flags: int, mode: int = 0) -> int:
    """Open a file, however long it takes."""
    if server.home.has_same_files():
        return os.open(path, flags | os.O_CLOEXEC, mode)
    return _opened_inside(path, flags, mode)


def opened_below(server: Server, directory: int, path: str, resolve: int) -> int:
    """Open a path only, a relative one below a directory, or, where that is -1, below where this process is.

    `resolve` is what `how_to_look_up` says.
    """
    try:
        if server.home.has_same_files():
            found = mounts.openat2(AT_FDCWD if directory < 0 else directory, path, os.O_PATH, 0, resolve)
        else:
            found = _opened_inside(path, os.O_PATH, 0, resolve, directory)
    except OSError as error:
        if resolve and error.errno == errno.EAGAIN:
            raise MustWait from None
        raise
    if resolve:
        _check_prompt(server, found)
    return found


def how_to_look_up(server: Server, may_wait: bool) -> int:
    """Return flags for openat2(2) that keep a look-up from waiting for a file server, where there may be one."""
    return 0 if may_wait or has_only_local_files(server) else RESOLVE_CACHED


def _check_prompt(server: Server, found: int) -> None:
    """Refuse to go on with what was found, and close it, if it is a file server's."""
    try:
        is_local = _file_system(server, found) in _LOCAL
    except BaseException:
        os.close(found)
        raise
    if not is_local:
        os.close(found)
        raise MustWait


def _opened_inside(path: str, flags: int, mode: int, resolve: int = 0, directory: int = -1) -> int:
    if not path.startswith("/"):
        if directory < 0:
            os.getcwd()  # ENOENT where that is outside of the root
            directory = AT_FDCWD
        return mounts.openat2(directory, path, flags, mode, RESOLVE_NO_MAGICLINKS | resolve)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mounts.openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    finally:
        os.close(root)


def opened_tree(server: Server, path: str, flags: int) -> int:
    """Open a mount, or with OPEN_TREE_CLONE a copy of it. open_tree(2)"""
    if server.home.has_same_files():
        return mounts.open_tree(path, flags)
    try:
        source = _opened_inside(path, os.O_PATH, 0)
    except OSError as error:
        raise KernelError(error.errno or 0, f'open_tree(AT_FDCWD, "{path}", {flags:#x})', path) from None
    try:
        return mounts.open_tree("", flags, source, shown=path)
    finally:
        os.close(source)


def refuse_magic_links(server: Server, path: str) -> None:
    """Refuse a path through a magic link that is to go to the kernel as it is. Whatever else is wrong, the kernel will say."""
    try:
        os.close(opened(server, path, os.O_PATH))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise


def opened_at_once(server: Server, path: str, flags: int, mode: int = 0) -> int:
    """Open a file, unless that may have to wait for somebody.

    What is there is looked at first, as a path only, which disturbs nobody. The file is then opened without waiting, since
    something else may be there by now. KERNEL: EWOULDBLOCK then also says that somebody has a lease (fcntl(2)), and ENXIO that
    a FIFO has no reader.
    """
    resolve = how_to_look_up(server, may_wait=False)
    if resolve and flags & os.O_CREAT:
        raise MustWait
    if not _looks_prompt(server, path, flags, resolve):
        raise MustWait
    if flags & (os.O_NONBLOCK | os.O_PATH):
        return opened(server, path, flags, mode)
    try:
        descriptor = opened(server, path, flags | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.ENXIO):
            raise MustWait from None
        raise
    if not _is_prompt(os.fstat(descriptor)):
        os.close(descriptor)
        raise MustWait
    os.set_blocking(descriptor, True)
    return descriptor


def _looks_prompt(server: Server, path: str, flags: int, resolve: int) -> bool:
    """Whether opening a file waits for nobody, as far as can be seen; what cannot be found, opening it will say."""
    try:
        found = _found(server, path, os.O_PATH | flags & (os.O_NOFOLLOW | os.O_DIRECTORY), resolve)
    except OSError as error:
        return not resolve or error.errno != errno.EAGAIN
    try:
        if resolve and _file_system(server, found) not in _LOCAL:
            return False
        return bool(flags & (os.O_NONBLOCK | os.O_PATH)) or _is_prompt(os.fstat(found))
    finally:
        os.close(found)


def _found(server: Server, path: str, flags: int, resolve: int) -> int:
    if server.home.has_same_files():
        return mounts.openat2(AT_FDCWD, path, flags, 0, resolve) if resolve else os.open(path, flags | os.O_CLOEXEC)
    return _opened_inside(path, flags, 0, resolve)


def _is_prompt(status: os.stat_result) -> bool:
    """Whether opening a file of this type waits for nobody."""
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return True
    return stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev) == _MEMORY_DEVICES or status.st_rdev == _PTMX)


def has_only_local_files(server: Server) -> bool:
    """Whether no file system that this process sees is served by somebody else, who may not answer (FUSE, NFS)."""
    return _LOCAL.issuperset(_file_systems(server).values())


def is_local(file_system: str | None) -> bool:
    """Whether the kernel serves a file system by itself; for None there is none to serve."""
    return file_system is None or os.fsencode(file_system) in _LOCAL


def _file_systems(server: Server) -> dict[bytes, bytes]:
    """Return the type of each mount, by its id. proc_pid_mountinfo(5)"""
    found = {}
    for line in _read(server, "self/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        found[before.split(b" ", 1)[0]] = after.split(b" ", 1)[0]
    return found


def _file_system(server: Server, descriptor: int) -> bytes:
    info = _read(server, f"self/fdinfo/{descriptor}")
    number = next(line for line in info.splitlines() if line.startswith(b"mnt_id:")).split()[1]
    return _file_systems(server).get(number, b"unknown")


def _read(server: Server, path: str) -> bytes:
    """Read a file of /proc, of which no line of the log is made."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=server.home.proc)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b""))
    finally:
        os.close(descriptor)
