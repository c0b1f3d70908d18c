"""What a namespace is known by."""

from __future__ import annotations

import fcntl
import os
import struct

from aions._sys.calls import call
from aions._sys.proc import Opened

NS_GET_USERNS, NS_GET_PARENT, NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704
NS_GET_ID = 0x8008B70D


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


def identify_related(proc: int, pid: int, name: str, relation: int) -> tuple[int, int, int | None]:
    """Do the same with the user namespace that owns it (NS_GET_USERNS), or with its parent (NS_GET_PARENT)."""
    with Opened(proc, f"{pid}/ns/{name}", os.O_RDONLY) as nsfd:
        related = call(lambda: f"ioctl({nsfd}, {relation:#x})", fcntl.ioctl, nsfd, relation)
    try:
        return _identify(related)
    finally:
        os.close(related)


def owner_uid(proc: int, pid: int) -> int:
    """Return who made the user namespace of a process, as this process counts users. NS_GET_OWNER_UID."""
    with Opened(proc, f"{pid}/ns/user", os.O_RDONLY) as nsfd:
        answer = call(lambda: f"ioctl({nsfd}, NS_GET_OWNER_UID)", fcntl.ioctl, nsfd, NS_GET_OWNER_UID, bytes(4))
    (uid,) = struct.unpack("I", answer)
    return int(uid)
