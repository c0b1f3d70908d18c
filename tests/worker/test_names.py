"""What a resolver takes from a worker that may lie."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import NoReturn

import pytest

from aions._wire.fdsocket import close_all
from aions._worker import names


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "", "shadow"])
def test_a_resolver_takes_no_files_but_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done in this process, which is no resolver: it would mount over, and write to, the machine's own files."""

    def refuse(*_arguments: object) -> NoReturn:
        raise AssertionError("it went on")

    for function in ("_said", "_cover"):
        monkeypatch.setattr(names, function, refuse)
    monkeypatch.setattr(names, "mounts", SimpleNamespace(mount=refuse))
    with pytest.raises(ValueError, match="not all"):
        names._lay_out(("hosts", name), (-1, -1))


def test_a_resolver_reads_nothing_that_could_keep_it_waiting() -> None:
    reading, writing = os.pipe()
    with pytest.raises(ValueError, match="no contents"):
        names._said(reading)
    close_all((reading, writing))
