"""What a user would pick instead of aions, or the least that the kernel and Python can do it in."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL = Path(__file__).with_name("small.py")


@contextmanager
def small_python(work: str) -> Iterator[socket.socket]:
    """Start small.py, and have its socket for the length of a `with` block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-I", "-S", str(SMALL), work, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]):
            theirs.close()
            try:
                yield ours
            finally:
                ours.close()  # which ends it


def round_trip(connection: socket.socket, request_size: int, reply_size: int) -> float:
    """Measure a packet there and another one back."""
    request = reply_size.to_bytes(2, "little") + bytes(request_size - 2)
    start = time.perf_counter()
    connection.send(request)
    connection.recv(65536)
    return time.perf_counter() - start


def fork_and_wait(connection: socket.socket) -> float:
    """Have a small process measure fork, exit and wait."""
    connection.send(b"!")
    return int.from_bytes(connection.recv(8), "little") / 1e9


def start_python() -> float:
    """Measure the start of a Python that does nothing."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return time.perf_counter() - start


def set_network_namespace(nsfd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(nsfd, 0x40000000) == -1:
        raise OSError(ctypes.get_errno(), "setns")


def socket_by_setns(there: int, back: int) -> socket.socket:
    """Move this thread to another network namespace, make a socket there, and move it back."""
    set_network_namespace(there)
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    finally:
        set_network_namespace(back)


def sockets_by_setns(there: list[int], back: int) -> float:
    """Measure a socket in each of several network namespaces, in the least that a thread can do it in."""
    start = time.perf_counter()
    sockets = [socket_by_setns(nsfd, back) for nsfd in there]
    for sock in sockets:
        sock.close()
    return time.perf_counter() - start


def new_network(back: int) -> float:
    """Measure the making of a network namespace that a descriptor holds."""
    return new_networks(back, 1)


def new_networks(back: int, count: int) -> float:
    """Measure the making of several, in the least that a thread can do it in; return the seconds for one."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = []
    start = time.perf_counter()
    for _ in range(count):
        if libc.unshare(0x40000000) == -1:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            set_network_namespace(back)
    seconds = (time.perf_counter() - start) / count
    for nsfd in made:
        os.close(nsfd)
    return seconds
