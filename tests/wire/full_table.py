"""A table of descriptors that is as full as a test wants."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Have this process able to open just `count` descriptors more: the lowest free numbers are taken first."""
    free = (number for number in itertools.count() if not _is_open(number))
    limit = next(itertools.islice(free, count, None))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
