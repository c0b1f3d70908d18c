"""The values that every layer of the app may use: kinds of namespace, identities, mappings, clocks."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Namespace(enum.Flag, boundary=enum.STRICT):
    """The eight kinds of namespace; several are joined with `|`.

    The values are the kernel's CLONE_NEW* flags. `Namespace("net")` takes the kernel's name, the one under /proc/PID/ns.

    Kernel: namespaces(7).
    """

    TIME = 0x00000080
    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NETWORK = 0x40000000

    @classmethod
    def _missing_(cls, value: object) -> Namespace:
        if isinstance(value, str):
            for namespace, name in _KERNEL_NAMES.items():
                if value == name:
                    return namespace
            raise ValueError(f"{value!r} is no namespace; the kernel knows {', '.join(_KERNEL_NAMES.values())}")
        found = super()._missing_(value)
        assert isinstance(found, cls)
        return found

    @property
    def kernel_name(self) -> str:
        """The name of one kind under /proc/PID/ns: "net" for NETWORK, "mnt" for MOUNT.

        Raises:
            ValueError: several kinds, or none.
        """
        try:
            return _KERNEL_NAMES[self]
        except KeyError:
            raise ValueError(f"{self!r} is not one namespace") from None


_KERNEL_NAMES = {
    Namespace.CGROUP: "cgroup",
    Namespace.IPC: "ipc",
    Namespace.MOUNT: "mnt",
    Namespace.NETWORK: "net",
    Namespace.PID: "pid",
    Namespace.TIME: "time",
    Namespace.USER: "user",
    Namespace.UTS: "uts",
}

EVERY_KIND = ~Namespace(0)

NamespaceLike = Namespace | str
"""One kind, or a union of kinds; a string is the kernel's name of one."""

Namespaces = NamespaceLike | Iterable[NamespaceLike]
"""Kinds of namespace, in whichever form is at hand."""


def combine(namespaces: Namespaces) -> Namespace:
    """Make one flag of several namespaces.

    Raises:
        ValueError: there are none, or one is unknown.
        TypeError: one is neither a `Namespace` nor a string.
    """
    combined = Namespace(0)
    for namespace in [namespaces] if isinstance(namespaces, Namespace | str) else namespaces:
        if not isinstance(namespace, Namespace | str):
            raise TypeError(f"{namespace!r} is neither a Namespace nor the kernel's name of one")
        combined |= Namespace(namespace)
    if not combined:
        raise ValueError("no namespaces were named")
    return combined


@dataclass(frozen=True)
class NamespaceID:
    """What tells one namespace from all others. Prints as the kernel does: `net:[4026531840]`.

    `device` and `inode` are unique among the namespaces that live now; the kernel uses an inode again as soon as its
    namespace is gone. `id` is never used again while the machine runs; None where the kernel has no NS_GET_ID (before 6.18).
    """

    type: Namespace
    device: int
    inode: int
    id: int | None = None

    def __str__(self) -> str:
        return f"{self.type.kernel_name}:[{self.inode}]"


_HIGHEST_ID = 2**32 - 2
"""4294967295 is (uid_t) -1, "no id"; the kernel refuses it."""


@dataclass(frozen=True)
class UserMapping:
    """`count` user ids from `inside` on, in the namespace, are those from `outside` on in its parent.

    Raises:
        ValueError: an id outside 0 … 4294967294. The kernel cuts larger numbers to 32 bits without a word, so that 2**32
            would be root of the host.

    Kernel: user_namespaces(7).
    """

    inside: int
    outside: int
    count: int

    def __post_init__(self) -> None:
        for name in ("inside", "outside", "count"):
            if type(getattr(self, name)) is not int:
                raise TypeError(f"{self!r}: {name} must be an int")
        if self.count < 1:
            raise ValueError(f"{self!r}: count must be at least 1")
        for name in ("inside", "outside"):
            first = getattr(self, name)
            if first < 0 or first + self.count - 1 > _HIGHEST_ID:
                raise ValueError(f"{self!r}: {name} ids must lie within 0 … {_HIGHEST_ID}")


@dataclass(frozen=True)
class GroupMapping(UserMapping):
    """The same as `UserMapping`, for group ids."""


class Clock(enum.Enum):
    """The clocks that a time namespace can offset. The values are the kernel's names.

    Kernel: time_namespaces(7), Linux 5.6.
    """

    MONOTONIC = "monotonic"
    BOOTTIME = "boottime"


@dataclass(frozen=True)
class FileDescriptor:
    """The number of a descriptor, where a bare int would be taken for a pid: `open_namespace(FileDescriptor(pidfd), "net")`.

    Owns nothing.
    """

    number: int

    def fileno(self) -> int:
        """Return the number."""
        return self.number
