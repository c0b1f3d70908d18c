"""Every request gets exactly one reply, whatever happens while it is served."""

from __future__ import annotations

import _socket
import errno
import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from aions._sys.calls import KernelError, Log
from aions._wire import codec, fdsocket
from aions._wire.fdsocket import INLINE_LIMIT, LARGEST_REPLY, close_all
from aions._wire.messages import (
    REPLIES,
    CallFunction,
    Done,
    Failed,
    Fork,
    GetNamespaceID,
    JoinCgroup,
    Opened,
    OpenSocket,
    Rejected,
    Reply,
    Request,
    SetClockOffset,
    SetDomainName,
    SetHostName,
    SetLimit,
    SetNamespace,
    SetPropagation,
    Spawn,
    Started,
    Unshare,
    WriteMap,
)
from aions._worker.handlers import HANDLERS
from aions._worker.home import Home
from aions._worker.loop import Server, failure
from tests.wire.full_table import room_for
from tests.worker.apart import fork, join

if TYPE_CHECKING:
    from aions._worker.loop import Handlers


def succeed(_server: Server, _request: Request) -> Done:
    return Done()


def be_refused(_server: Server, _request: Request) -> Done:
    error = KernelError(errno.EPERM, "call(2)", "/some/path")
    error.hint = "a hint"
    raise error


def fail(_server: Server, _request: Request) -> Done:
    raise ZeroDivisionError("a bug")


def say_nothing(_server: Server, _request: Request) -> None:
    return None


def open_file(_server: Server, _request: Request) -> Opened:
    return Opened(os.memfd_create("opened"))


def count_descriptors(_server: Server, _request: Request) -> Rejected:
    return Rejected(str(len(os.listdir("/proc/self/fd"))))


def send_much(_server: Server, _request: Request) -> Rejected:
    return Rejected("x" * (INLINE_LIMIT + 1))


LONG_REPLY = Rejected("x" * (INLINE_LIMIT - 100))


def send_what_nearly_fills_a_packet(_server: Server, _request: Request) -> Rejected:
    return LONG_REPLY


def send_and_log(_server: Server, request: SetLimit) -> Rejected:
    """Send so many characters, with so many in the log."""
    if Log.lines is not None:
        Log.lines.append("x" * request.soft)
    return Rejected("x" * request.resource)


def be_refused_at_length(_server: Server, request: JoinCgroup) -> Done:
    raise KernelError(errno.ENOENT, f"open({request.directory})", request.directory)


def fill_the_table(_server: Server, _request: Request) -> Done:
    FULL.enter_context(room_for(0))
    return Done()


FULL = ExitStack()
FILL_THE_TABLE = WriteMap(0, "", "", WriteMap.KEPT)

FAKE_HANDLERS: Handlers = {
    "Unshare": succeed,
    "SetNamespace": be_refused,
    "SetPropagation": fail,
    "OpenSocket": open_file,
    "GetNamespaceID": count_descriptors,
    "SetClockOffset": send_much,
    "SetDomainName": send_what_nearly_fills_a_packet,
    "SetLimit": send_and_log,
    "JoinCgroup": be_refused_at_length,
    "CallFunction": succeed,
    "WriteMap": fill_the_table,
    "Spawn": HANDLERS["Spawn"],
}


class App:
    """The app's end of a connection to a worker in a process of its own."""

    def __init__(self, handlers: Handlers) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._worker = fork(lambda: self._serve(theirs, handlers))

    def _serve(self, connection: socket.socket, handlers: Handlers) -> None:
        self.socket.close()
        Server(connection, Home(), handlers).serve()

    def say(self, data: bytes, descriptors: list[int] | None = None) -> None:
        self.socket.sendmsg(
            [data],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in descriptors))]
            if descriptors
            else [],
        )

    def ask(self, request: Request, request_id: int = 1) -> Reply:
        """Send a request and return its reply, of which there must be no more than one."""
        fdsocket.send(self.socket, codec.encode(request_id, request), request.descriptors())
        replied_id, reply = self.hear()
        assert replied_id == request_id
        return reply

    def hear(self) -> tuple[int, Reply]:
        assert select.select([self.socket], [], [], 2)[0], "no reply"
        packet = fdsocket.receive(self.socket)
        assert packet is not None
        reply = codec.decode(packet, REPLIES)
        assert select.select([self.socket], [], [], 0)[0] == []
        return reply

    def leave(self) -> int:
        """Close the connection, and return the worker's exit status."""
        self.socket.close()
        return join(*self._worker)


@pytest.fixture
def app() -> Iterator[App]:
    app = App(FAKE_HANDLERS)
    yield app
    assert app.leave() == 0


def test_a_request_that_is_done_is_answered(app: App) -> None:
    for request_id in (1, 2**40, 7):
        assert app.ask(Unshare(1), request_id) == Done()


def test_a_refusal_of_the_kernel_is_a_reply(app: App) -> None:
    assert app.ask(SetNamespace(0, False, 0)) == Failed(errno.EPERM, "call(2)", "/some/path", "a hint")
    assert app.ask(Unshare(1)) == Done()


def test_a_bug_is_a_reply(app: App) -> None:
    assert app.ask(SetPropagation(0)) == Rejected("ZeroDivisionError: a bug")
    assert app.ask(Unshare(1)) == Done()


def test_a_request_that_nobody_serves_here_is_a_reply(app: App) -> None:
    assert app.ask(Fork(False, 0, 0, 0, 0)) == Rejected("KeyError: 'Fork'")


@pytest.mark.parametrize(
    ("data", "request_id"),
    [
        (b'["Nonsense",17,{}]', 17),
        (b'["Unshare",17,{"namespaces":"1"}]', 17),
        (b'["Done",17,{}]', 17),
        (b"garbage", 0),
        (b"memfd", 0),
        (b"x" * (INLINE_LIMIT + 1), 0),
    ],
)
def test_what_is_no_request_is_a_reply(app: App, data: bytes, request_id: int) -> None:
    before = app.ask(GetNamespaceID(None, "net"))
    app.say(data, [0, 0])
    replied_id, reply = app.hear()
    assert (replied_id, type(reply)) == (request_id, Rejected)
    assert app.ask(GetNamespaceID(None, "net")) == before


def test_descriptors_of_requests_and_of_replies_are_closed(app: App) -> None:
    before = app.ask(GetNamespaceID(None, "net"))
    for request in (
        SetNamespace(0, False, 0),
        CallFunction((), None, "", (0,)),
        OpenSocket(0, 0, 0, ()),
        Fork(False, 0, 0, 0, 0),
    ):
        close_all(app.ask(request).descriptors())
    assert app.ask(GetNamespaceID(None, "net")) == before


def test_a_long_reply_arrives(app: App) -> None:
    assert app.ask(SetClockOffset("")) == Rejected("x" * (INLINE_LIMIT + 1))


def test_a_reply_that_cannot_be_sent_is_replaced_by_the_reason(app: App) -> None:
    assert app.ask(FILL_THE_TABLE) == Done()
    reply = app.ask(SetClockOffset(""))  # whose reply takes a memfd
    assert isinstance(reply, Failed)
    assert reply.errno == errno.EMFILE
    assert app.ask(Unshare(1)) == Done()


def test_a_reply_that_is_longer_than_the_app_takes_is_replaced_by_the_reason(app: App) -> None:
    reply = app.ask(SetLimit(LARGEST_REPLY, 0, 0))
    assert isinstance(reply, Failed)
    assert (reply.errno, reply.path) == (errno.EMSGSIZE, None)
    assert str(LARGEST_REPLY) in (reply.hint or "")
    assert app.ask(SetLimit(LARGEST_REPLY - 100, 0, 0)) == Rejected("x" * (LARGEST_REPLY - 100))


def test_a_refusal_whose_system_call_is_too_long_is_a_refusal_all_the_same(app: App) -> None:
    reply = app.ask(JoinCgroup("x" * 2 * LARGEST_REPLY))
    assert isinstance(reply, Failed)
    assert reply.errno == errno.ENOENT
    assert len(reply.call) < 2000


def test_a_log_that_is_too_long_is_left_out(app: App) -> None:
    fdsocket.send(app.socket, codec.encode(1, SetLimit(0, LARGEST_REPLY, 0), []))
    packet = fdsocket.receive(app.socket)
    assert packet is not None
    assert codec.decode(packet, REPLIES) == (1, Rejected(""))
    assert packet.log == ["… 1 lines are more than a reply has room for"]
    assert app.ask(Unshare(1)) == Done()


def test_a_worker_without_room_for_descriptors_says_so(app: App) -> None:
    assert app.ask(FILL_THE_TABLE) == Done()
    reply = app.ask(SetNamespace(0, False, 0), 17)
    assert isinstance(reply, Failed)
    assert (reply.errno, reply.call) == (errno.EMFILE, "recvmsg")
    assert app.ask(Unshare(1)) == Done()


def test_a_worker_without_room_for_the_memfd_of_a_long_request_says_so(app: App) -> None:
    assert app.ask(FILL_THE_TABLE) == Done()
    fdsocket.send(app.socket, codec.encode(17, SetClockOffset("x" * INLINE_LIMIT)))
    _request_id, reply = app.hear()
    assert isinstance(reply, Failed)
    assert reply.errno == errno.EMFILE


def test_a_worker_ends_when_the_app_leaves_without_a_word() -> None:
    assert App(FAKE_HANDLERS).leave() == 0


def test_a_worker_ends_when_the_app_leaves_before_its_reply() -> None:
    app = App(FAKE_HANDLERS)
    for number in range(50):
        fdsocket.send(app.socket, codec.encode(number, Unshare(1)))
    assert app.leave() == 0


def spawn(command: str, lifeline: int) -> Spawn:
    return Spawn(
        arguments=("/bin/sh", "-c", command),
        environment=tuple(f"{name}={value}" for name, value in os.environ.items()),
        process_group=os.getpgrp(),
        session=os.getsid(0),
        exit=lifeline,
        stdin=0,
        stdout=1,
        stderr=2,
        passed=(),
    )


def test_the_status_of_a_command_comes_through_its_lifeline(app: App) -> None:
    reading, writing = os.pipe()
    started = app.ask(spawn("exit 3", writing))
    os.close(writing)
    assert [os.read(reading, 100), os.read(reading, 100)] == [b"3", b""]
    close_all([reading, *started.descriptors()])


def test_a_command_whose_lifeline_is_closed_is_killed(app: App) -> None:
    reading, writing = os.pipe()
    started = app.ask(spawn("exec sleep 100", writing))
    assert isinstance(started, Started)
    close_all([reading, writing])
    assert select.select([started.pidfd], [], [], 2)[0]
    os.close(started.pidfd)


def test_commands_that_end_do_not_disturb_requests(app: App) -> None:
    pipes = []
    for _ in range(20):
        reading, writing = os.pipe()
        close_all([writing, *app.ask(spawn("exit 0", writing)).descriptors()])
        pipes.append(reading)
        assert app.ask(Unshare(1)) == Done()
    assert [os.read(reading, 100) for reading in pipes] == [b"0"] * 20
    close_all(pipes)


def test_a_signal_that_python_handles_does_not_end_the_loop(app: App) -> None:
    pid = app._worker[0]
    assert app.ask(Unshare(1)) == Done()
    for _ in range(20):
        os.kill(pid, signal.SIGCHLD)
    assert app.ask(Unshare(1)) == Done()


def unread(sock: socket.socket) -> int:
    """Return the bytes that the kernel counts for what the other side has not received yet."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def in_flight(packets: Iterable[bytes]) -> tuple[int, int]:
    """Return how many packets a socket takes before it is full, and what the kernel counts for them."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = 0
    with one, other, suppress(BlockingIOError):
        for packet in packets:
            fdsocket.send(one, packet, flags=fdsocket.DONTWAIT)
            number += 1
        return number, unread(one)
    return number, 0


class Unread(App):
    """An app that asks on and reads nothing, so that the worker waits for room for its replies, after these commands."""

    def __init__(self, *commands: str, handlers: Handlers = FAKE_HANDLERS) -> None:
        super().__init__(handlers)
        self.pidfds: list[int] = []
        self.lifelines: list[int] = []
        for command in commands:
            reading, writing = os.pipe()
            self.pidfds += self.ask(spawn(command, writing)).descriptors()
            self.lifelines.append(reading)
            os.close(writing)
        self.ids = list(range(100, 200))
        requests = [codec.encode(request_id, SetDomainName("")) for request_id in self.ids]
        for request in requests:
            fdsocket.send(self.socket, request)
        replies = itertools.repeat(codec.encode(100, LONG_REPLY))
        waiting = requests[in_flight(replies)[0] + 1 :]
        deadline = time.monotonic() + 5
        while unread(self.socket) != in_flight(waiting)[1]:
            assert time.monotonic() < deadline, "the worker does not wait for room"

    def read_all(self) -> list[int]:
        ids = []
        for _ in self.ids:
            assert select.select([self.socket], [], [], 2)[0], "no reply"
            packet = fdsocket.receive(self.socket)
            assert packet is not None
            ids.append(codec.decode(packet, REPLIES)[0])
        return ids

    def leave(self) -> int:
        close_all([*self.pidfds, *self.lifelines])
        return super().leave()


def test_a_worker_that_waits_for_room_answers_all_in_the_end() -> None:
    app = Unread()
    assert app.read_all() == app.ids
    assert app.ask(Unshare(1)) == Done()
    assert app.leave() == 0


def test_a_worker_that_waits_for_room_tells_how_its_commands_end() -> None:
    app = Unread("exec sleep 100")
    signal.pidfd_send_signal(app.pidfds[0], signal.SIGKILL)
    assert select.select(app.lifelines, [], [], 2)[0]
    assert os.read(app.lifelines[0], 100) == b"-9"
    assert app.read_all() == app.ids
    assert app.leave() == 0


def test_a_worker_that_waits_for_room_kills_commands_that_are_let_go() -> None:
    app = Unread("exec sleep 100")
    os.close(app.lifelines.pop())
    assert select.select(app.pidfds, [], [], 2)[0]
    assert app.read_all() == app.ids
    assert app.leave() == 0


def test_a_worker_that_waits_for_room_ends_when_the_app_leaves() -> None:
    assert Unread().leave() == 0


def refuse_first(count: int) -> Handlers:
    """Have the kernel refuse, so many times, to send replies with descriptors: ETOOMANYREFS, which root does not get."""
    send, refused = fdsocket.send, itertools.count()

    def send_or_not(sock: _socket.socket, data: bytes, descriptors: Sequence[int] = (), flags: int = 0) -> None:
        if descriptors and next(refused) < count:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        send(sock, data, descriptors, flags)

    def patch(_server: Server, _request: Request) -> Done:
        fdsocket.send = send_or_not
        return Done()

    return {**FAKE_HANDLERS, "SetHostName": patch}


def test_a_worker_that_waits_for_others_to_take_out_descriptors_tells_how_its_commands_end() -> None:
    app = App(refuse_first(500))
    reading, writing = os.pipe()
    (pidfd,) = app.ask(spawn("exec sleep 100", writing)).descriptors()
    os.close(writing)
    app.ask(SetHostName(""))
    fdsocket.send(app.socket, codec.encode(1, OpenSocket(0, 0, 0, ())))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert os.read(reading, 100) == b"-9"
    assert select.select([app.socket], [], [], 0)[0] == []
    close_all([*app.hear()[1].descriptors(), reading, pidfd])
    assert app.leave() == 0


def test_a_worker_that_waits_for_others_to_take_out_descriptors_ends_when_the_app_leaves() -> None:
    app = App(refuse_first(2**40))
    app.ask(SetHostName(""))
    fdsocket.send(app.socket, codec.encode(1, OpenSocket(0, 0, 0, ())))
    assert app.leave() == 0


def test_a_worker_that_waits_too_long_for_that_says_so() -> None:
    app = App(refuse_first(2**40))
    app.ask(SetHostName(""))
    reply = app.ask(OpenSocket(0, 0, 0, ()))
    assert isinstance(reply, Failed)
    assert reply.errno == errno.ETOOMANYREFS
    assert app.leave() == 0


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (KernelError(errno.EPERM, "setns(3, 0)"), Failed(errno.EPERM, "setns(3, 0)", None, None)),
        (KernelError(errno.EPERM, "call", "/path"), Failed(errno.EPERM, "call", "/path", None)),
        (FileNotFoundError(errno.ENOENT, "", "/path"), Failed(errno.ENOENT, "", "/path", None)),
        (OSError(errno.EIO, "", b"/p\xff"), Failed(errno.EIO, "", "/p\udcff", None)),
        (OSError(errno.EIO, "", 3), Failed(errno.EIO, "", None, None)),
        (OSError("no number"), Failed(errno.EIO, "", None, None)),
    ],
)
def test_a_failure_says_what_is_known(error: OSError, failed: Failed) -> None:
    assert failure(error) == failed
