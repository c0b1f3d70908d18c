"""What a relay between two terminals does where a real command seldom brings it to."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import anyio
import pytest

from aions._cli.relay import Relay


@pytest.fixture
def screen() -> Iterator[int]:
    """A terminal that takes everything."""
    master, slave = os.openpty()

    def look() -> None:
        try:
            while os.read(master, 65536):
                pass
        except OSError:
            pass  # EIO: it was closed

    watcher = threading.Thread(target=look)
    watcher.start()
    yield slave
    os.close(slave)
    watcher.join()
    os.close(master)


async def test_after_the_end_who_writes_for_ever_is_left_alone(screen: int) -> None:
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    relay = Relay([screen], master)
    try:
        endless = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(endless, master, inheritable=False)
        os.close(endless)
        relay.finish()
        with anyio.fail_after(10):
            await relay.copy_output()
    finally:
        relay.close()


async def test_what_is_not_a_terminal_closes_nothing_twice(screen: int) -> None:
    with pytest.raises(OSError, match="ioctl"):
        Relay([screen], os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
