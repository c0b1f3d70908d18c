"""What a namespace is known by."""

from __future__ import annotations

import fcntl
import os
import struct

from aions._sys.calls import call
from aions._sys.proc import Opened

NS_GET_USERNS, NS_GET_PARENT, NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704
NS_GET_ID = 0x8008B70D

NAMES = {
    0x00000080: "time",
    0x00020000: "mnt",
    0x02000000: "cgroup",
    0x04000000: "uts",
    0x08000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid_for_children",
    0x40000000: "net",
}
"""What in /proc/PID/ns shows the namespace that setns(2) changes, by the kernel's flag."""


def identify(proc: int, pid: int | str, name: str) -> tuple[int, int, int | None]:
    """Return device and inode of a namespace, and its id where the kernel has NS_GET_ID."""
    with Opened(proc, f"{pid}/ns/{name}", os.O_RDONLY) as nsfd:
        return _identify(nsfd)


def _identify(nsfd: int) -> tuple[int, int, int | None]:
    status = os.fstat(nsfd)
    try:
        answer = call(lambda: f"ioctl({nsfd}, NS_GET_ID)", fcntl.ioctl, nsfd, NS_GET_ID, bytes(8))
        (number,) = struct.unpack("Q", answer)
    except OSError:  # ENOTTY: an older kernel
        number = None
    return status.st_dev, status.st_ino, number


def identify_related(nsfd: int, relation: int) -> tuple[int, int, int | None]:
    """Do the same with the user namespace that owns one (NS_GET_USERNS), or with its parent (NS_GET_PARENT)."""
    related = call(lambda: f"ioctl({nsfd}, {relation:#x})", fcntl.ioctl, nsfd, relation)
    try:
        return _identify(related)
    finally:
        os.close(related)


def owner_uid(nsfd: int) -> int:
    """Return who made a user namespace, as this process counts users. NS_GET_OWNER_UID."""
    answer = call(lambda: f"ioctl({nsfd}, NS_GET_OWNER_UID)", fcntl.ioctl, nsfd, NS_GET_OWNER_UID, bytes(4))
    (uid,) = struct.unpack("I", answer)
    return int(uid)
