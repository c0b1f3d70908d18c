"""Tracebacks without source lines, and without a look at the file system."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from aions._worker.traceback import describe, describe_all


def caught(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


def fail() -> None:
    raise ValueError


def fail_deeper() -> None:
    fail()


def test_a_traceback_is_pythons_own_but_for_the_code() -> None:
    error = caught(fail_deeper)
    frames = [text.splitlines()[0] for text in traceback.format_tb(error.__traceback__)]
    assert describe(error.__traceback__).splitlines() == frames
    assert [frame.rpartition(" ")[2] for frame in frames] == ["caught", "fail_deeper", "fail"]


def test_no_traceback_is_nothing() -> None:
    assert describe(None) == ""


def test_the_source_file_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "planted"
    os.mkfifo(fifo)  # to open it would take for ever
    error = caught(lambda: exec(compile("\n\n1 / 0", str(fifo), "exec")))
    assert describe(error.__traceback__).splitlines()[-1] == f'  File "{fifo}", line 3, in <module>'


def fail_in_handling() -> None:
    try:
        fail()
    except ValueError:
        raise KeyError("k")  # noqa: B904


def fail_from() -> None:
    try:
        fail()
    except ValueError as error:
        raise KeyError("k") from error


def fail_from_nothing() -> None:
    try:
        fail()
    except ValueError:
        raise KeyError("k") from None


def fail_as_a_group() -> None:
    raise ExceptionGroup("g", [caught(fail), ValueError("never raised")])


def fail_in_a_circle() -> None:
    first, second = KeyError("k"), ValueError()
    first.__cause__, second.__cause__ = second, first
    raise first


class Unspeakable(Exception):
    def __repr__(self) -> str:
        raise self


def fail_unspeakably() -> None:
    raise KeyError("k") from Unspeakable()


@pytest.mark.parametrize(
    ("function", "headings"),
    [
        (fail, []),
        (fail_in_handling, ["ValueError() was being handled before KeyError('k'):"]),
        (fail_from, ["ValueError() was the direct cause of KeyError('k'):"]),
        (fail_from_nothing, []),
        (fail_in_a_circle, ["ValueError() was the direct cause of KeyError('k'):"]),
        (fail_unspeakably, ["Unspeakable was the direct cause of KeyError('k'):"]),
    ],
)
def test_those_that_it_came_from_are_told_too(function: Callable[[], None], headings: list[str]) -> None:
    lines = describe_all(caught(function)).splitlines()
    assert lines[0] == "Traceback in the worker (most recent call last):"
    assert [line for line in lines[1:] if not line.startswith("  File ")] == headings


def test_those_that_are_in_a_group_are_told_too() -> None:
    *_, first, frame, deeper, second = describe_all(caught(fail_as_a_group)).splitlines()
    assert first.startswith("ValueError() is one of ExceptionGroup('g'")
    assert (frame.endswith("in caught"), deeper.endswith("in fail")) == (True, True)
    assert second.startswith("ValueError('never raised') is one of ")
