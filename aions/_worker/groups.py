"""The app's process group, in which its commands are, so that Ctrl-C and job control reach them."""

from __future__ import annotations

import os

from aions._sys.calls import call
from aions._worker.home import Home


class AppsGroup:
    """Have what is started in a `with` block be in the app's process group, if the app's session is ours.

    Where the group has to be given by its number, that is `number`. KERNEL: setpgid(2) takes numbers of the caller's own pid
    namespace, so in a new one it cannot name the app's group. But a group is inherited: this process is in it for a moment, and
    all that descends from the first process of the namespace stays in it. Workers ignore what terminals send.
    """

    def __init__(self, home: Home, process_group: int, session: int) -> None:
        in_session = session == os.getsid(0)
        by_number = in_session and home.is_pid_namespace_for_children()
        self.number = process_group if by_number else None
        self._there = process_group if in_session and not by_number and home.is_pid_namespace() else 0
        self._before = os.getpgrp()

    def __enter__(self) -> int | None:
        if self._there:
            _set_group(self._there)
        return self.number

    def __exit__(self, *_exception: object) -> None:
        if self._there:
            _set_group(self._before)


def _set_group(number: int) -> None:
    call(lambda: f"setpgid(0, {number})", os.setpgid, 0, number)
