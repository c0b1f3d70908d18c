"""Running the command that was asked for, as if it had been run without us: its terminal, its signals, its exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress

import anyio

from aions import Process, Worker, WorkerDied
from aions._cli import signals
from aions._cli.ending import Ended, Ending

_SECONDS_TO_NOTICE = 0.1


async def run(
    worker: Worker,
    command: Sequence[str],
    *,
    kept_back: Collection[int] = (),
    ending: Ending | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
    extra_groups: Iterable[int] | None = None,
    keep_capabilities: bool = False,
) -> Ended:
    """Run a command with the streams of this process, and pass on to it the signals that this process gets.

    Args:
        worker: where it runs.
        command: program and arguments.
        kept_back: signals that are not passed on, and do nothing.
        ending: what the command is told, by a signal, when it has happened.
        cwd: as in `Worker.open_process`.
        env: likewise.
        user: likewise.
        group: likewise.
        extra_groups: likewise.
        keep_capabilities: likewise.
    """
    signals.hold()
    async with await worker.open_process(
        command,
        stdin=sys.stdin,  # explicitly: a terminal is handed over also to where a command does not get it by itself
        stdout=sys.stdout,
        stderr=sys.stderr,
        cwd=cwd,
        env=env,
        user=user,
        group=group,
        extra_groups=extra_groups,
        keep_capabilities=keep_capabilities,
    ) as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pass_on, process, kept_back)
            if os.isatty(0):
                tasks.start_soon(_stop_likewise, process)
            if ending is not None:
                tasks.start_soon(_tell_of, ending, process)
            with suppress(WorkerDied):
                await process.wait()
            tasks.cancel_scope.cancel()
        return Ended(await process.wait())


async def _pass_on(process: Process, kept_back: Collection[int]) -> None:
    async with aclosing(signals.arriving()) as arriving:
        async for number, code in arriving:
            has_it = signals.is_terminals(code) and _is_in_our_group(process)
            if not has_it and number not in kept_back:
                _send(process, number)
            if number == signal.SIGTSTP and not signals.stop():
                _send(process, signal.SIGCONT)


async def _stop_likewise(process: Process) -> None:
    """Stop when the command has stopped by itself (a shell's `suspend`): the shell that we come from takes over then."""
    while True:
        await anyio.sleep(_SECONDS_TO_NOTICE)
        if signals.is_stopped(process.pid) and signals.stop():
            _send(process, signal.SIGCONT)


async def _tell_of(ending: Ending, process: Process) -> None:
    await anyio.wait_readable(ending.pidfd)
    _send(process, ending.signal)


def _send(process: Process, number: int) -> None:
    with suppress(PermissionError):  # it has become another user's, by a setuid program
        process.send_signal(number)


def _is_in_our_group(process: Process) -> bool:
    """Whether the command, too, gets what a terminal sends to our process group."""
    try:
        return os.getpgid(process.pid) == os.getpgrp()
    except ProcessLookupError:
        return False  # it has ended
