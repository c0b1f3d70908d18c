"""A program that leaves workers open when its event loop ends does so at once, with its own status, and leaves nothing."""

from __future__ import annotations

import time

import pytest

from tests.kernel.programs.counts import times
from tests.kernel.programs.left_open import _GENERATORS
from tests.kernel.programs.running import BACKENDS, Program

AT_ONCE = 1.0
"""Seconds: it takes a hundredth of them, unless the machine is busy; to wait for anything would take several."""

NUMBERS = range(len(_GENERATORS))

LEFT_OPEN: list[tuple[str, ...]] = [
    ("a_worker",),
    ("a_block_that_was_entered_by_hand",),
    ("a_worker_in_namespaces_of_others",),
    ("a_fork",),
    ("a_process",),
    ("a_pipe_that_was_read",),
    ("a_call_that_was_cancelled",),
    *(("a_generator", str(number)) for number in NUMBERS),
    *(("a_generator_that_nobody_keeps", str(number)) for number in NUMBERS),
    ("all_generators",),
    ("everything",),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", LEFT_OPEN, ids=" ".join)
def test_a_program_ends_at_once_whatever_it_leaves_open(backend: str, what: tuple[str, ...]) -> None:
    name, *arguments = what
    for _ in range(times("loops that end")):
        with Program(backend, "left_open", "ends_with", name, "status", *arguments, python=()) as app:
            took = app.report()
            assert app.end() == 7
            assert time.monotonic() - took["now"] < AT_ONCE
            assert took["seconds"] < AT_ONCE
            assert app.left_after(1) == []
            assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_comes_out_whatever_is_left_open(backend: str) -> None:
    with Program(backend, "left_open", "ends_with", "everything", "exception", python=()) as app:
        took = app.report()
        assert app.end() == 1
        assert took["seconds"] < AT_ONCE
        assert app.left_after(1) == []
        assert app.stderr().rstrip().endswith("ArithmeticError")
        assert "RuntimeError" not in app.stderr()
