"""What a worker has started is reaped when it ends, and killed when the app lets go of it."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from aions._sys import libc, proc
from aions._worker.children import Children, descendants, kill_descendants
from aions._worker.signals import kill_all
from tests.wire.full_table import room_for
from tests.worker.apart import apart


class Family:
    """A process that looks after children as a worker does."""

    def __init__(self) -> None:
        self.poller = select.poll()
        self.children = Children(self.poller)
        self.proc = proc.open_proc()

    def reap(self) -> bool:
        """Collect children and report them; return whether there were any."""
        ended = self.children.collect()
        self.children.report(ended)
        return bool(ended)

    def start(self, command: str) -> tuple[int, int]:
        """Start a child; return its pid and the app's end of its lifeline."""
        pid = start(command)
        reading, writing = os.pipe()
        self.children.add(pid, writing)
        os.close(writing)
        return pid, reading


def start(command: str) -> int:
    return os.posix_spawnp("sh", ["sh", "-c", command], os.environ)


def wait_until_ended(pid: int) -> None:
    """Wait for a child without reaping it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def is_running(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: Iterable[int]) -> None:
    """Wait until processes run no more, whoever's children they are."""
    deadline = time.monotonic() + 2
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_children_of(family: Family, pid: int, count: int) -> list[int]:
    deadline = time.monotonic() + 2
    while len(found := proc.children(family.proc, pid)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


@pytest.mark.parametrize(("command", "status"), [("exit 0", b"0"), ("exit 255", b"255"), ("kill -KILL $$", b"-9")])
def test_reaping_a_child_writes_its_status_into_its_lifeline(command: str, status: bytes) -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start(command)
        wait_until_ended(pid)
        assert family.reap() is True
        assert [os.read(lifeline, 100) for _ in range(2)] == [status, b""]
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    apart(worker)


def test_reaping_collects_all_that_have_ended_and_nobody_else() -> None:
    def worker() -> None:
        family = Family()
        ended = [family.start(f"exit {status}") for status in range(5)]
        _running, running_lifeline = family.start("exec sleep 100")
        for pid, _lifeline in ended:
            wait_until_ended(pid)
        assert family.reap() is True
        assert [os.read(lifeline, 100) for _pid, lifeline in ended] == [b"0", b"1", b"2", b"3", b"4"]
        assert select.select([running_lifeline], [], [], 0)[0] == []
        assert family.reap() is False
        kill_descendants(family.proc, "self")

    apart(worker)


def test_in_a_function_those_that_were_asked_for_are_collected_at_once_and_no_others() -> None:
    def worker() -> None:
        family = Family()
        ended, lifeline = family.start("exit 2")
        wait_until_ended(ended)
        running, other_lifeline = family.start("kill -STOP $$; exit 3")
        os.waitid(os.P_PID, running, os.WSTOPPED | os.WNOWAIT)
        family.children.enter_function()
        assert os.read(lifeline, 100) == b"2"
        own = start("exit 4")
        wait_until_ended(own)
        os.kill(running, signal.SIGCONT)
        assert select.select([other_lifeline], [], [], 2)[0]
        assert os.read(other_lifeline, 100) == b"3"
        assert os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) == 4
        family.children.leave_function()
        pid, lifeline = family.start("exit 5")
        wait_until_ended(pid)
        assert select.select([lifeline], [], [], 0)[0] == []
        assert family.reap() is True

    apart(worker)


@pytest.mark.parametrize("name", ["waitid", "waitpid", "write"])
def test_the_signals_handler_may_interrupt_itself(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Before and after each call."""
    call, is_interrupted = getattr(os, name), False

    def interrupt() -> None:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            os.kill(os.getpid(), signal.SIGCHLD)
            is_interrupted = False

    def interrupted_call(*arguments: object) -> object:
        interrupt()
        try:
            return call(*arguments)
        finally:
            interrupt()

    def worker() -> None:
        family = Family()
        started = [family.start(f"exit {status}") for status in (3, 4)]
        for pid, _lifeline in started:
            wait_until_ended(pid)
        monkeypatch.setattr(os, name, interrupted_call)
        family.children.enter_function()
        family.children.leave_function()
        monkeypatch.undo()
        assert [os.read(lifeline, 10) for _pid, lifeline in started] == [b"3", b"4"]
        assert family.reap() is False

    apart(worker)


def test_a_fork_of_a_function_collects_nobody() -> None:
    def worker() -> None:
        family = Family()
        family.children.enter_function()

        def fork() -> None:
            wait_until_ended(start("exit 0"))
            assert os.waitpid(-1, os.WNOHANG)[0]

        _pid, lifeline = family.start("exec sleep 100")
        apart(fork)
        assert select.select([lifeline], [], [], 0)[0] == []
        kill_descendants(family.proc, "self")

    apart(worker)


def test_who_was_collected_by_a_function_is_nobodys_child_any_more() -> None:
    def worker() -> None:
        family = Family()
        family.children.enter_function()
        pid, lifeline = family.start("exec sleep 100")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        family.children.leave_function()
        assert os.read(lifeline, 100) == b"?"
        assert family.children.strays(family.proc) == []

    apart(worker)


def test_reaping_does_not_mind_that_nobody_reads_the_status() -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start("exit 3")
        os.close(lifeline)
        wait_until_ended(pid)
        assert family.reap() is True

    apart(worker)


def test_a_child_whose_lifeline_breaks_is_killed() -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start("exec sleep 100")
        _other, other_lifeline = family.start("exec sleep 100")
        assert family.poller.poll(0) == []
        os.close(lifeline)
        ((broken, _event),) = family.poller.poll(2000)
        family.children.let_go(broken, family.proc)
        wait_until_ended(pid)
        assert family.poller.poll(0) == []
        assert family.reap() is True
        assert select.select([other_lifeline], [], [], 0)[0] == []
        kill_descendants(family.proc, "self")

    apart(worker)


def test_what_a_child_has_started_is_killed_with_it() -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start(TREE)
        near = wait_for_children_of(family, pid, 2)
        far = wait_for_children_of(family, near[1], 2)
        os.close(lifeline)
        ((broken, _event),) = family.poller.poll(2000)
        family.children.let_go(broken, family.proc)
        wait_until_ended(pid)
        wait_until_gone([*near, *far])

    apart(worker)


@pytest.mark.parametrize("has_proc", [True, False])
def test_at_the_end_children_are_killed_and_collected(has_proc: bool) -> None:
    def worker() -> None:
        family = Family()
        family.children.expect()
        pid, lifeline = family.start(TREE if has_proc else "exec sleep 100")
        if has_proc:
            wait_for_children_of(family, wait_for_children_of(family, pid, 2)[1], 2)
        family.children.end(family.proc if has_proc else -1)
        assert os.read(lifeline, 10) == b"-9"
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    apart(worker)


def test_a_child_that_has_ended_may_be_let_go_before_it_is_reaped() -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start("exit 0")
        wait_until_ended(pid)
        os.close(lifeline)
        ((broken, _event),) = family.poller.poll(2000)
        family.children.let_go(broken, family.proc)
        assert family.reap() is True

    apart(worker)


def test_letting_go_of_what_is_no_lifeline_does_nothing() -> None:
    apart(lambda: Family().children.let_go(99, -1))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a process that may not be killed: only root can make one")
def test_letting_go_of_a_child_that_may_not_be_killed_does_not_end_the_worker() -> None:
    def worker() -> None:
        family = Family()
        pid, lifeline = family.start("read forever")
        os.setresuid(65534, 65534, 65534)  # a child that is another user's: as sudo is, for a plain user
        os.close(lifeline)
        ((broken, _event),) = family.poller.poll(2000)
        family.children.let_go(broken, family.proc)
        assert family.poller.poll(0) == []
        assert is_running(pid)

    pipe = os.pipe()
    stdin = os.dup(0)
    os.dup2(pipe[0], 0)  # what the child reads ends when the worker does
    try:
        apart(worker)
    finally:
        os.dup2(stdin, 0)
        for descriptor in (*pipe, stdin):
            os.close(descriptor)


def test_a_child_that_cannot_be_looked_after_is_killed() -> None:
    def worker() -> None:
        family = Family()
        pid = start("exec sleep 100")
        _reading, writing = os.pipe()
        with room_for(0), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            family.children.add(pid, writing)
        wait_until_ended(pid)

    apart(worker)


def test_orphans_are_reaped_and_are_nobodys_children() -> None:
    def worker() -> None:
        libc.become_subreaper()
        family = Family()
        pid, _lifeline = family.start("sleep 100 & exit 0")
        wait_until_ended(pid)
        assert family.reap() is True
        (orphan,) = family.children.strays(family.proc)
        os.kill(orphan, signal.SIGKILL)
        wait_until_ended(orphan)
        assert family.reap() is True
        assert family.children.strays(family.proc) == []

    apart(worker)


def test_children_that_were_asked_for_are_no_strays() -> None:
    def worker() -> None:
        family = Family()
        family.start("exec sleep 100")
        assert family.children.strays(family.proc) == []
        stray = start("exec sleep 100")
        assert family.children.strays(family.proc) == [stray]
        kill_descendants(family.proc, "self")

    apart(worker)


TREE = "sleep 100 & (sleep 100 & sleep 100 & wait) & wait"


def test_descendants_are_found_the_farthest_last() -> None:
    def worker() -> None:
        family = Family()
        pid, _lifeline = family.start(TREE)
        near = wait_for_children_of(family, pid, 2)
        far = wait_for_children_of(family, near[1], 2)
        assert descendants(family.proc, "self") == [pid, *near, *far]
        assert descendants(family.proc, pid) == [*near, *far]
        assert descendants(family.proc, far[0]) == []
        kill_descendants(family.proc, "self")

    apart(worker)


def test_all_descendants_are_killed_and_not_their_ancestor() -> None:
    def worker() -> None:
        family = Family()
        pid, _lifeline = family.start(TREE)
        near = wait_for_children_of(family, pid, 2)
        far = wait_for_children_of(family, near[1], 2)
        os.kill(pid, signal.SIGSTOP)
        kill_descendants(family.proc, pid)
        wait_until_gone([*near, *far])
        assert is_running(pid)
        kill_descendants(family.proc, "self")
        wait_until_gone([pid])

    apart(worker)


def test_one_that_has_no_descendants_and_one_that_is_gone_have_none_to_kill() -> None:
    def worker() -> None:
        family = Family()
        pid = start("exit 0")
        kill_descendants(family.proc, "self")
        os.waitpid(pid, 0)
        assert descendants(family.proc, pid) == []
        kill_descendants(family.proc, pid)

    apart(worker)


def test_killing_passes_over_those_that_are_gone() -> None:
    def worker() -> None:
        gone = start("exit 0")
        os.waitpid(gone, 0)
        alive = start("exec sleep 100")
        kill_all([gone, alive])
        wait_until_ended(alive)

    apart(worker)
