"""The words of mounts: flags, attributes and propagation as the kernel has them, and what `open_worker` is given to mount."""

from __future__ import annotations

import enum
import os
import posixpath
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from aions._app.text import StrOrBytesPath, absolute, text
from aions._types import Namespace
from aions._wire.messages import Attach


class MountFlag(enum.Flag):
    """Flags of `Worker.mount`: the kernel's MS_*. Several are joined with `|`.

    Kernel: mount(2).
    """

    RDONLY = 1 << 0
    NOSUID = 1 << 1
    NODEV = 1 << 2
    NOEXEC = 1 << 3
    SYNCHRONOUS = 1 << 4
    REMOUNT = 1 << 5
    DIRSYNC = 1 << 7
    NOSYMFOLLOW = 1 << 8
    NOATIME = 1 << 10
    NODIRATIME = 1 << 11
    BIND = 1 << 12
    MOVE = 1 << 13
    REC = 1 << 14
    SILENT = 1 << 15
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


class MountAttribute(enum.Flag):
    """Attributes of one mount in the new mount API: the kernel's MOUNT_ATTR_*. Several are joined with `|`.

    Kernel: mount_setattr(2), fsmount(2).
    """

    RDONLY = 0x01
    NOSUID = 0x02
    NODEV = 0x04
    NOEXEC = 0x08
    NOATIME = 0x10
    STRICTATIME = 0x20
    NODIRATIME = 0x80
    NOSYMFOLLOW = 0x200000


class Propagation(enum.Enum):
    """How mounts and unmounts spread between copies of a mount. The values are util-linux's words.

    Kernel: mount_namespaces(7).
    """

    PRIVATE = "private"
    SLAVE = "slave"
    SHARED = "shared"
    UNBINDABLE = "unbindable"

    @property
    def flag(self) -> int:
        """The kernel's number."""
        return MountFlag[self.name].value


_NONE = Namespace(0)


class Mount:
    """What `open_worker` mounts, and where: `Bind`, `Tmpfs`, `Overlay`, `Proc`, `Sysfs`, `Dev`.

    The target is an absolute path inside the root. Symbolic links and `..` in it are followed there, and never lead out. What
    is missing of it is made: directories, or at its end an empty file where a file is bound. At "/" the mount becomes the root.
    """

    target: StrOrBytesPath

    def _attach(self, own: Namespace = _NONE) -> Attach:
        """Return the step that makes it, in a worker with namespaces of its `own`."""
        raise NotImplementedError


_USUAL = MountAttribute.NOSUID | MountAttribute.NODEV
"""What file systems that hold no programs and no devices of the system are mounted with."""


@dataclass(frozen=True)
class Bind(Mount):
    """Have a file or directory of the app's appear at another place, with the mounts below it.

    `source` is looked up before the root changes (with `enter`, in the mount namespace that is entered), a relative one in the
    app's working directory. `read_only` holds for the mounts below it as well. Without `recursive` those below are left out,
    which the kernel refuses (EINVAL) where it would bare what a more privileged namespace has hidden.
    """

    source: StrOrBytesPath
    target: StrOrBytesPath
    _: KW_ONLY
    read_only: bool = False
    recursive: bool = True

    def _attach(self, own: Namespace = _NONE) -> Attach:
        kind = "rbind" if self.recursive else "bind"
        return Attach(kind, _target(self.target), (absolute(self.source),), (), _attributes(self.read_only))


@dataclass(frozen=True)
class Tmpfs(Mount):
    """A new, empty file system in memory. `size` is its limit in bytes; None is half of the memory. `mode` is of its root.

    Raises:
        ValueError: a size or a mode that the kernel would take for another.
    """

    target: StrOrBytesPath
    _: KW_ONLY
    size: int | None = None
    mode: int = 0o1777
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not 0 < self.size < 2**63:
            raise ValueError(f"a tmpfs has room for 1 … {2**63 - 1} bytes, not {self.size}")
        if not 0 <= self.mode <= 0o7777:
            raise ValueError(f"a mode is 0 … 0o7777, not {self.mode:#o}")

    def _attach(self, own: Namespace = _NONE) -> Attach:
        options = (f"mode={self.mode:o}", *(() if self.size is None else (f"size={self.size}",)))
        return Attach("tmpfs", _target(self.target), (), options, _attributes(self.read_only, _USUAL))


@dataclass(frozen=True)
class Overlay(Mount):
    """Several directories as one, of which those in `lower` are never written to.

    What is written goes to `upper`, with `work` as an empty directory on the same file system; without them to a tmpfs, which
    goes when the worker does. With `read_only` nothing can be written. What is mounted below the lower directories does not
    show.

    Raises:
        ValueError: no lower directory, or one of `upper` and `work` without the other.

    Kernel: overlayfs; for plain users since Linux 5.11.
    """

    target: StrOrBytesPath
    lower: Sequence[StrOrBytesPath]
    _: KW_ONLY
    upper: StrOrBytesPath | None = None
    work: StrOrBytesPath | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.lower, str | bytes) or not self.lower:
            raise ValueError("an overlay needs a list of lower directories, the topmost first")
        if (self.upper is None) != (self.work is None):
            raise ValueError("an overlay has both upper and work, or neither")

    def _attach(self, own: Namespace = _NONE) -> Attach:
        options: tuple[str, ...] = ()
        if self.upper is not None and self.work is not None:
            options = f"upperdir={absolute(self.upper)}", f"workdir={absolute(self.work)}"
        return Attach("overlay", _target(self.target), tuple(map(absolute, self.lower)), options, _attributes(self.read_only))


@dataclass(frozen=True)
class Proc(Mount):
    """The processes of the worker's pid namespace.

    As a plain user it takes a pid namespace of the worker's own, and a /proc of which nothing is hidden (as Docker does). With
    `fallback`, the /proc that there is appears where that is refused, and a RuntimeWarning says so.

    For root of the machine, who needs no capability to write there, all that is about the machine and not about a process is
    read-only: `sys`, `irq`, `bus`, `sysrq-trigger`, …. Only `sys/net` can be written to, if the worker has a new network
    namespace. With `kernel_writable` it is as the kernel makes it, so that root can change the machine without a capability.

    Kernel: proc(5). What is read-only here keeps user namespaces inside from mounting a proc (EPERM), as in Docker.
    """

    target: StrOrBytesPath = "/proc"
    _: KW_ONLY
    read_only: bool = False
    fallback: bool = False
    kernel_writable: bool = False

    def _attach(self, own: Namespace = _NONE) -> Attach:
        instead = ("/proc",) if self.fallback else ()
        attributes = _attributes(self.read_only, _USUAL | MountAttribute.NOEXEC)
        covered = not self.kernel_writable and _owns_the_machine()
        return Attach("proc", _target(self.target), instead, (), attributes, covered, Namespace.NETWORK in own)


@dataclass(frozen=True)
class Sysfs(Mount):
    """The devices of the worker's network namespace, and of the machine. `fallback` and `kernel_writable` are as for `Proc`.

    As a plain user it takes a network namespace of the worker's own. For root of the machine all is read-only but the network
    devices (below devices/virtual/net) of a new network namespace.
    """

    target: StrOrBytesPath = "/sys"
    _: KW_ONLY
    read_only: bool = False
    fallback: bool = False
    kernel_writable: bool = False

    def _attach(self, own: Namespace = _NONE) -> Attach:
        instead = ("/sys",) if self.fallback else ()
        attributes = _attributes(self.read_only, _USUAL | MountAttribute.NOEXEC)
        covered = not self.kernel_writable and _owns_the_machine()
        return Attach("sysfs", _target(self.target), instead, (), attributes, covered, Namespace.NETWORK in own)


@dataclass(frozen=True)
class Dev(Mount):
    """A /dev with full, null, random, tty, urandom and zero, an empty shm, and terminals (pts) of its own."""

    target: StrOrBytesPath = "/dev"

    def _attach(self, own: Namespace = _NONE) -> Attach:
        return Attach("dev", _target(self.target), (), (), MountAttribute.NOSUID.value)


def _owns_the_machine() -> bool:
    """Whether the app is root of the machine, as whom the kernel lets it write; root of a user namespace mostly is not.

    KERNEL: where that root is not mapped, its files show another owner, 65534.
    """
    try:
        return os.stat("/proc/sys").st_uid == os.geteuid()
    except OSError:
        return os.geteuid() == 0


def _attributes(read_only: bool, others: MountAttribute = MountAttribute(0)) -> int:  # noqa: B008
    return (others | MountAttribute.RDONLY if read_only else others).value


def _target(path: StrOrBytesPath) -> str:
    target = text(path)
    if not target.startswith("/"):
        raise ValueError(f"{target!r} is no absolute path, which the target of a mount must be")
    return target if posixpath.normpath(target).strip("/") else "/"
