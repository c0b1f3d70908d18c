"""Tracebacks without source lines, and without a look at the file system."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from aions._worker.traceback import describe


def caught(function: Callable[[], object]) -> BaseException:
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
