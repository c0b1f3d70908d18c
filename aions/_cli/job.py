"""Running a command in a session of its own, as a job of the shell that called us.

What the caller's streams are as terminals, the command has a terminal of its own for (`relay`). It starts in the foreground of
that one if we are in the foreground of the caller's; but if one of the streams is a pipe, only once it wants to read from the
terminal or to change it: who is at the other end (`aions run … | less`) may have the terminal meanwhile.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from typing import TextIO

import anyio

from aions import Process, Worker, WorkerDied
from aions._app import sessions
from aions._cli import relay, signals
from aions._cli.ending import Ended
from aions._cli.relay import Relay

_SECONDS_TO_NOTICE = 0.1
_PIDFD_SIGNAL_PROCESS_GROUP = 4
_TO_GIVE_UP = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}


async def run(worker: Worker, command: Sequence[str]) -> Ended:
    """Run a command with the streams of this process, or terminals in their place, and pass on the signals that we get."""
    signals.hold()
    with ExitStack() as stack:
        relays = await _relays(worker, stack)
        main = relays[min(relays)] if relays else None
        job = Job(worker, list(dict.fromkeys(relays.values())), main, wants_terminal=not any(map(_is_pipe, range(3))))
        has_terminal = job.may_have_terminal()
        if main is not None and has_terminal:
            main.take_modes()  # before the command changes them
        await sessions.lead_session(worker._link, None if main is None else main.slave, has_terminal)
        stdin, stdout, stderr = (_stream(number, relays) for number in range(3))
        async with await worker.open_process(command, stdin=stdin, stdout=stdout, stderr=stderr) as process:
            return Ended(await job.run(process))


async def _relays(worker: Worker, stack: ExitStack) -> Mapping[int, Relay]:
    """Make a relay for each terminal among the streams; return them by the numbers of these."""
    found: dict[int, list[int]] = {}
    for number in filter(os.isatty, range(3)):
        found.setdefault(_device(number), []).append(number)
    relays: dict[int, Relay] = {}
    for streams in found.values():
        made = await relay.opened(worker, streams)
        stack.callback(made.close)
        relays |= dict.fromkeys(streams, made)
    return relays


def _device(terminal: int) -> int:
    """Return the number of a terminal; where it was opened as /dev/tty, of that which this is."""
    number = os.fstat(terminal).st_rdev
    if number == os.makedev(5, 0):
        with suppress(OSError):
            return int(signals.stat_of(os.getpid())[4])
    major, minor = os.major(number), os.minor(number)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _is_pipe(number: int) -> bool:
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        return False  # it is closed
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _stream(number: int, relays: Mapping[int, Relay]) -> int | TextIO:
    return relays[number].slave if number in relays else (sys.stdin, sys.stdout, sys.stderr)[number]


class Job:
    """A command as a job: it has the terminal, or waits for it, is stopped and continued together with us.

    Args:
        worker: where it runs.
        relays: of all its terminals.
        main: that of its session, if it has one.
        wants_terminal: whether it is to have that from the start.
    """

    def __init__(self, worker: Worker, relays: Sequence[Relay], main: Relay | None, wants_terminal: bool) -> None:
        self._worker = worker
        self._relays = relays
        self._main = main
        self._wants_terminal = wants_terminal
        self._is_stopped = False

    def may_have_terminal(self) -> bool:
        """Whether it wants the terminal, and the terminal is ours to give."""
        return self._main is not None and self._wants_terminal and self._main.is_ours()

    async def run(self, process: Process) -> int:
        """Attend to a command until it has ended and all that it has written is where it belongs."""
        try:
            if self._main is not None and self.may_have_terminal():
                self._main.hold()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pass_signals, process, tasks.cancel_scope)
                if self._main is not None:
                    tasks.start_soon(self._copy_input, process, self._main)
                    tasks.start_soon(self._watch, process, self._main)
                async with anyio.create_task_group() as outputs:
                    for each in self._relays:
                        outputs.start_soon(each.copy_output)
                    with suppress(WorkerDied):
                        await process.wait()
                    for each in self._relays:
                        each.finish()
                tasks.cancel_scope.cancel()
        finally:
            if self._main is not None:
                self._main.release()
        return await process.wait()

    async def _pass_signals(self, process: Process, all_tasks: anyio.CancelScope) -> None:
        async with aclosing(signals.arriving()) as arriving:
            async for number, code in arriving:
                if process.returncode is not None and number in _TO_GIVE_UP:
                    all_tasks.cancel()  # the caller's terminal does not take what is left
                elif number == signal.SIGWINCH and self._relays:
                    for each in self._relays:
                        each.take_size()
                elif number == signal.SIGCONT:
                    await self._go_on(process)
                else:
                    _send(process, number, to_group=signals.is_terminals(code))
                    if number == signal.SIGTSTP:
                        await self._stop(process)

    async def _copy_input(self, process: Process, main: Relay) -> None:
        await main.copy_input()
        _send(process, signal.SIGHUP, to_group=True)

    async def _watch(self, process: Process, main: Relay) -> None:
        """Notice what nobody tells: who is in the foreground of either terminal, and that the command has stopped."""
        while True:
            await anyio.sleep(_SECONDS_TO_NOTICE)
            if self._is_stopped:
                continue
            if self.may_have_terminal() != main.held:
                await self._settle(main)
            if signals.is_stopped(process.pid):
                if main.is_ours() and not main.held:  # it has asked for the terminal
                    self._wants_terminal = True
                    await self._go_on(process)
                else:
                    await self._stop(process)

    async def _settle(self, main: Relay) -> None:
        """Hold the caller's terminal if that is wanted and possible, and put the command where it belongs accordingly."""
        may_have_it = self.may_have_terminal()
        if may_have_it and not main.held:
            main.hold()
        elif main.held and not may_have_it:
            main.release()
        with suppress(WorkerDied):
            await sessions.set_foreground(self._worker._link, may_have_it)

    async def _stop(self, process: Process) -> None:
        """Stop, as the command has; the shell that we come from takes over. If there is none, the command goes on."""
        if self._main is not None:
            self._main.release()
        self._is_stopped = True  # until SIGCONT arrives
        if not signals.stop():
            await self._go_on(process)

    async def _go_on(self, process: Process) -> None:
        self._is_stopped = False
        if self._main is not None:
            self._main.forget()
            await self._settle(self._main)
        _send(process, signal.SIGCONT, to_group=True)


def _send(process: Process, number: int, *, to_group: bool) -> None:
    """Send a signal to a command, or to its process group. Others' processes (a setuid program) are left alone."""
    with suppress(PermissionError, ProcessLookupError):
        if not to_group:
            process.send_signal(number)
        elif process.returncode is None:
            try:
                signal.pidfd_send_signal(process.pidfd, number, None, _PIDFD_SIGNAL_PROCESS_GROUP)
            except OSError as error:
                if error.errno != errno.EINVAL:  # before Linux 6.9
                    raise
                os.killpg(process.pid, number)
