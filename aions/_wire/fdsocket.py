"""Packets of bytes and descriptors over a SOCK_SEQPACKET socket: each arrives whole, or an error says that it did not.

Rule 1. Every descriptor received is close-on-exec from the start.
Rule 2. A packet that was cut keeps none of its descriptors open.
Rule 3. Bytes beyond INLINE_LIMIT travel in a memfd, which comes last among the descriptors.
"""

from __future__ import annotations

import _socket as socket  # without the enums of `socket`, which take longer to import than all the rest of a worker
import array
import errno
import fcntl
import os

from aions._errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DONTWAIT: int = socket.MSG_DONTWAIT
INLINE_LIMIT = 64 * 1024
LARGEST = 256 * 1024 * 1024
"""More than any request needs."""
LARGEST_REPLY = 1024 * 1024
"""More than any reply needs; what is longer travels in descriptors of its own.

SECURITY: a worker may lie. JSON of this size takes the app a tenth of a second to read, whatever is in it.
"""

A_WHILE = 0.001
"""Seconds until it is worth while to try again where too many descriptors were under way: nobody is told when they are not."""

_IN_MEMFD = b"memfd"
_MSG_CMSG_CLOEXEC = 0x40000000
_CONTROL = socket.CMSG_SPACE(253 * 4)


class Packet:
    """What arrived. `intact` is False where descriptors were lost, as happens when the receiver's table is full (EMFILE).

    `log` is set by decoding it, where it has one.
    """

    def __init__(self, data: bytes, descriptors: list[int], intact: bool = True) -> None:
        self.data = data
        self.descriptors = descriptors
        self.intact = intact
        self.log: list[str] | None = None


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    """Send one packet. The descriptors remain the caller's.

    Raises:
        BlockingIOError: the socket is full (with MSG_DONTWAIT).
        OSError: as sendmsg(2); EPIPE or ECONNRESET where the other side is gone. ETOOMANYREFS: a plain user has more
            descriptors under way, in all sockets together, than RLIMIT_NOFILE lets a process have.
        ProtocolError: the packet is larger than LARGEST.
    """
    if len(data) > LARGEST:
        raise ProtocolError(f"a message of {len(data)} bytes is more than can be sent ({LARGEST})")
    memfd = None
    try:
        if len(data) > INLINE_LIMIT:
            memfd = to_memfd(data)
            data, descriptors = _IN_MEMFD, [*descriptors, memfd]
        rights = ((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors)),) if descriptors else ()
        sock.sendmsg((data,), rights, flags)
    except OverflowError:  # no descriptor has such a number
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    finally:
        if memfd is not None:
            os.close(memfd)


def receive(sock: socket.socket, flags: int = 0, largest: int = LARGEST) -> Packet | None:
    """Receive one packet, whose descriptors are then the caller's; None where the other side is gone.

    Raises:
        BlockingIOError: there is none (with MSG_DONTWAIT).
        ProtocolError: it was cut, is larger than `largest`, or its memfd is none.
    """
    try:
        data, control, received, _address = _receive(sock, flags)
    except ConnectionResetError:  # KERNEL: said once where the peer left something unread; what it sent comes after
        data, control, received, _address = _receive(sock, flags)
    packet = Packet(data, [])
    for level, kind, value in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            packet.descriptors += array.array("i", value[: len(value) - len(value) % 4])
    if received & socket.MSG_CTRUNC:
        close_all(packet.descriptors)
        return Packet(data, [], intact=False)
    try:
        if received & socket.MSG_TRUNC or len(data) > INLINE_LIMIT:
            raise ProtocolError("a packet was longer than any that is sent")
        if data == _IN_MEMFD:
            packet.data = _taken_out_of_memfd(packet, largest)
    except BaseException:
        close_all(packet.descriptors)
        raise
    if not packet.data:
        close_all(packet.descriptors)
        return None
    return packet


def _receive(sock: socket.socket, flags: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    return sock.recvmsg(INLINE_LIMIT + 1, _CONTROL, flags | _MSG_CMSG_CLOEXEC)


def _taken_out_of_memfd(packet: Packet, largest: int) -> bytes:
    if not packet.descriptors:
        raise ProtocolError("a packet said to be in a memfd came without one")
    memfd = packet.descriptors.pop()
    try:
        return from_memfd(memfd, largest)
    finally:
        os.close(memfd)


def to_memfd(data: bytes) -> int:
    """Put bytes into a new memfd, which is the caller's."""
    memfd = os.memfd_create("aions")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def from_memfd(memfd: int, largest: int | None = LARGEST) -> bytes:
    """Read all that a memfd holds.

    Raises:
        ProtocolError: it is none, holds more than `largest`, or shrinks while it is read.
    """
    size = memfd_size(memfd, largest)
    try:
        return _read_whole(memfd, size)
    except OSError as error:
        raise ProtocolError(f"no memfd that can be read: {error}") from None


def memfd_size(memfd: int, largest: int | None = LARGEST) -> int:
    """Return how much a memfd holds at the moment; whoever has sent it may change that.

    Raises:
        ProtocolError: it is none, or holds more than `largest`.
    """
    try:
        fcntl.fcntl(memfd, fcntl.F_GET_SEALS)  # SECURITY: EINVAL for whatever else could keep the reader waiting
        size = os.fstat(memfd).st_size
    except OSError as error:
        raise ProtocolError(f"no memfd that can be read: {error}") from None
    if largest is not None and size > largest:
        raise ProtocolError(f"a memfd of {size} bytes is more than is accepted ({largest})")
    return size


def _read_whole(memfd: int, size: int) -> bytes:
    chunks: list[bytes] = []
    offset = 0
    while offset < size:
        chunk = os.pread(memfd, min(size - offset, 2**30), offset)
        if not chunk:
            raise ProtocolError("a memfd shrank while it was read")
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)
