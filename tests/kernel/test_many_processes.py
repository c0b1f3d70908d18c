"""Commands in numbers: no zombie, no status lost, no byte either."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from aions import Namespace, Process, Worker, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import children
from tests.kernel.targets import is_gone, until

INSIDE = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.NETWORK

AT_ONCE = 8


@pytest.fixture(params=["home", "inside"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    async with open_worker(unshare=INSIDE if request.param == "inside" else ()) as worker:
        yield worker


async def no_children_left(worker: Worker) -> None:
    await until(lambda: not children(worker.pid))


async def test_no_status_is_lost_and_no_zombie_left(worker: Worker) -> None:
    """By status and by signal; some leave an orphan, which the worker collects as well, though nobody asked for it."""
    rng, wrong = random.Random(7), list[str]()

    async def run(number: int) -> None:
        status = rng.choice([0, 1, 77, 255, -9, -15])
        orphan = "(true &) ; " if number % 10 == 0 else ""
        command = f"{orphan}exit {status}" if status >= 0 else f"{orphan}kill {status} $$"
        done = await worker.run_process(command, check=False)
        if done.returncode != status:
            wrong.append(f"{command}: {done.returncode}")

    async def run_each(first: int) -> None:
        for number in range(first, times("short commands"), AT_ONCE):
            await run(number)

    async with anyio.create_task_group() as tasks:
        for first in range(AT_ONCE):
            tasks.start_soon(run_each, first)
    assert wrong == []
    await no_children_left(worker)


TWICE_APART = "setsid sh -c '(trap \"\" TERM HUP; exec sleep 1000) & exit 0' >/dev/null 2>&1"
"""Starts a process in a session of its own whose parent ends at once, and which ignores what it is asked."""


async def test_what_has_forked_twice_is_collected_when_it_ends_and_ended_with_the_worker() -> None:
    for namespaces in ((), INSIDE):
        async with open_worker(unshare=namespaces) as worker:
            for _ in range(times("orphans")):
                await worker.run_process(TWICE_APART)
            await until(lambda: len(children(worker.pid)) == times("orphans"))
            orphans = children(worker.pid)
        assert all(map(is_gone, orphans))


async def test_commands_at_once_that_write_much_to_both_streams(worker: Worker) -> None:
    """A worker is out of the way of what its commands say."""
    count, size = times("commands at once"), 10_000_000
    seen: list[int] = []

    async def read_all(stream: anyio.abc.ByteReceiveStream | None) -> None:
        assert stream is not None
        seen.append(sum([len(chunk) async for chunk in stream]))

    async def run() -> None:
        command = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
        async with await worker.open_process(command) as process, anyio.create_task_group() as tasks:
            tasks.start_soon(read_all, process.stdout)
            tasks.start_soon(read_all, process.stderr)

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(run)
    assert seen == [size] * 2 * count
    await no_children_left(worker)


async def test_a_command_that_closes_its_streams_early(worker: Worker) -> None:
    async with await worker.open_process("exec <&- >&- 2>&-; exec sleep 1000") as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        for stream in (process.stdout, process.stderr):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"a" * 1_000_000)
        assert process.returncode is None
        process.kill()


async def test_a_command_that_is_killed_while_it_writes(worker: Worker) -> None:
    async with await worker.open_process(["cat", "/dev/zero"], stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        assert len(await process.stdout.receive(100_000)) > 0
        process.kill()
        with anyio.fail_after(20):
            _ = [chunk async for chunk in process.stdout]
        assert await process.wait() == -9


async def test_a_command_that_is_killed_while_it_is_written_to(worker: Worker) -> None:
    async with await worker.open_process(["sleep", "1000"]) as process, anyio.create_task_group() as tasks:

        async def send() -> None:
            assert process.stdin
            with pytest.raises(anyio.BrokenResourceError):
                await process.stdin.send(b"a" * 1_000_000)

        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        process.kill()
        assert await process.wait() == -9


HELD = {
    "stopped": "kill -STOP $$; exit 1",
    "ignoring all that can be ignored": "trap '' INT TERM HUP QUIT; echo; while :; do sleep 1000; done",
    "with children that hold its streams": "sleep 1000 & sleep 1000 & echo; wait",
}


async def cancelled_while_it_runs(process: Process) -> float:
    """Cancel what waits for a command; return how many seconds that took."""
    with anyio.fail_after(20), anyio.CancelScope() as scope:
        async with process:
            scope.cancel()
            before = anyio.current_time()
    return anyio.current_time() - before


@pytest.mark.parametrize("how", HELD)
async def test_cancelling_never_hangs(worker: Worker, how: str) -> None:
    process = await worker.open_process(HELD[how])
    if how == "stopped":
        await until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    else:
        assert process.stdout
        await process.stdout.receive()
    assert await cancelled_while_it_runs(process) < 2
    assert process.returncode == -9
    assert is_gone(process.pid)


@pytest.mark.needs("strace")
async def test_cancelling_does_not_hang_on_a_command_that_is_traced(worker: Worker) -> None:
    process = await worker.open_process(["cat"])
    tracer = await anyio.open_process(["strace", "-p", str(process.pid), "-o", "/dev/null"], stdin=subprocess.DEVNULL)
    async with tracer:
        assert tracer.stderr is not None
        said = b""
        while b"attached" not in said:
            said += await tracer.stderr.receive()
        assert await cancelled_while_it_runs(process) < 2
        assert is_gone(process.pid)
