"""To be imported by workers: they are without the guard that keeps others from looking into them then."""

from __future__ import annotations

from aions._sys import libc


def _do_nothing(dumpable: int) -> None:
    """Instead of PR_SET_DUMPABLE."""


libc.set_dumpable = _do_nothing
