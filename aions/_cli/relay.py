"""A pseudo-terminal between the caller's terminal and a command, so that what the command does at a terminal stays there.

Rule 1. The command gets no descriptor of the caller's terminal, and its session is another one. SECURITY: else it could type
        into the shell that called us (TIOCSTI, TIOCLINUX), and read what is typed for it.
Rule 2. The caller's terminal is in raw mode, and read from, only while we hold it; we hold it only while we are in its
        foreground. Its modes are those from before whenever we do not.
Rule 3. What the command has written is on the caller's terminal before we end.
"""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from contextlib import suppress
from typing import Any

import anyio

from aions import Worker
from aions._sys import terminals

_OUTPUT, _LOCAL, _CHARACTERS = 1, 3, 6
"""Where tcgetattr has some of the flags, and the characters that do something."""

_SECONDS_TO_NOTICE = 0.1
_CHUNK = 65536
_SMALL_CHUNK = 256
"""KERNEL: a terminal is writable if it has that much room; more may block, where it cannot be told not to."""

_LAST = 2 * 65536
"""More than a terminal holds. KERNEL: TTYB_DEFAULT_MEM_LIMIT, N_TTY_BUF_SIZE."""

_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC


class Relay:
    """Copies between a terminal of the caller's and a new one, whose `slave` is for the command.

    Args:
        streams: numbers of our descriptors that are this terminal.
        master: the new one's other end.
    """

    def __init__(self, streams: list[int], master: int) -> None:
        self.held = False
        self.slave = self._reading = self._writing = -1
        self._master = master
        self._before: list[Any] | None = None
        self._raw: list[Any] | None = None
        self._taken = anyio.Event()
        self._pause = anyio.CancelScope()
        self._has_modes = False
        self._typed = b""
        self._left: int | None = None
        try:
            self.slave = terminals.open_slave(master)
            self._reading, self._writing, self._may_block = _opened_again(streams)
        except BaseException:
            self.close()
            raise
        self._leave_output_alone()
        self.take_size()

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in {self._master, self.slave, self._reading, self._writing} - {-1}:
            os.close(descriptor)

    def is_ours(self) -> bool:
        """Whether we may use the caller's terminal: we are in its foreground, or it is not our session's."""
        try:
            return os.tcgetpgrp(self._reading) == os.getpgrp()
        except OSError:
            return True

    def _leave_output_alone(self) -> None:
        """Write no carriage returns: the caller's terminal, which is not in raw mode yet, will."""
        modes = termios.tcgetattr(self.slave)
        modes[_OUTPUT] &= ~termios.OPOST
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    def take_modes(self) -> None:
        """Give the new terminal the modes of the caller's, once. Those that it has while a shell waits are the shell's."""
        if not self._has_modes:
            with suppress(termios.error):  # it is gone
                termios.tcsetattr(self.slave, termios.TCSANOW, termios.tcgetattr(self._reading))
            self._has_modes = True

    def hold(self) -> None:
        """Take the caller's terminal: from now on all that is typed is the command's."""
        self.take_modes()
        with suppress(termios.error):
            modes = termios.tcgetattr(self._reading)
            if modes != self._raw:  # else whoever stopped us has left it as it was
                self._before = list(modes)
                self._typed += self._typed_ahead(modes)
            self._raw = _raw(modes)
            _set_modes(self._reading, self._raw)
        self.take_size()
        self.held = True
        self._taken.set()

    def _typed_ahead(self, modes: list[Any]) -> bytes:
        """Take the lines that were typed before. KERNEL: read in raw mode, an end of file among them would be a zero byte."""
        typed = b""
        if modes[_LOCAL] & termios.ICANON and not self._may_block:
            with suppress(OSError):  # EAGAIN: that was all
                while len(typed) < _LAST:
                    typed += os.read(self._reading, _CHUNK) or modes[_CHARACTERS][termios.VEOF]
        return typed

    def release(self) -> None:
        """Give the caller's terminal back, unless somebody else has it by now."""
        if self.held and self._before is not None and self.is_ours():
            with suppress(termios.error):
                _set_modes(self._reading, self._before)
        self.forget()

    def forget(self) -> None:
        """Take note that somebody else may have had the terminal: we may have been stopped without being asked."""
        self.held = False
        if self._taken.is_set():
            self._taken = anyio.Event()

    def take_size(self) -> None:
        """Give the new terminal the size of the caller's; the kernel tells who is in its foreground."""
        with suppress(OSError):
            size = fcntl.ioctl(self._writing, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    async def copy_input(self) -> None:
        """Copy what is typed while we hold the caller's terminal; return when that has been hung up."""
        while True:
            await self._taken.wait()
            typed, self._typed = self._typed, b""
            await _write(self._master, typed, _CHUNK)
            await anyio.wait_readable(self._reading)
            if not (self.held and self.is_ours()):
                await anyio.sleep(_SECONDS_TO_NOTICE)
                continue
            try:
                typed = os.read(self._reading, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not typed:
                return
            await _write(self._master, typed, _CHUNK)

    async def copy_output(self) -> None:
        """Copy what is written, until `finish` was called and all is copied that was written before that."""
        while self._left is None or self._left > 0:
            if self._left is None:
                with self._pause:
                    await anyio.wait_readable(self._master)
                self._pause = anyio.CancelScope()
            try:
                written = os.read(self._master, _CHUNK)
            except BlockingIOError:  # KERNEL: nothing is under way any more either; n_tty_read flushes that first
                if self._left is not None:
                    return
                continue
            if self._left is not None:
                self._left -= len(written)
            with suppress(OSError):  # the caller's terminal is gone, as it would be for the command
                await _write(self._writing, written, _SMALL_CHUNK if self._may_block else _CHUNK)

    def finish(self) -> None:
        """Have `copy_output` return once there is no more. What others go on writing may never end."""
        self._left = _LAST
        self._pause.cancel()


async def opened(worker: Worker, streams: list[int]) -> Relay:
    """Make a relay for a terminal of the caller's; the command's is, if possible, one of its own /dev, where it has a name.

    Raises:
        OSError: neither there nor here is there another terminal.
    """
    try:
        return Relay(streams, await worker.open("/dev/ptmx", _FLAGS))
    except OSError:  # its /dev is not one that was made for it
        return Relay(streams, os.open("/dev/ptmx", _FLAGS))


def _opened_again(streams: list[int]) -> tuple[int, int, bool]:
    """Open a terminal for reading and for writing; return also whether writing may block.

    The shell's own descriptor must not be made non-blocking, since that would hold for the shell as well.
    """
    for number in streams:
        with suppress(OSError):  # EACCES: su(1) leaves the terminal to who it belongs to
            again = os.open(f"/proc/self/fd/{number}", _FLAGS)
            return again, again, False
    return fcntl.fcntl(streams[0], fcntl.F_DUPFD_CLOEXEC, 3), fcntl.fcntl(streams[-1], fcntl.F_DUPFD_CLOEXEC, 3), True


async def _write(descriptor: int, data: bytes, chunk: int) -> None:
    rest = memoryview(data)
    while rest:
        await anyio.wait_writable(descriptor)
        with suppress(BlockingIOError):
            rest = rest[os.write(descriptor, rest[:chunk]) :]


def _raw(modes: list[Any]) -> list[Any]:
    """Change modes as cfmakeraw(3) does, but for the size of characters."""
    input_, output, control, local, ispeed, ospeed, characters = modes
    input_ &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    input_ &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    output &= ~termios.OPOST
    local &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    characters = [*characters]
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [input_, output, control, local, ispeed, ospeed, characters]


def _set_modes(terminal: int, modes: list[Any]) -> None:
    """Set the modes of a terminal, also if we are in its background by now."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(terminal, termios.TCSADRAIN, modes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
