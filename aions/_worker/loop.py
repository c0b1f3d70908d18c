"""The loop of a worker: take a request, do it, answer it.

Rule 1. Every request gets exactly one reply, whatever happens while it is served.
Rule 2. One request at a time; nothing else runs in this process. Children are reaped between two requests, and while a reply
        waits for room in the socket: the app bounds what it asks for, but need not read before it asks again.
Rule 3. The app going away ends the worker: by EOF here, also while a reply waits for room; by the death of the parent
        (PR_SET_PDEATHSIG) wherever it is stuck.
Rule 4. A child leaves by `os._exit` or by a signal, never through the code of its parent.
"""

from __future__ import annotations

import _socket as socket
import errno
import os
import select
import time

from aions._errors import ProtocolError
from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import Log
from aions._wire import codec, fdsocket
from aions._wire.messages import REQUESTS, Failed, Rejected, Reply, WouldWait
from aions._worker.children import Children
from aions._worker.home import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn, TypeAlias

    from aions._worker.sessions import Session

    Handlers: TypeAlias = Mapping[str, Callable[..., Reply]]

_PATIENCE = 1.0
"""Seconds in which an app that goes on takes out the descriptors that it was sent."""


_SHOWN = 1000
"""Characters of a system call that is too long to be told."""


class MustWait(Exception):
    """A request may have to wait for somebody, and other calls are not to wait with it."""


class Server:
    """What a worker holds: its connection to the app, the way home, its handlers and its children.

    `parent` is a pidfd of the process that forked it; the forkserver has none. A worker that is `half_made`, since a request of
    several steps failed between them, ends once it has told so. One that is `sealed` shows nothing of itself to others, and has
    kept open what it could not open then: `clock_offsets`, -1 if there is none. `has_entered` is set once it is in a namespace
    that it was not in from the start and has not made. `seals_forks` says whether it and its forks are sealed once it forks,
    since anything may soon be where they are.
    """

    seals_forks = True

    def __init__(
        self, connection: socket.socket, home: Home, handlers: Handlers, parent: int | None = None, sealed: bool = False
    ) -> None:
        self.connection = connection
        self.home = home
        self.handlers = handlers
        self.parent = parent
        self.poller = select.poll()
        self.children = Children(self.poller)
        self.threads_from: str | None = None
        self.half_made = False
        self.has_entered = False
        self.sealed = sealed
        self.clock_offsets = -1
        self.session: Session | None = None
        self.poller.register(connection, select.POLLIN)

    def seal(self) -> None:
        """Show nothing of this process to any other, from now on: no memory, descriptors, root, directory, namespaces.

        SECURITY: what runs where a worker is may be hostile, and have its user or every capability there. So a worker seals
        itself before it enters what others have made, and before it starts or forks anything. KERNEL: PR_SET_DUMPABLE. A fork
        inherits it; a program that is executed does not.
        """
        if not self.sealed:
            self.clock_offsets = procfs.open_clock_offsets(self.home.proc)
            libc.set_dumpable(0)
            self.sealed = True

    def unseal(self) -> None:
        """Be open again, where nothing else can be yet: the id maps of a plain user's process are written while it is."""
        libc.set_dumpable(1)
        self.sealed = False
        if self.clock_offsets >= 0:
            os.close(self.clock_offsets)
            self.clock_offsets = -1

    def prepare_fork(self) -> None:
        """Get ready to fork a worker."""

    def renew(self) -> None:
        """Do again what a change of credentials undoes: end with the parent, be sealed.

        KERNEL: such a change makes a process dumpable where fs.suid_dumpable is 1.
        """
        if self.sealed:
            libc.set_dumpable(0)
        libc.die_with_parent()
        if self.parent is not None and select.select([self.parent], [], [], 0)[0]:
            os._exit(0)  # the parent ended before it could be told to take us along

    def serve(self) -> NoReturn:
        """Serve until the app goes away.

        One descriptor is attended to after each poll, the one that was registered last: so that a lifeline which one step
        closes is never taken for another that the next step opened under the same number.
        """
        while True:
            self.attend(self.poller.poll()[-1][0])

    def attend(self, descriptor: int) -> None:
        """Do what a descriptor that became ready asks for."""
        if descriptor == self.connection.fileno():
            self.answer_one()
        else:
            self.look_after(descriptor)

    def look_after(self, descriptor: int) -> None:
        """Do what a descriptor other than the connection asks for."""
        if descriptor == self.children.sigchld:
            os.read(descriptor, 4096)
            self.reap()
        else:
            self.children.let_go(descriptor, self.home.proc)

    def reap(self) -> None:
        """Collect the children that have ended."""
        self.children.report(self.children.collect())

    def end(self) -> NoReturn:
        """Leave, because the app is gone or has closed this worker, and let nothing stay that it has started."""
        self.children.end(self.home.proc)
        os._exit(0)

    def answer_one(self) -> None:
        """Receive one request and answer it."""
        try:
            packet = fdsocket.receive(self.connection)
        except ProtocolError as error:
            self._send(0, Rejected(str(error)))
            return
        if packet is None:
            self.end()
        request_id, reply = self.served(packet)
        try:
            self._send(request_id, reply)
        finally:
            fdsocket.close_all(reply.descriptors())
        if self.half_made:
            self.end()

    def served(self, packet: fdsocket.Packet) -> tuple[int, Reply]:
        """Do what a packet asks for; return what to answer, and to which request."""
        request_id = 0
        try:
            request_id, request = codec.decode(packet, REQUESTS)
            _keep_log(packet.log is not None)
            return request_id, self.handlers[type(request).__name__](self, request)
        except MustWait:
            return request_id, WouldWait()
        except codec.DescriptorsLost as error:
            return error.request_id, Failed(errno.EMFILE, "recvmsg", None, "The worker has no room for more descriptors.")
        except ProtocolError as error:
            return error.request_id, Rejected(str(error))
        except OSError as error:
            return request_id, failure(error)
        except Exception as error:
            return request_id, Rejected(f"{type(error).__name__}: {error}")
        finally:
            fdsocket.close_all(packet.descriptors)

    def _send(self, request_id: int, reply: Reply) -> None:
        """Send a reply; where the kernel does not take it, say so instead; where it takes not even that, end."""
        for _ in range(2):
            try:
                self._send_patiently(*_encoded(request_id, reply))
                _keep_log(Log.lines is not None, afresh=True)
                return
            except (BrokenPipeError, ConnectionResetError):
                break
            except OSError as error:
                reply = failure(error)
        self.end()

    def _send_patiently(self, data: bytes, descriptors: list[int]) -> None:
        """Send once there is room; where too many descriptors are under way, try for a while: others take them out."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fdsocket.send(self.connection, data, descriptors, fdsocket.DONTWAIT)
                return
            except BlockingIOError:
                self._look_after_the_rest(select.POLLOUT)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                    raise
                self._look_after_the_rest(0, fdsocket.A_WHILE)

    def _look_after_the_rest(self, event: int, seconds: float | None = None) -> None:
        """Wait until the connection has room, or the app is gone, or some time is over; attend to what else is ready first."""
        self.poller.modify(self.connection, event)
        try:
            ready = self.poller.poll(None if seconds is None else seconds * 1000)
        finally:
            self.poller.modify(self.connection, select.POLLIN)
        if not ready:
            return
        descriptor, events = ready[-1]
        if descriptor != self.connection.fileno():
            self.look_after(descriptor)
        elif events & select.POLLHUP:
            self.end()


def _encoded(request_id: int, reply: Reply) -> tuple[bytes, list[int]]:
    """Write a reply down. If it is longer than the app takes, leave out the log; if it still is, say so instead."""
    data = codec.encode(request_id, reply, Log.lines)
    if len(data) > fdsocket.LARGEST_REPLY and Log.lines is not None:
        data = codec.encode(request_id, reply, [f"… {len(Log.lines)} lines are more than a reply has room for"])
    if len(data) <= fdsocket.LARGEST_REPLY:
        return data, reply.descriptors()
    what = f"{reply.call[:_SHOWN]}…" if isinstance(reply, Failed) else f"a reply of {len(data)} bytes"
    number = reply.errno if isinstance(reply, Failed) else errno.EMSGSIZE
    hint = None if isinstance(reply, Failed) else f"A reply has {fdsocket.LARGEST_REPLY} bytes at most."
    return codec.encode(request_id, Failed(number, what, None, hint)), []


def _keep_log(wanted: bool, afresh: bool = False) -> None:
    """Write down what is called, or do not; what was called between two requests goes with the next reply."""
    if not wanted:
        Log.lines = None
    elif Log.lines is None or afresh:
        Log.lines = []


def failure(error: OSError) -> Failed:
    """Say what the kernel refused."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return Failed(error.errno or errno.EIO, getattr(error, "call", ""), path, getattr(error, "hint", None))
