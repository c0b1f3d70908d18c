"""The end of a worker is told once nothing is left of what it had started."""

from __future__ import annotations

import os
import select
import signal
import socket

import pytest

from aions._sys import libc
from aions._worker import signals
from aions._worker.forkserver import Forkserver
from tests.worker.apart import apart


def serving_with_a_stray() -> tuple[Forkserver, int, int]:
    """Return a forkserver whose worker has ended, the app's end of that one's lifeline, and the orphan that it leaves."""
    libc.become_subreaper()
    server = Forkserver(socket.socketpair()[0], os.pidfd_open(os.getpid()))
    reading, writing = os.pipe()
    worker = os.posix_spawnp("sh", ["sh", "-c", "sleep 1000 & exit 3"], os.environ)
    server.children.add(worker, writing)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    (stray,) = server.children.strays(server.home.proc)
    return server, reading, stray


def is_told(lifeline: int) -> bool:
    return bool(select.select([lifeline], [], [], 0)[0])


def test_a_workers_end_is_told_when_what_it_left_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "send_all", lambda _proc, _pids, _number: [])  # as if they took their time to die

    def serve() -> None:
        server, lifeline, stray = serving_with_a_stray()
        server.reap()
        assert not is_told(lifeline)
        os.kill(stray, signal.SIGKILL)
        os.waitid(os.P_PID, stray, os.WEXITED | os.WNOWAIT)
        server.reap()
        assert os.read(lifeline, 10) == b"3"

    apart(serve)


def test_what_does_not_die_holds_it_up_for_a_second_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "send_all", lambda _proc, _pids, _number: [])

    def serve() -> None:
        server, lifeline, stray = serving_with_a_stray()
        server.reap()
        assert not is_told(lifeline)
        server._killed[stray] -= 2
        server.reap()
        assert os.read(lifeline, 10) == b"3"
        os.kill(stray, signal.SIGKILL)

    apart(serve)
