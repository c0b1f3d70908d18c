"""The logger `aions`: at DEBUG a line for each system call that a worker makes."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator

import pytest

from aions import Namespace, UserMapping, open_worker
from tests.kernel.targets import on_one_loop

LINE = re.compile(r"(worker \d+|the forkserver): (\d\d):(\d\d):(\d\d)\.\d{6} (.*) <\d+\.\d{6}>")


class Listener(logging.Handler):
    """Hears what the workers and the forkserver have called."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert (record.name, record.levelno) == ("aions", logging.DEBUG)
        self.lines.append(record.getMessage())

    def calls(self, who: str) -> list[str]:
        """Return what somebody has called, without the times."""
        matches = [LINE.fullmatch(line) for line in self.lines]
        assert all(matches), self.lines
        return [match[5] for match in matches if match and match[1] == who]


@pytest.fixture
def listener() -> Iterator[Listener]:
    logger, listener = logging.getLogger("aions"), Listener()
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    yield listener
    logger.setLevel(before)
    logger.removeHandler(listener)


async def test_each_call_is_a_line_that_names_who_made_it(listener: Listener) -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER | Namespace.NETWORK)
        await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])
        with pytest.raises(OSError, match="Invalid argument"), open(os.devnull) as null:
            await worker.set_namespace(null, "net")
        calls = listener.calls(f"worker {worker.pid}")
        assert calls[0] == "prctl(PR_SET_PDEATHSIG, SIGKILL) = 0"
        assert "unshare(CLONE_NEWUSER|CLONE_NEWNET) = 0" in calls
        assert re.fullmatch(r"setns\(\d+, CLONE_NEWNET\) = -1 EINVAL \(Invalid argument\)", calls[-1])
    calls = listener.calls("the forkserver")
    mapping = f"'0 {os.geteuid()} 1\\n'"
    written = rf"write\(\d+</proc/{worker.pid}/uid_map>, {re.escape(mapping)}\) = \d+"
    assert [call for call in calls if call.startswith("write(")]
    assert all(re.fullmatch(written, call) for call in calls if call.startswith("write("))


@on_one_loop
async def test_a_line_bears_the_time_of_the_call(listener: Listener) -> None:
    async with open_worker() as worker:
        before = time.time()
        await worker.unshare(Namespace.USER)
        after = time.time()
        (line,) = (line for line in listener.lines if " unshare(" in line)
        match = LINE.fullmatch(line)
        assert match
        hours, minutes, seconds = (int(match[number]) for number in (2, 3, 4))
        so_late = (hours * 60 + minutes) * 60 + seconds
        assert (so_late - int(before)) % 86400 <= int(after) - int(before)


@on_one_loop
async def test_commands_are_logged_with_what_happens_before_they_run(listener: Listener) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.run_process(["true"])
        await worker.run_process(["true"], cwd="/", umask=0o77, extra_groups=None, user=0)
        with pytest.raises(FileNotFoundError):
            await worker.run_process(["true"], cwd="/no/such/directory")
        await worker.get_namespace_id(None, "net")
        calls = "\n".join(listener.calls(f"worker {worker.pid}"))
        assert re.search(r'^posix_spawn\("\S*/true", \[\'true\'\]\) = \d+$', calls, re.MULTILINE)
        assert re.search(r"^fork\(\) = \d+$", calls, re.MULTILINE)
        assert 'chdir("/") = 0\n' in calls
        assert re.search(r"^umask\(0o77\) = \d+$", calls, re.MULTILINE)
        assert "setreuid(0, 0) = 0\n" in calls
        assert 'chdir("/no/such/directory") = -1 ENOENT (No such file or directory)\n' in calls
        assert re.search(r"^wait4\(-1, \[0x0\], WNOHANG, NULL\) = \d+$", calls, re.MULTILINE)


@on_one_loop
async def test_a_fork_does_not_repeat_what_its_parent_called(listener: Listener) -> None:
    async with open_worker(unshare=Namespace.USER) as worker, worker.fork() as fork:
        await fork.get_namespace_id(None, "net")
        assert len(listener.calls(f"worker {worker.pid}")) > 2
        calls = listener.calls(f"worker {fork.pid}")
        assert [call.partition("(")[0] for call in calls] == [
            "prctl",
            "prctl",
            "prctl",
            "openat",
            *["ioctl"] * (len(calls) - 4),
        ]


@on_one_loop
async def test_it_can_be_switched_on_and_off_at_any_time(listener: Listener) -> None:
    logger = logging.getLogger("aions")
    async with open_worker() as worker:
        for level, has_lines in ((logging.INFO, False), (logging.DEBUG, True), (logging.INFO, False), (logging.DEBUG, True)):
            logger.setLevel(level)
            listener.lines.clear()
            await worker.get_namespace_id(None, "net")
            assert bool(listener.calls(f"worker {worker.pid}")) is has_lines
