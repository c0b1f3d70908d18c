"""One connection to a worker, shared by any number of tasks.

Rule 1. A reply goes to the call whose id it bears, or nowhere: a call that was cancelled drops its reply and closes its
        descriptors, and the connection carries on.
Rule 2. No task is kept for reading. Of the calls that wait, for a reply or until they may send, one reads for all; when it
        leaves, another takes over. Replies that nobody waits for are read before the next request is sent.
Rule 3. At most MAX_UNANSWERED requests are unanswered, those included whose calls were cancelled. What more there are wait for
        their turn, in their order.
Rule 4. So neither side ever waits for the other in a circle. A worker that waits for room in the socket gets it, since whoever
        waits here reads meanwhile; and if nobody waits here, the worker looks after its children until somebody does.
Rule 5. When the other side is gone, every call learns of it.
Rule 6. Most replies come sooner than the event loop goes to sleep and is woken. So it is kept awake for a moment: the call that
        reads looks for them between turns of the loop, in which other tasks do what they have to do. For those that take
        long it goes to sleep at once: a busy CPU slows its neighbours down.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from aions._app import log
from aions._app.unwanted import close_unwanted
from aions._app.waiting import Waiters
from aions._errors import ProtocolError
from aions._wire import codec, fdsocket
from aions._wire.messages import REPLIES, Failed, Rejected, Reply, Request

R = TypeVar("R", bound=Reply)

MAX_UNANSWERED = 64
"""Requests under way on one connection: enough that a worker never waits for the next one.

Their usual replies take a quarter of a socket's buffer (768 bytes of 212,992 each), and what they carry, five descriptors for a
command, a third of what a plain user may have under way (RLIMIT_NOFILE, 1024).
"""

_AT_ONCE = 100
"""Packets to take before other tasks get their turn: a worker must not be able to hold up the event loop."""

_LONGEST_TURN = 0.01
"""Seconds after which they get it in any case."""

_MOMENT = 100e-6
"""Seconds to look for a reply before going to sleep, where the worker has another CPU to work on meanwhile."""

_PATIENCE = 3.0
"""Seconds in which others take out the descriptors that they were sent."""

_ERRNOS = 4096
"""The kernel has no higher ones (MAX_ERRNO)."""


class Disconnected(Exception):
    """The other side is gone."""


class Refused(Exception):
    """The kernel refused what was asked."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed


class _Call:
    """A request that is under way. `moment` is for how many seconds to look for its reply before going to sleep."""

    def __init__(self, moment: float) -> None:
        self.moment = moment
        self.outcome: Reply | Exception | None = None

    def is_over(self) -> bool:
        return self.outcome is not None


class Client:
    """The app's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.name = "worker"
        connection.setblocking(False)
        self._connection = connection
        self._waiters = Waiters()
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._unanswered: dict[int, None] = {}
        self._reading = False
        self._sleeping: dict[_Call, anyio.Event] = {}
        self._next_reader: _Call | None = None
        self._next_sender: _Call | None = None
        self._app = os.getpid()
        self._sending = anyio.Lock()
        self._are_too_many = False
        self._moment = _MOMENT if len(os.sched_getaffinity(0)) > 1 else 0
        self.lost = False

    async def call(self, request: Request, expected: type[R]) -> R:
        """Send a request and return its reply, whose descriptors are then the caller's.

        Raises:
            Refused: the kernel refused.
            ProtocolError: the worker did not understand the request, or we not its reply.
            Disconnected: the other side is gone.
            anyio.ClosedResourceError: this side was closed.
        """
        await checkpoint_if_cancelled()
        return await self.finish(await self.begin(request), expected)

    async def begin(self, request: Request) -> int:
        """Send a request, whose reply `finish` gets; its descriptors may be closed at once."""
        if self._unanswered and not self._reading:
            self._receive_all()
        request_id = next(self._ids)
        data = codec.encode(request_id, request, [] if log.is_wanted() else None)
        self._calls[request_id] = call = _Call(0 if request.take_long else self._moment)
        try:
            if self._sending.locked() or not self._sent(request_id, data, request.descriptors()):
                await self._send_in_turn(call, request_id, data, request.descriptors())
        except BaseException:
            del self._calls[request_id]
            raise
        return request_id

    async def finish(self, request_id: int, expected: type[R]) -> R:
        """Wait for the reply to a request."""
        call = self._calls[request_id]
        try:
            await self._wait_until(call.is_over, call)
        except BaseException:
            self.abandon(request_id)
            raise
        del self._calls[request_id]
        return _checked(call.outcome, expected)

    def abandon(self, request_id: int) -> None:
        """Give up a request that was begun: its reply will be dropped."""
        _discard(self._calls.pop(request_id).outcome)

    def close(self) -> None:
        """Close the connection: calls that wait raise `anyio.ClosedResourceError`. A fork of the app leaves the app's alone."""
        if self._connection.fileno() >= 0:
            if os.getpid() == self._app:
                self._shut_down()
            self._waiters.close(self._connection.detach())
            self._end_all(anyio.ClosedResourceError)

    def _shut_down(self) -> None:
        """Let the other side see the end at once, even if a fork of the app has the socket open as well."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed, or the other side is gone

    async def _send_in_turn(self, call: _Call, request_id: int, data: bytes, descriptors: list[int]) -> None:
        """Send once those before have, few enough are unanswered and there is room; read meanwhile."""
        with _duplicates(descriptors) as held:
            async with self._sending:
                self._next_sender = call
                deadline = time.monotonic() + _PATIENCE
                try:
                    while not call.is_over() and not self._sent(request_id, data, held):
                        if self._are_too_many:
                            await self._make_room(deadline)
                        elif self._may_send():
                            await self._wait_for_room(call)
                        else:
                            await self._wait_until(lambda: call.is_over() or self._may_send(), call)
                finally:
                    self._next_sender = None

    def _may_send(self) -> bool:
        return len(self._unanswered) < MAX_UNANSWERED

    async def _make_room(self, deadline: float) -> None:
        """Wait a moment for descriptors to be taken out; they may be in replies that no call here waits for any more."""
        if time.monotonic() > deadline:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        if not self._reading:
            self._receive_all()
        await anyio.sleep(fdsocket.A_WHILE)

    async def _wait_for_room(self, call: _Call) -> None:
        """Wait until the socket takes more, or the call is over."""

        async def read() -> None:
            with suppress(anyio.ClosedResourceError):
                await self._wait_until(call.is_over, call)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            with suppress(anyio.ClosedResourceError):
                await self._waiters.writable(self._connection.fileno())
            tasks.cancel_scope.cancel()

    def _sent(self, request_id: int, data: bytes, descriptors: list[int]) -> bool:
        """Send unless too many requests are unanswered, the socket is full, or too many descriptors are under way."""
        if self._connection.fileno() < 0:
            raise anyio.ClosedResourceError
        if self.lost:
            raise Disconnected
        self._are_too_many = False
        if not self._may_send():
            return False
        try:
            fdsocket.send(self._connection, data, descriptors, fdsocket.DONTWAIT)
            self._unanswered[request_id] = None
            return True
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True
            raise Disconnected from None
        except OSError as error:
            self._are_too_many = error.errno == errno.ETOOMANYREFS
            if not self._are_too_many:
                raise
            return False

    async def _wait_until(self, is_so: Callable[[], bool], call: _Call) -> None:
        """Wait until something is so that replies bring about: read for everybody, or let another call do it."""
        try:
            while not is_so():
                if self._reading:
                    await self._sleep(call)
                else:
                    await self._read(is_so, call.moment)
        finally:
            if self._sleeping and not self._reading and self._next_reader is None:
                self._next_reader = next(iter(self._sleeping))
                self._wake(self._next_reader)

    async def _sleep(self, call: _Call) -> None:
        """Wait until there is news for a call, or it is the one to read."""
        self._sleeping[call] = woken = anyio.Event()
        try:
            await woken.wait()
        finally:
            self._sleeping.pop(call, None)
            if self._next_reader is call:
                self._next_reader = None

    def _wake(self, call: _Call) -> None:
        woken = self._sleeping.pop(call, None)
        if woken is not None:
            woken.set()

    async def _read(self, is_so: Callable[[], bool], moment: float) -> None:
        """Read what comes: for a moment, or else the next."""
        self._reading = True
        try:
            self._receive_all()
            end = time.perf_counter() + moment
            while not is_so() and time.perf_counter() < end:
                await checkpoint()
                self._receive_all()
            if not is_so():
                await self._waiters.readable(self._connection.fileno())
                self._receive_all()
        finally:
            self._reading = False

    def _receive_all(self) -> None:
        """Take what has come. Beyond the replies that are due there is something only if the worker lies, or has ended."""
        end = time.perf_counter() + _LONGEST_TURN
        for _ in range(_AT_ONCE):
            if self._connection.fileno() < 0:
                return
            try:
                packet = fdsocket.receive(self._connection, fdsocket.DONTWAIT, fdsocket.LARGEST_REPLY)
            except BlockingIOError:
                return
            except ProtocolError as error:
                self._note_answer(0)
                self._end_all(partial(ProtocolError, str(error)))
                return
            if packet is None:
                self.lost = True
                self._end_all(Disconnected)
                return
            self._deliver(packet)
            if not self._unanswered or time.perf_counter() > end:
                return

    def _deliver(self, packet: fdsocket.Packet) -> None:
        outcome: Reply | Exception
        try:
            request_id, outcome = codec.decode_reply(packet, REPLIES)
        except ProtocolError as error:
            fdsocket.close_all(packet.descriptors)
            request_id, outcome = error.request_id, error
        if packet.log:
            log.write(self.name, packet.log)
        self._note_answer(request_id)
        call = self._calls.get(request_id)
        if call is not None and call.outcome is None:
            call.outcome = outcome
            self._wake(call)
        else:
            _discard(outcome)
        if request_id == 0:
            kind = codec.DescriptorsLost if isinstance(outcome, codec.DescriptorsLost) else ProtocolError
            self._end_all(partial(kind, f"the worker sent what belongs to no request: {outcome!r:.200}"))

    def _note_answer(self, request_id: int) -> None:
        """Note that a request was answered, and have the next one sent.

        What the worker could not read it answers by the id 0: the oldest request, since it reads them in their order.
        """
        if request_id == 0 and self._unanswered:
            request_id = next(iter(self._unanswered))
        self._unanswered.pop(request_id, None)
        if self._next_sender is not None:
            self._wake(self._next_sender)

    def _end_all(self, error: Callable[[], Exception]) -> None:
        for call in self._calls.values():
            if call.outcome is None:
                call.outcome = error()
                self._wake(call)


@contextmanager
def _duplicates(descriptors: list[int]) -> Iterator[list[int]]:
    """Hold what is to be sent later: whoever owns it may close it meanwhile, and its number be another file's then."""
    held: list[int] = []
    try:
        held.extend(map(_duplicate, descriptors))
        yield held
    finally:
        fdsocket.close_all(held)


def _duplicate(descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OverflowError:  # no descriptor has such a number
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _discard(outcome: Reply | Exception | None) -> None:
    if isinstance(outcome, Reply):
        close_unwanted(outcome.descriptors())


def _checked(outcome: Reply | Exception | None, expected: type[R]) -> R:
    """Return the reply that was expected; raise what came instead."""
    if isinstance(outcome, expected) and not isinstance(outcome, Failed | Rejected):
        return outcome
    if isinstance(outcome, codec.DescriptorsLost):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from outcome
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, Failed) and 0 < outcome.errno < _ERRNOS:
        raise Refused(outcome)
    if isinstance(outcome, Rejected):
        raise ProtocolError(outcome.reason)
    _discard(outcome)
    raise ProtocolError(f"{type(outcome).__name__} is no answer to what was asked")
