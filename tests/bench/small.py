"""A small Python that does on request what aions is measured against; run by exec, as `python -I -S small.py WORK SOCKET`.

SOCKET is the number of an inherited SOCK_SEQPACKET socket; the work ends when its other end is closed. It imports little: what
it measures of itself is what the kernel and Python take, not what the benchmark has loaded.
"""

from __future__ import annotations

import _socket
import os
import sys
import time


def echo(connection: _socket.socket) -> None:
    """Answer each packet with one of as many bytes as its first two say."""
    reply = bytes(65536)
    while request := connection.recv(65536):
        connection.send(reply[: int.from_bytes(request[:2], "little")])


def fork(connection: _socket.socket) -> None:
    """For each packet, fork a child that ends at once, and answer how many nanoseconds it took to have it and to collect it."""
    while connection.recv(1):
        start = time.perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        connection.send((time.perf_counter_ns() - start).to_bytes(8, "little"))


if __name__ == "__main__":
    {"echo": echo, "fork": fork}[sys.argv[1]](_socket.socket(fileno=int(sys.argv[2])))
