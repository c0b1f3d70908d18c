"""System calls through the C library: what they are called, and how their refusals look."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from aions._sys import libc
from aions._sys.calls import KernelError
from tests.worker.apart import apart

ROOT = Path(__file__).parents[2]

NET, USER, TIME = 0x40000000, 0x10000000, 0x80


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (USER, "CLONE_NEWUSER"),
        (NET, "CLONE_NEWNET"),
        (TIME, "CLONE_NEWTIME"),
        (USER | NET, "CLONE_NEWUSER|CLONE_NEWNET"),
        (NET | TIME, "CLONE_NEWTIME|CLONE_NEWNET"),
        (0, "0"),
        (1, "1"),
    ],
)
def test_flags_are_spelt_as_in_c(flags: int, names: str) -> None:
    assert libc.flag_names(flags) == names


@pytest.mark.skipif(sys.version_info < (3, 12), reason="os has the flags from Python 3.12")
def test_flags_are_pythons_own() -> None:
    for name, value in libc.NAMESPACE_FLAGS.items():
        assert getattr(os, name) == value


def test_a_refused_unshare_names_the_call() -> None:
    with pytest.raises(KernelError) as caught:
        libc.unshare(1)  # no flag of unshare's
    assert (caught.value.errno, caught.value.call) == (errno.EINVAL, "unshare(1)")


def test_a_refused_setns_names_the_call() -> None:
    with pytest.raises(KernelError) as caught:
        libc.setns(-1, NET)
    assert (caught.value.errno, caught.value.call) == (errno.EBADF, "setns(-1, CLONE_NEWNET)")


def test_a_child_that_dies_with_its_parent_does() -> None:
    def grandparent() -> None:
        libc.become_subreaper()
        reading, writing = os.pipe()
        parent = os.fork()
        if parent == 0:
            child = os.fork()
            if child == 0:
                libc.die_with_parent()
                os.write(writing, b"%d" % os.getpid())
                signal.pause()
            os.read(reading, 0)
            signal.pause()
        child = int(os.read(reading, 100))
        os.kill(parent, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    apart(grandparent)


def test_a_subreaper_adopts_orphans() -> None:
    def reaper() -> None:
        libc.become_subreaper()
        parent = os.fork()
        if parent == 0:
            os._exit(0 if os.fork() else 42)
        assert os.waitpid(parent, 0)[1] == 0
        _orphan, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 42

    apart(reaper)


def ignored_signals() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigIgn:")), 16)


def test_signals_of_the_c_library_get_their_defaults_back() -> None:
    """posix_spawn(3) leaves them ignored in whatever it starts, and their descendants."""
    both = 3 << 31
    program = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.sys.test_libc import ignored_signals
from aions._sys import libc
assert ignored_signals() & {both} == {both}
libc.restore_internal_signals()
assert ignored_signals() & {both} == 0
"""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)
    assert os.waitpid(pid, 0)[1] == 0
