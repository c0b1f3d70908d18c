"""open_process: a command that runs, how it is talked to, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from aions import Namespace, Process, Worker, WorkerDied, open_worker
from tests.kernel import called
from tests.kernel.pipes import open_pipe, read_all
from tests.kernel.targets import has_ended, on_one_loop, status_field, until


@pytest.fixture(params=["home", "inside"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    """A worker where the app is, and one that is as far from there as most uses need."""
    inside = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.NETWORK
    async with open_worker(unshare=inside if request.param == "inside" else ()) as worker:
        yield worker


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    with open_pipe() as pipe:
        yield pipe


async def test_a_conversation(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process:
        assert isinstance(process, anyio.abc.Process)
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"one\n", b"two\n"):
            await process.stdin.send(line)
            assert await process.stdout.receive() == line
        assert process.returncode is None
        await process.stdin.aclose()
        with pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()
        assert await process.wait() == 0
    assert process.returncode == 0


async def test_streams_are_anyios(worker: Worker) -> None:
    async with await worker.open_process("echo grüß; echo dich", stdin=DEVNULL) as process:
        assert process.stdin is None
        assert process.stdout is not None
        assert "".join([text async for text in TextReceiveStream(process.stdout)]) == "grüß\ndich\n"


@on_one_loop
async def test_streams_that_are_not_pipes_are_none(worker: Worker) -> None:
    async with await worker.open_process(["true"], stdin=DEVNULL, stdout=DEVNULL, stderr=STDOUT) as process:
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)


async def test_sending_to_a_command_that_has_ended(worker: Worker) -> None:
    async with await worker.open_process(["true"]) as process:
        await process.wait()
        assert process.stdin is not None
        with pytest.raises(anyio.BrokenResourceError):
            await process.stdin.send(b"a" * 100_000)


async def test_streams_that_were_closed(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.aclose()
        await process.stdout.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdin.send(b"a")
        with pytest.raises(anyio.ClosedResourceError):
            await process.stdout.receive()


async def test_two_tasks_cannot_read_one_stream(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process, anyio.create_task_group() as tasks:
        assert process.stdout is not None
        tasks.start_soon(process.stdout.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await process.stdout.receive()
        tasks.cancel_scope.cancel()


@on_one_loop
async def test_pid_and_pidfd_are_of_the_command_as_the_app_sees_it(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process:
        assert status_field(process.pid, "NSpid").split()[0] == str(process.pid)
        assert status_field(process.pid, "PPid") == str(worker.pid)
        assert f"Pid:\t{process.pid}\n" in Path(f"/proc/self/fdinfo/{process.pidfd}").read_text()
    assert process.pidfd == -1


SIGNALS = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}


@pytest.mark.parametrize("method", SIGNALS)
@on_one_loop
async def test_a_command_can_be_ended(worker: Worker, method: str) -> None:
    async with await worker.open_process(["sleep", "600"]) as process:
        getattr(process, method)()
        assert await process.wait() == -SIGNALS[method]
        getattr(process, method)()  # does nothing any more
    getattr(process, method)()


@on_one_loop
async def test_signals_reach_a_command(worker: Worker) -> None:
    command = ["sh", "-c", "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done"]
    async with await worker.open_process(command) as process:
        assert process.stdout is not None
        assert await process.stdout.receive() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert await process.stdout.receive() == b"caught\n"
        assert await process.wait() == 5


async def test_the_status_comes_without_being_waited_for(worker: Worker) -> None:
    async with await worker.open_process("exit 4") as process:
        await until(lambda: process.returncode is not None)
        assert process.returncode == 4


async def test_many_tasks_can_wait_for_one_command(worker: Worker) -> None:
    statuses = []

    async def wait(process: Process) -> None:
        statuses.append(await process.wait())

    async with await worker.open_process(["sleep", "600"]) as process, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait, process)
        await anyio.wait_all_tasks_blocked()
        process.kill()
    assert statuses == [-9] * 5


async def test_waiting_can_be_cancelled_and_begun_again(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process:
        with anyio.move_on_after(0.01) as scope:
            await process.wait()
        assert scope.cancelled_caught
        assert process.returncode is None
        assert process.stdin is not None
        await process.stdin.aclose()
        assert await process.wait() == 0


async def test_leaving_the_block_waits_for_the_command(worker: Worker, tmp_path: Path) -> None:
    async with await worker.open_process(f"cat; sleep 0.05; touch {tmp_path}/done"):
        pass
    assert (tmp_path / "done").exists()


async def test_being_cancelled_in_the_block_kills_the_command(worker: Worker) -> None:
    with anyio.CancelScope() as scope:
        async with await worker.open_process(["sleep", "600"]) as process:
            pidfd = os.dup(process.pidfd)
            scope.cancel()
            await anyio.sleep_forever()
    assert has_ended(pidfd)
    os.close(pidfd)
    assert process.returncode == -signal.SIGKILL


async def test_being_cancelled_in_run_process_kills_the_command(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as tasks:
        command = ["bash", "-c", f"echo runs >&{writer.fileno()}; exec sleep 600"]
        tasks.start_soon(lambda: worker.run_process(command, pass_fds=[writer.fileno()]))
        with anyio.fail_after(10):
            await anyio.wait_readable(reader)
        tasks.cancel_scope.cancel()
    writer.close()
    assert await read_all(reader) == b"runs\n"


async def test_a_process_ends_with_its_worker(worker: Worker) -> None:
    process = await worker.open_process(["sleep", "600"])
    await worker.aclose()
    with anyio.fail_after(10), suppress(WorkerDied):  # before Linux 6.15, unless the worker had time to say how
        assert await process.wait() == -signal.SIGKILL
    with suppress(WorkerDied):
        await process.aclose()
    assert process.pidfd == -1


@pytest.mark.needs("kept_statuses")
async def test_the_status_of_a_command_outlives_its_worker(worker: Worker) -> None:
    ended = [await worker.open_process(f"exit {status}", stdin=DEVNULL) for status in range(5)]
    for process in ended:
        await anyio.wait_readable(process.pidfd)
    running = await worker.open_process(["sleep", "600"], stdin=DEVNULL)
    await worker.aclose()
    assert [await process.wait() for process in ended] == [0, 1, 2, 3, 4]
    assert await running.wait() == running.returncode == -signal.SIGKILL
    for process in (*ended, running):
        await process.aclose()


@pytest.mark.needs("kept_statuses")
async def test_the_status_of_a_command_outlives_a_worker_that_is_killed(worker: Worker) -> None:
    async with await worker.open_process("exit 3", stdin=DEVNULL) as ended:
        os.kill(worker.pid, signal.SIGSTOP)
        await anyio.wait_readable(ended.pidfd)
        os.kill(worker.pid, signal.SIGKILL)
        assert await ended.wait() == 3


@pytest.mark.needs("kept_statuses")
async def test_the_status_of_a_command_that_a_function_has_collected(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ends")
    async with await worker.open_process(f"read line < {tmp_path}/ends; exit 5") as process:
        assert await worker.run_sync(called.collect_a_child, str(tmp_path / "ends")) == 5
        with anyio.fail_after(10):
            assert await process.wait() == process.returncode == 5


async def test_the_end_of_a_command_is_seen_while_a_function_runs(worker: Worker, tmp_path: Path) -> None:
    for name in ("began", "go_on"):
        os.mkfifo(tmp_path / name)
    async with (
        await worker.open_process(f"read line < {tmp_path}/began; exit 5") as process,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(worker.run_sync, called.write_and_wait_for, str(tmp_path / "began"), str(tmp_path / "go_on"))
        try:
            with anyio.fail_after(10):
                assert await process.wait() == 5
        finally:
            (tmp_path / "go_on").write_text("")


@on_one_loop
async def test_what_a_command_starts_may_outlive_it(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    go_on, starter = socket.socketpair()
    with go_on, starter:
        passed = [go_on.fileno(), writer.fileno()]
        left = f"(read line <&{passed[0]}; echo $line >&{passed[1]}) > /dev/null 2>&1 &"
        await worker.run_process(["bash", "-c", left], pass_fds=passed)
        starter.send(b"still here\n")
    writer.close()
    assert await read_all(reader) == b"still here\n"


@on_one_loop
async def test_zombies_do_not_pile_up(worker: Worker) -> None:
    for _ in range(5):
        await worker.run_process("true & (true &) ; exit 0")
    await until(lambda: not Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text())
