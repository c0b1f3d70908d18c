"""What a test has started, and what that has started: found by a mark that fork and exec hand on.

KERNEL: the mark is a limit, RLIMIT_RTTIME, so high that it limits nothing. Anybody may read the limits of any process; not so
its environment: not that of a worker, which shows nothing of itself (PR_SET_DUMPABLE).
"""

from __future__ import annotations

import itertools
import os
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = 2**20
_RUN = secrets.randbits(40) * _NUMBERS
_numbers = itertools.count(1)

NONE = resource.RLIM_INFINITY
"""For what outlives single tests."""


def new_mark() -> int:
    """Return a mark for a part of what this run starts."""
    return _RUN + next(_numbers) % _NUMBERS


@contextmanager
def bearing(mark: int) -> Iterator[None]:
    """Have what is started in the block bear a mark."""
    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    resource.setrlimit(resource.RLIMIT_RTTIME, (mark, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_RTTIME, before)


def bear_mark_of_run() -> None:
    """Have all that this process starts bear the mark of this run."""
    resource.setrlimit(resource.RLIMIT_RTTIME, (_RUN, resource.getrlimit(resource.RLIMIT_RTTIME)[1]))


def marked(mark: int | None = None) -> set[int]:
    """Return the processes that bear a mark, or any of this run; not this process, and no zombies."""
    return {pid for pid in _others() if _is_marked(pid, mark) and not _is_zombie(pid)}


def _others() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and name != str(os.getpid()))


def _is_marked(pid: int, mark: int | None) -> bool:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return False
    value = next(line.split()[3] for line in lines if line.startswith("Max realtime timeout"))
    if not value.isdecimal():
        return False
    return int(value) == mark if mark is not None else int(value) // _NUMBERS * _NUMBERS == _RUN


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
