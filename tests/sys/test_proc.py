"""What /proc says about processes that we know."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from errno import ENOENT, ENOSYS, EPERM
from pathlib import Path

import pytest

from aions._sys import libc, proc
from aions._sys.calls import KernelError
from tests.worker.apart import apart


@pytest.fixture(name="proc_fd")
def open_proc() -> Iterator[int]:
    descriptor = proc.open_proc()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended and was reaped."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_proc_is_held_by_a_descriptor_that_nothing_can_be_read_from(proc_fd: int) -> None:
    assert os.readlink(f"/proc/self/fd/{proc_fd}") == "/proc"
    assert not os.get_inheritable(proc_fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(proc_fd, 1)


def test_a_file_is_read(proc_fd: int) -> None:
    assert proc.read(proc_fd, "self/comm") == Path("/proc/self/comm").read_text()


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 200_000)
    directory = os.open(tmp_path, os.O_PATH)
    assert proc.read(directory, "long") == "x" * 200_000
    os.close(directory)


def test_a_file_is_written_in_one_go(proc_fd: int) -> None:
    before = proc.read(proc_fd, "self/comm").strip()
    proc.write(proc_fd, "self/comm", "written")
    assert proc.read(proc_fd, "self/comm") == "written\n"
    proc.write(proc_fd, "self/comm", before)


def test_a_refusal_to_open_names_the_call_and_the_path(proc_fd: int) -> None:
    with pytest.raises(KernelError) as caught:
        proc.read(proc_fd, "self/nothing")
    assert (caught.value.errno, caught.value.filename) == (ENOENT, "/proc/self/nothing")
    assert caught.value.call == f'openat(AT_FDCWD, "/proc/self/nothing", {os.O_RDONLY:#o})'


def test_a_refusal_to_write_names_the_call_and_the_path(proc_fd: int) -> None:
    with pytest.raises(KernelError) as caught:
        proc.write(proc_fd, "self/uid_map", "no map")
    assert caught.value.errno
    assert caught.value.filename == "/proc/self/uid_map"
    assert caught.value.call.endswith("</proc/self/uid_map>, 'no map')")


def test_what_is_opened_is_closed_also_after_an_error(proc_fd: int) -> None:
    opened = proc.Opened(proc_fd, "self/comm", os.O_RDONLY)
    with contextlib.suppress(ZeroDivisionError), opened as descriptor:
        assert not os.get_inheritable(descriptor)
        _ = 1 / 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_threads_are_counted(proc_fd: int) -> None:
    before = proc.thread_count(proc_fd)
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert proc.thread_count(proc_fd) == before + 3
    end.set()
    for thread in threads:
        thread.join()


def test_a_pid_is_read_from_a_pidfd(proc_fd: int) -> None:
    pidfd = os.pidfd_open(os.getpid())
    assert proc.pid_of(proc_fd, pidfd) == proc.own_pid(proc_fd) == os.getpid()
    os.close(pidfd)


def test_a_pidfd_of_a_process_that_was_reaped_has_no_pid(proc_fd: int) -> None:
    process = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    assert proc.pid_of(proc_fd, pidfd) == -1
    os.close(pidfd)


def test_children_are_those_of_all_threads(proc_fd: int) -> None:
    started: list[subprocess.Popen[bytes]] = []
    end = threading.Event()

    def start() -> None:
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))

    def start_and_stay() -> None:
        start()
        begun.set()
        end.wait()

    begun = threading.Event()
    thread = threading.Thread(target=start_and_stay)
    thread.start()
    begun.wait()
    start()
    try:
        expected = {process.pid for process in started}
        assert set(proc.children(proc_fd, "self")) == set(proc.children(proc_fd, os.getpid())) == expected
        assert proc.children(proc_fd, started[0].pid) == []
    finally:
        for process in started:
            process.communicate()
        end.set()
        thread.join()


def test_a_process_that_is_gone_has_no_children(proc_fd: int, gone: int) -> None:
    assert proc.children(proc_fd, gone) == []


def test_a_process_that_ended_and_was_not_reaped_has_no_children(proc_fd: int) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert proc.children(proc_fd, process.pid) == []
    process.wait()


def refuse(number: int, *_arguments: int) -> None:
    raise KernelError(number, "close_range()")


@pytest.fixture(params=[0, ENOSYS, EPERM], ids=["close_range", "ENOSYS", "EPERM"])
def _close_range(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have close_range(2) work, or not."""
    if request.param:
        monkeypatch.setattr(libc, "close_from", functools.partial(refuse, request.param))


def have_many_open_and(function: Callable[[int, int], None]) -> None:
    """Call a function where all descriptors from 0 to 20 are open, and 950, with one of /proc and one that must stay open."""

    def see() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in {*range(20), 950} - {null}:
            os.dup2(null, number, inheritable=True)
        complaints = max(number for number in map(int, os.listdir("/proc/self/fd")) if number != 950)
        function(proc.open_proc(), complaints)

    apart(see)


@pytest.mark.usefixtures("_close_range")
@pytest.mark.parametrize("kept", [(), (0, 1, 2), (0, 1, 2, 10), (0, 1, 2, 3, 11), (5,), (0, 900)])
def test_all_descriptors_are_closed_but_those_to_keep(kept: tuple[int, ...]) -> None:
    def close(proc_fd: int, complaints: int) -> None:
        proc.close_all_but(proc_fd, *kept, complaints)
        assert {number for number in range(1000) if is_open(number)} == {*kept, complaints, proc_fd}

    have_many_open_and(close)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
