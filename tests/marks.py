"""A mark on everything that a test starts, whatever becomes of it: so that what is left can be found.

It is a soft limit that no other process has, that of CPU time under real-time scheduling (RLIMIT_RTTIME), which concerns
nothing here. An environment would not do: workers have none. KERNEL: fork, exec, setsid and changes of credentials hand limits
on, and everybody may read those of every process (/proc/PID/limits).
"""

from __future__ import annotations

import itertools
import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMIT = resource.RLIMIT_RTTIME
_LINE = b"Max realtime timeout"

_BITS_FOR_PROGRAMS = 24
_RUN = uuid.uuid4().int % 2**32 + 2**32 << _BITS_FOR_PROGRAMS
"""This run of the tests: no other one has the same, of those that go on at the same time."""

_numbers = itertools.count(1)


def new_mark() -> int:
    """Return a mark for a program that a test starts, and for all that this one starts: no other has the same."""
    return _RUN + next(_numbers)


@contextmanager
def marking(mark: int | None = _RUN) -> Iterator[None]:
    """Have what is started in a `with` block bear a mark; with None, bear none and so be left out of every search."""
    before = resource.getrlimit(_LIMIT)
    mark_this_process(mark)
    try:
        yield
    finally:
        resource.setrlimit(_LIMIT, before)


def mark_this_process(mark: int | None = _RUN) -> None:
    """Have what this process starts from now on bear a mark."""
    hard = resource.getrlimit(_LIMIT)[1]
    resource.setrlimit(_LIMIT, (hard if mark is None else mark, hard))


def of_this_run() -> set[int]:
    """Return the processes that bear the mark of this run, or of a program that it started. No zombies."""
    return {pid for pid, mark in _marks() if mark >> _BITS_FOR_PROGRAMS == _RUN >> _BITS_FOR_PROGRAMS}


def of_program(wanted: int) -> set[int]:
    """Return the processes that bear the mark of one program. No zombies."""
    return {pid for pid, mark in _marks() if mark == wanted}


def _marks() -> Iterator[tuple[int, int]]:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            limit = (directory / "limits").read_bytes().rpartition(_LINE)[2].split(maxsplit=1)[0]
            if limit != b"unlimited" and (directory / "stat").read_text().rpartition(") ")[2][0] not in "ZX":
                yield int(directory.name), int(limit)
        except (OSError, IndexError):
            pass  # it has ended meanwhile
