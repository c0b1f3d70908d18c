"""Packets arrive whole, with their descriptors, or an error says that they did not; nothing leaks either way."""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from aions._errors import ProtocolError
from aions._wire import fdsocket
from aions._wire.codec import MAX_DESCRIPTORS
from aions._wire.fdsocket import INLINE_LIMIT, LARGEST, Packet, close_all, from_memfd, receive, send, to_memfd
from tests.kernel.programs.counts import times
from tests.wire.full_table import room_for

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def file() -> Iterator[int]:
    """A descriptor to send; its offset shows whether another is of the same open file."""
    descriptor = os.memfd_create("test")
    yield descriptor
    os.close(descriptor)


def is_same_open_file(one: int, other: int) -> bool:
    os.lseek(one, 1234, os.SEEK_SET)
    seen = os.lseek(other, 0, os.SEEK_CUR)
    os.lseek(one, 0, os.SEEK_SET)
    return (seen, os.lseek(other, 0, os.SEEK_CUR)) == (1234, 0)


def say(sock: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send as a foreign program may: without any of our rules."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else [])


def arrived(sock: socket.socket) -> Packet:
    packet = receive(sock, socket.MSG_DONTWAIT)
    assert packet is not None
    return packet


def is_empty(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return True


def fill(sock: socket.socket) -> int:
    """Send numbers until the socket takes no more, and return how many it took."""
    for number in itertools.count():
        try:
            send(sock, b"%d" % number, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return number
    raise AssertionError


LONG = 5 * 2**20
SIZES = [1, INLINE_LIMIT - 1, INLINE_LIMIT, INLINE_LIMIT + 1, 4 * INLINE_LIMIT, LONG]


@pytest.mark.parametrize("count", [0, 3, MAX_DESCRIPTORS])
@pytest.mark.parametrize("size", SIZES)
def test_a_packet_arrives_whole(pair: Pair, file: int, size: int, count: int) -> None:
    data = os.urandom(size)
    send(pair[0], data, [file] * count)
    packet = arrived(pair[1])
    close_all(packet.descriptors)
    assert packet.data == data
    assert packet.intact
    assert len(set(packet.descriptors)) == count


@pytest.mark.parametrize(("size", "inline"), [(INLINE_LIMIT, True), (INLINE_LIMIT + 1, False)])
def test_bytes_over_the_limit_travel_in_a_memfd(pair: Pair, size: int, inline: bool) -> None:
    send(pair[0], bytes(size))
    data, descriptors, _flags, _address = socket.recv_fds(pair[1], size, 10)
    for descriptor in descriptors:
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
        os.close(descriptor)
    assert (data == bytes(size), len(descriptors)) == ((True, 0) if inline else (False, 1))


def test_packets_keep_their_borders_and_their_order(pair: Pair, file: int) -> None:
    for number in range(20):
        send(pair[0], b"%d" % number * (number + 1), [file] * (number % 3))
    for number in range(20):
        packet = arrived(pair[1])
        close_all(packet.descriptors)
        assert (packet.data, len(packet.descriptors)) == (b"%d" % number * (number + 1), number % 3)


@pytest.mark.parametrize("size", [10, INLINE_LIMIT + 1])
def test_a_descriptor_arrives_as_another_of_the_same_open_file(pair: Pair, file: int, size: int) -> None:
    send(pair[0], bytes(size), [file])
    packet = arrived(pair[1])
    assert len(packet.descriptors) == 1
    assert packet.descriptors[0] != file
    assert is_same_open_file(file, packet.descriptors[0])
    close_all(packet.descriptors)


def test_descriptors_keep_their_order(pair: Pair) -> None:
    files = [os.memfd_create(str(number)) for number in range(30)]
    send(pair[0], b"x", files)
    packet = arrived(pair[1])
    assert all(map(is_same_open_file, files, packet.descriptors))
    close_all([*files, *packet.descriptors])


def test_descriptors_are_close_on_exec_however_they_were_sent(pair: Pair, file: int) -> None:
    os.set_inheritable(file, True)
    send(pair[0], b"x", [file])
    packet = arrived(pair[1])
    assert [os.get_inheritable(descriptor) for descriptor in packet.descriptors] == [False]
    close_all(packet.descriptors)


def test_what_was_sent_remains_the_senders(pair: Pair, file: int) -> None:
    send(pair[0], b"x", [file])
    close_all(arrived(pair[1]).descriptors)
    os.fstat(file)


def test_a_packet_beyond_the_largest_is_refused_before_it_is_sent(pair: Pair) -> None:
    with pytest.raises(ProtocolError, match=f"{LARGEST + 1} bytes"):
        send(pair[0], bytes(LARGEST + 1))
    assert is_empty(pair[1])


def test_a_closed_descriptor_is_refused_before_anything_is_sent(pair: Pair, file: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        send(pair[0], b"x", [file, -1])
    assert is_empty(pair[1])


def test_a_full_socket_does_not_block_and_takes_nothing_in_part(pair: Pair) -> None:
    sent = fill(pair[0])
    with pytest.raises(BlockingIOError):
        send(pair[0], b"x", flags=socket.MSG_DONTWAIT)
    assert sent > 0
    assert [arrived(pair[1]).data for _ in range(sent)] == [b"%d" % number for number in range(sent)]
    assert is_empty(pair[1])


def test_a_full_socket_leaves_no_memfd_behind(pair: Pair) -> None:
    fill(pair[0])
    with pytest.raises(BlockingIOError):
        send(pair[0], bytes(INLINE_LIMIT + 1), flags=socket.MSG_DONTWAIT)


def test_an_empty_socket_does_not_block(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        receive(pair[1], socket.MSG_DONTWAIT)


def test_a_peer_that_closed_is_gone_once_its_packets_are_read(pair: Pair) -> None:
    send(pair[0], b"last words")
    pair[0].close()
    assert arrived(pair[1]).data == b"last words"
    assert receive(pair[1]) is None
    assert receive(pair[1]) is None


def test_a_peer_that_closed_without_reading_is_gone(pair: Pair) -> None:
    send(pair[1], b"never read")
    pair[0].close()
    assert receive(pair[1]) is None
    assert receive(pair[1]) is None


def test_what_a_peer_sent_before_it_closed_without_reading_arrives(pair: Pair, file: int) -> None:
    send(pair[1], b"never read")
    send(pair[0], b"last words", [file])
    pair[0].close()
    packet = arrived(pair[1])  # the kernel says ECONNRESET first, although there is something to read
    close_all(packet.descriptors)
    assert packet.data == b"last words"
    assert receive(pair[1]) is None


def test_sending_to_a_peer_that_closed_is_a_broken_pipe(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        send(pair[0], b"x")


@pytest.mark.parametrize("excess", [1, 100_000])
@pytest.mark.parametrize("count", [0, 1, 253])
def test_a_packet_longer_than_any_we_send_is_refused_with_its_descriptors_closed(
    pair: Pair, file: int, excess: int, count: int
) -> None:
    say(pair[0], bytes(INLINE_LIMIT + excess), [file] * count)
    with pytest.raises(ProtocolError, match="longer than any"):
        receive(pair[1])
    send(pair[0], b"the next one")
    assert arrived(pair[1]).data == b"the next one"


@pytest.mark.parametrize("count", [1, 5])
def test_an_empty_packet_counts_as_the_end_and_leaks_no_descriptor(pair: Pair, file: int, count: int) -> None:
    say(pair[0], b"", [file] * count)
    assert receive(pair[1]) is None


def test_an_empty_memfd_leaks_no_descriptor(pair: Pair, file: int) -> None:
    say(pair[0], b"memfd", [file, file])  # the file is a memfd itself, and empty
    assert receive(pair[1]) is None


@pytest.mark.parametrize(("count", "room"), [(1, 0), (2, 0), (2, 1), (3, 2), (100, 50), (252, 0), (252, 251), (253, 252)])
def test_where_some_descriptors_find_no_room_none_is_kept(pair: Pair, file: int, count: int, room: int) -> None:
    say(pair[0], b"data", [file] * count)
    with room_for(room):
        packet = arrived(pair[1])
    assert (packet.data, packet.descriptors, packet.intact) == (b"data", [], False)


def test_descriptors_arrive_all_or_none_whatever_the_room(pair: Pair, file: int) -> None:
    """R13."""
    cases = [(count, room) for count in range(1, MAX_DESCRIPTORS + 2) for room in range(count + 2)]
    for count, room in cases[:: len(cases) // times("rooms for descriptors")]:
        say(pair[0], b"data", [file] * count)
        with room_for(room):
            packet = arrived(pair[1])
        close_all(packet.descriptors)
        assert (packet.data, len(packet.descriptors), packet.intact) == (
            (b"data", count, True) if room >= count else (b"data", 0, False)
        )


def test_packets_of_all_sizes_arrive_whole(pair: Pair) -> None:
    """R15. (An empty packet would be the end.)"""
    data = os.urandom(LONG)
    for size in range(1, LONG + 1, LONG // times("sizes")):
        send(pair[0], data[:size])
        assert arrived(pair[1]).data == data[:size]


@pytest.mark.parametrize("count", [1, 2, 252])
def test_just_enough_room_is_enough(pair: Pair, file: int, count: int) -> None:
    say(pair[0], b"data", [file] * count)
    with room_for(count):
        packet = arrived(pair[1])
    close_all(packet.descriptors)
    assert (len(packet.descriptors), packet.intact) == (count, True)


def test_no_room_for_the_memfd_of_a_long_packet_is_no_protocol_error(pair: Pair, file: int) -> None:
    send(pair[0], bytes(INLINE_LIMIT + 1), [file])
    with room_for(1):
        packet = arrived(pair[1])
    assert (packet.descriptors, packet.intact) == ([], False)


def test_no_room_to_make_a_memfd_is_an_error_of_the_sender(pair: Pair) -> None:
    with room_for(0), pytest.raises(OSError, match="Too many open files"):
        send(pair[0], bytes(INLINE_LIMIT + 1))
    assert is_empty(pair[1])


def not_memfds() -> dict[str, Callable[[], int]]:
    """What a packet said to be in a memfd may come with instead. To read some of these would take for ever."""

    def pipe() -> int:
        reading, writing = os.pipe()
        os.close(writing)
        return reading

    def write_only_memfd() -> int:
        memfd = to_memfd(b"x" * 10)
        try:
            return os.open(f"/proc/self/fd/{memfd}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(memfd)

    return {
        "pipe": pipe,
        "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
        "regular file": lambda: os.open("/proc/version", os.O_RDONLY | os.O_CLOEXEC),
        "directory": lambda: os.open("/", os.O_RDONLY | os.O_CLOEXEC),
        "device": lambda: os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC),
        "path": lambda: os.open("/", os.O_PATH | os.O_CLOEXEC),
        "write-only memfd": write_only_memfd,
    }


@pytest.mark.parametrize("kind", not_memfds())
def test_a_memfd_that_is_none_is_refused_with_its_descriptors_closed(pair: Pair, file: int, kind: str) -> None:
    descriptor = not_memfds()[kind]()
    say(pair[0], b"memfd", [file, descriptor])
    os.close(descriptor)
    with pytest.raises(ProtocolError, match="memfd"):
        receive(pair[1])


def test_a_memfd_that_is_missing_is_refused(pair: Pair) -> None:
    say(pair[0], b"memfd", [])
    with pytest.raises(ProtocolError, match="without one"):
        receive(pair[1])


def test_a_memfd_beyond_the_largest_is_refused_unread(pair: Pair) -> None:
    memfd = os.memfd_create("sparse")
    os.ftruncate(memfd, LARGEST + 1)
    say(pair[0], b"memfd", [memfd])
    os.close(memfd)
    with pytest.raises(ProtocolError, match=f"memfd of {LARGEST + 1} bytes"):
        receive(pair[1])


def test_a_memfd_beyond_the_largest_is_read_where_that_was_asked_for() -> None:
    memfd = to_memfd(b"0123456789")
    assert from_memfd(memfd, largest=None) == from_memfd(memfd, largest=10) == b"0123456789"
    with pytest.raises(ProtocolError):
        from_memfd(memfd, largest=9)
    os.close(memfd)


def test_a_memfd_is_read_from_its_beginning_wherever_its_offset_stands() -> None:
    memfd = to_memfd(b"0123456789")
    os.lseek(memfd, 5, os.SEEK_SET)
    assert from_memfd(memfd) == b"0123456789"
    os.close(memfd)


def test_a_memfd_is_close_on_exec() -> None:
    memfd = fdsocket.to_memfd(b"")
    assert not os.get_inheritable(memfd)
    os.close(memfd)
