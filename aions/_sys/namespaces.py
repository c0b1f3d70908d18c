"""What a namespace is known by."""

from __future__ import annotations

import fcntl
import os
import struct

from aions._sys.calls import call
from aions._sys.proc import Opened

NS_GET_ID = 0x8008B70D
"""ioctl_nsfs(2), Linux 6.18: a number that is never used again while the machine runs."""


def identify(proc: int, pid: int | str, name: str) -> tuple[int, int, int | None]:
    """Return device and inode of a namespace, and its id where the kernel has NS_GET_ID."""
    with Opened(proc, f"{pid}/ns/{name}", os.O_RDONLY) as nsfd:
        status = os.fstat(nsfd)
        try:
            answer = call(lambda: f"ioctl({nsfd}, NS_GET_ID)", fcntl.ioctl, nsfd, NS_GET_ID, bytes(8))
            (number,) = struct.unpack("Q", answer)
        except OSError:  # ENOTTY: an older kernel
            number = None
        return status.st_dev, status.st_ino, number
