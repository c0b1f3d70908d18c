"""newuidmap(1) and newgidmap(1): the setuid programs that write maps of subordinate ids for a plain user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from subprocess import DEVNULL, CompletedProcess
from typing import TYPE_CHECKING

from anyio import to_thread

from aions._types import UserMapping

if TYPE_CHECKING:
    from aions._app.worker import Worker

PROGRAMS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}

Launch = Callable[[], Awaitable["Worker"]]
"""Forks a worker where the app is. It is closed by whoever has it forked."""


async def write(pid: int, file: str, mappings: Sequence[UserMapping], launch: Launch, refused: PermissionError) -> None:
    """Have a map of a process written by the program for that file.

    Raises:
        PermissionError: the one that `refused` the plain way, with a note of why this way did not work either.
    """
    program = await to_thread.run_sync(shutil.which, PROGRAMS[file])
    if program is None:
        refused.add_note(
            f"A plain user needs {PROGRAMS[file]} for this, and it is not installed. Remedy: Debian package uidmap."
        )
        raise refused
    launcher = await launch()
    try:
        done = await _run(launcher, program, pid, mappings)
    finally:
        await launcher.aclose()
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        refused.add_note(
            f"{program}, which helps a plain user with subordinate ids, ended with status {done.returncode}: {said} "
            f"Remedy: see /etc/subuid and /etc/subgid; it does nothing under no_new_privs or without its setuid bit."
        )
        raise refused


async def _run(launcher: Worker, program: str, pid: int, mappings: Sequence[UserMapping]) -> CompletedProcess[bytes]:
    """Name the process by a descriptor of its /proc directory; by its pid where that is not understood (shadow before 4.14)."""
    numbers = [str(number) for mapping in mappings for number in (mapping.inside, mapping.outside, mapping.count)]
    directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target in (f"fd:{directory}", str(pid)):
            done = await launcher.run_process(
                [program, target, *numbers], stdin=DEVNULL, pass_fds=[directory], check=False, cwd="/"
            )
            if not done.stderr.startswith(b"usage:"):
                break
    finally:
        os.close(directory)
    return done
