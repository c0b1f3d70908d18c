"""The terminal, which a shell makes its own and cannot always give back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def given_back() -> Iterator[None]:
    """Be in the foreground of the terminal after the block, if we are before it and whoever was there since is gone.

    A shell with job control puts itself there, and at its end the process group that was there before. KERNEL: from inside a
    pid namespace it cannot, since ours has no number there; nor can one that was killed.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # ENXIO: none
        yield
        return
    try:
        was_ours = os.tcgetpgrp(terminal) == os.getpgrp()
        yield
        if was_ours:
            _take_back(terminal)
    finally:
        os.close(terminal)


def _take_back(terminal: int) -> None:
    try:
        if not _has_members(os.tcgetpgrp(terminal)):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # what tcsetpgrp gets who is in the background
            os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        pass  # the terminal has gone away


def _has_members(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
