"""Running the command that was asked for, as if it had been run without us: its terminal, its signals, its exit status."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import anyio

from aions import Process, Worker

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""What a terminal sends to the whole process group: a command in ours has it already."""

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Ended:
    """How a command has ended."""

    returncode: int

    def leave_likewise(self) -> NoReturn:
        """End this process the same way: with the same status, or by the same signal (without a core of its own)."""
        if self.returncode < 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if self.returncode != -signal.SIGKILL:
                signal.signal(-self.returncode, signal.SIG_DFL)
            os.kill(os.getpid(), -self.returncode)
        sys.exit(self.returncode if self.returncode >= 0 else 128 - self.returncode)


async def run(
    worker: Worker,
    command: Sequence[str],
    user: int | None = None,
    group: int | None = None,
    extra_groups: Iterable[int] | None = None,
) -> Ended:
    """Run a command with the streams of this process, and pass signals on to it.

    Signals are held from before it starts, so that none that is meant for it ends this process instead.
    """
    with anyio.open_signal_receiver(*_FROM_TERMINAL, *_PASSED_ON) as signals:
        process = await worker.open_process(
            command, stdin=None, stdout=None, stderr=None, user=user, group=group, extra_groups=extra_groups
        )
        async with process, anyio.create_task_group() as tasks:
            tasks.start_soon(_pass_on, signals, process)
            ended = Ended(await process.wait())
            tasks.cancel_scope.cancel()
    return ended


async def _pass_on(signals: AsyncIterator[signal.Signals], process: Process) -> None:
    try:
        has_terminal_signals = os.getpgid(process.pid) == os.getpgrp()
    except ProcessLookupError:
        return  # it has ended
    async for number in signals:
        if number not in _FROM_TERMINAL or not has_terminal_signals:
            process.send_signal(number)
