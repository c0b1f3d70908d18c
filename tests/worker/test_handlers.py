"""Pieces of handlers that need no namespaces."""

from __future__ import annotations

import os

import pytest

from aions._worker.handlers import close_all_but
from tests.worker.apart import apart


@pytest.mark.parametrize("kept", [(), (0, 1, 2), (0, 1, 2, 10), (0, 1, 2, 3, 11), (5,), (0, 900)])
def test_all_descriptors_are_closed_but_those_to_keep(kept: tuple[int, ...]) -> None:
    def worker() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(20):
            if number != null:
                os.dup2(null, number)
        complaints = max(map(int, os.listdir("/proc/self/fd")))
        os.dup2(null, 950)
        close_all_but(*kept, complaints)
        still_open = set()
        for number in range(1000):
            try:
                os.fstat(number)
            except OSError:
                continue
            still_open.add(number)
        assert still_open == {*kept, complaints}

    apart(worker)
