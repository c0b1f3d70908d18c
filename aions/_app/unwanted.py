"""Getting rid of what came from a worker and nobody wants: closing it may wait for somebody, and the event loop must not."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")

_NO_LINGER = struct.pack("ii", 0, 0)


def close_unwanted(descriptors: Iterable[int]) -> None:
    """Close descriptors, without waiting for whoever serves them (a FUSE server), or takes what was not sent (SO_LINGER)."""
    slow = [descriptor for descriptor in descriptors if not _closed_at_once(descriptor)]
    if slow:
        threading.Thread(target=lambda: list(map(os.close, slow)), name="aions: close", daemon=True).start()


def _closed_at_once(descriptor: int) -> bool:
    """Close what is no file with a path."""
    with suppress(OSError):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.startswith("/") and not name.startswith("/memfd:"):
            return False
    try:
        with socket.socket(fileno=descriptor) as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:  # it is none
        os.close(descriptor)
    return True


async def opened_in_thread(opened: Callable[[], T], close: Callable[[T], object], limiter: CapacityLimiter | None = None) -> T:
    """Open something in a thread, which may wait for a file server; when cancelled, leave it to that thread to close it."""
    lock = threading.Lock()
    is_given_up = False
    results: list[T] = []

    def open_it() -> T:
        result = opened()
        with lock:
            results.append(result)
            if is_given_up:
                close(result)
        return result

    try:
        return await to_thread.run_sync(open_it, abandon_on_cancel=True, limiter=limiter)
    except BaseException:
        with lock:
            is_given_up = True
            if results:
                threading.Thread(target=close, args=results, name="aions: close", daemon=True).start()
        raise
