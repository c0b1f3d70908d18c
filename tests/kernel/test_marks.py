"""What tests leave behind is found: whatever it did to its environment, its session, its parent and its user."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import DEVNULL

import pytest

from aions import open_worker
from tests import marks
from tests.kernel.programs.running import parent, wait_until

LEAVES = "exec env -i setsid --fork sleep 1000"
"""A command that ends at once and leaves another: in a session of its own, without an environment, an orphan."""


async def test_workers_their_commands_and_what_these_leave_are_found() -> None:
    before = marks.of_this_run()
    async with open_worker() as worker, worker.fork() as fork:
        forkserver = parent(worker.pid)
        assert {worker.pid, fork.pid, forkserver} <= marks.of_this_run()
        await worker.run_process(LEAVES, stdin=DEVNULL, stdout=None, stderr=None)
        async with await worker.open_process(["sleep", "1000"]) as command:
            assert len(marks.of_this_run() - before - {worker.pid, fork.pid, forkserver, command.pid}) >= 1
            command.kill()


@pytest.mark.root
async def test_a_worker_that_changed_its_user_is_found() -> None:
    async with open_worker() as worker:
        await worker.run_sync(os.setresuid, 65534, 65534, 65534)
        assert worker.pid in marks.of_this_run()


def test_programs_are_told_from_each_other_and_from_those_of_another_run() -> None:
    one, other = marks.new_mark(), marks.new_mark()
    with marks.marking(one):
        process = subprocess.Popen([sys.executable, "-c", f"import os; os.execvp('sh', ['sh', '-c', {LEAVES!r}])"])
    process.wait()
    wait_until(lambda: marks.of_program(one), 1)
    (left,) = marks.of_program(one)
    assert left in marks.of_this_run()
    assert marks.of_program(other) == set()
    os.kill(left, 9)
    wait_until(lambda: not marks.of_program(one), 1)
    assert marks.of_program(one) == set()


def test_what_is_not_to_be_found_is_not() -> None:
    with marks.marking(None):
        process = subprocess.Popen(["sleep", "1000"])
    with process:
        assert process.pid not in marks.of_this_run()
        process.kill()
