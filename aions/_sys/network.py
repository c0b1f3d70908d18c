"""What a network namespace needs before anything works in it."""

from __future__ import annotations

import _socket as socket
import fcntl
import struct

from aions._sys.calls import call

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def set_loopback_up() -> None:
    """Set lo up in the network namespace that this process is in. It then has 127.0.0.1 and ::1."""
    interface = struct.pack("16sH22x", b"lo", _IFF_UP)
    text = 'ioctl(SIOCSIFFLAGS, {ifr_name="lo", ifr_flags=IFF_UP})'
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        call(lambda: text, fcntl.ioctl, sock.fileno(), _SIOCSIFFLAGS, interface)
    finally:
        sock.close()
