"""A rehearsal leaves nothing, and makes the same requests cheaper in a fork; who is asked for something does that instead."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable

import pytest

from aions._sys.calls import Log
from aions._wire import codec, fdsocket
from aions._wire.messages import Done, Prepare, Request, Unshare
from aions._worker import rehearsal
from aions._worker.forkserver import Forkserver
from aions._worker.handlers import HANDLERS
from aions._worker.home import Home
from aions._worker.late import load as preload
from aions._worker.loop import Server
from tests.worker.apart import apart


def worker() -> tuple[Server, socket.socket]:
    """Return a worker, and the app's end of its connection."""
    preload()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Server(theirs, Home(), HANDLERS), ours


def forkserver() -> tuple[Server, socket.socket]:
    preload()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Forkserver(theirs, os.pidfd_open(os.getpid())), ours


@pytest.mark.parametrize(
    ("process", "rehearse"), [(worker, rehearsal.rehearse_as_worker), (forkserver, rehearsal.rehearse_as_forkserver)]
)
def test_a_rehearsal_leaves_nothing(
    process: Callable[[], tuple[Server, socket.socket]], rehearse: Callable[[Server], None]
) -> None:
    def run() -> None:
        server, app = process()
        server.children.expect()
        before = os.listdir("/proc/self/fd")
        rehearse(server)
        assert os.listdir("/proc/self/fd") == before
        server.reap()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        with pytest.raises(BlockingIOError):
            app.recv(1, socket.MSG_DONTWAIT)

    apart(run)


def test_a_request_is_cheaper_after_it() -> None:
    def run() -> None:
        server, _app = worker()
        request = codec.encode(1, Prepare((codec.encode(0, Unshare(0)).decode(),)))

        def faults() -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            server.served(fdsocket.Packet(request, []))
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def cost(rehearse: bool) -> int:
            reading, writing = os.pipe()
            if os.fork() == 0:
                if rehearse:
                    rehearsal.rehearse_as_worker(server)
                os.write(writing, bytes([min(faults(), 255)]))
                os._exit(0)
            os.wait()
            return os.read(reading, 1)[0]

        faults()  # whatever is imported or allocated for the first time
        assert cost(rehearse=True) < cost(rehearse=False) / 2

    apart(run)


@pytest.mark.parametrize("name", ["send", "receive"])
def test_one_that_fails_does_no_harm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOBUFS, "no room")

    def run() -> None:
        server, _app = forkserver()
        monkeypatch.setattr(fdsocket, name, refuse)
        Log.lines = ["what was called before"]
        rehearsal.rehearse_as_forkserver(server)
        assert Log.lines == ["what was called before"]

    apart(run)


@pytest.mark.parametrize("asked", [True, False])
def test_who_is_asked_for_something_does_not_rehearse(asked: bool) -> None:
    def run() -> None:
        server, app = worker()
        rehearsed = []

        def note(_server: Server, request: Request) -> Done:
            rehearsed.append(request)
            return Done()

        server.handlers = {"Prepare": note, "Spawn": note}
        if asked:
            fdsocket.send(app, codec.encode(7, Prepare(())))
        rehearsal.rehearse_as_worker(server)
        assert bool(rehearsed) is not asked

    apart(run)
