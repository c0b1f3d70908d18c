"""run_sync: anyio's to_process.run_sync, elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from aions import AionsError, Namespace, ProtocolError, Worker, WorkerDied, open_worker, run_sync
from tests.app.waiting import attentive_loop
from tests.kernel import called
from tests.kernel.scripts import run_script
from tests.kernel.targets import EVERY_KIND, names_of_worker, on_one_loop


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with open_worker() as worker:
        yield worker


async def test_a_function_runs_in_the_worker_itself() -> None:
    async with open_worker(unshare=EVERY_KIND) as worker:
        inside = await worker.run_sync(called.namespaces, [kind.kernel_name for kind in EVERY_KIND])
        assert {kind: inside[kind.kernel_name] for kind in EVERY_KIND} == await names_of_worker(worker)
        assert await worker.run_sync(os.getpid) == 1
        assert await run_sync(os.getpid) == 1


@on_one_loop
@pytest.mark.parametrize(
    "value",
    [None, 0, "grüß", b"\x00\xff", 1.5, [1, {"a": (2, {3})}], Path("/x"), Namespace.USER, ValueError("a", 1), len, object],
    ids=repr,
)
async def test_arguments_and_results_are_pickled(worker: Worker, value: object) -> None:
    first, second = await worker.run_sync(called.both, value, value)
    assert type(first) is type(value)
    assert repr(first) == repr(second) == repr(value)


@on_one_loop
async def test_keyword_arguments_go_by_partial(worker: Worker) -> None:
    assert await worker.run_sync(partial(called.both, second=2), 1) == (1, 2)


@on_one_loop
async def test_methods_are_called_on_a_copy(worker: Worker) -> None:
    assert await worker.run_sync("a-b".split, "-") == ["a", "b"]


@on_one_loop
async def test_a_hundred_megabytes_go_there_and_back(worker: Worker) -> None:
    data = bytes(range(256)) * 400_000
    assert await worker.run_sync(called.both, data) == (data, None)


@on_one_loop
async def test_what_a_function_does_to_the_process_stays_done(worker: Worker) -> None:
    directory, mask = os.getcwd(), await worker.run_sync(os.umask, 0o037)
    assert await worker.run_sync(os.umask, mask) == 0o037
    await worker.run_sync(os.chdir, "/usr")
    assert await worker.run_sync(os.getcwd) == "/usr"
    assert (await worker.run_process(["pwd"])).stdout == b"/usr\n"
    assert [await worker.run_sync(called.remember, number) for number in (1, 2)] == [[1], [1, 2]]
    assert os.getcwd() == directory
    assert called.STATE == []


@on_one_loop
async def test_a_fork_has_the_state_of_its_worker_and_its_own_from_then_on(worker: Worker) -> None:
    await worker.run_sync(called.remember, 1)
    async with worker.fork() as fork:
        assert await fork.run_sync(called.remember, 2) == [1, 2]
    assert await worker.run_sync(called.remember, 3) == [1, 3]


@on_one_loop
async def test_workers_do_not_share_state(worker: Worker) -> None:
    async with open_worker() as other:
        assert await worker.run_sync(called.remember, 1) == [1]
        assert await other.run_sync(called.remember, 2) == [2]


@on_one_loop
async def test_a_function_can_use_aions_itself(worker: Worker) -> None:
    assert await worker.run_sync(called.aions_sees, "net") == repr(Namespace.NETWORK)
    assert await worker.run_sync(os.getpid) == worker.pid


@on_one_loop
async def test_a_function_can_run_processes(worker: Worker) -> None:
    done = await worker.run_sync(partial(subprocess.run, ["echo", "inside"], capture_output=True, text=True))
    assert done.stdout == "inside\n"
    assert await worker.run_sync(os.system, "exit 3") == 3 << 8


@on_one_loop
async def test_an_exception_brings_its_way_through_the_worker(worker: Worker) -> None:
    with pytest.raises(LookupError, match="not there") as caught:
        await worker.run_sync(called.fail, "not there")
    assert caught.value.args == ("not there",)
    (note,) = caught.value.__notes__
    header, *frames = note.splitlines()
    assert header == "Traceback in the worker (most recent call last):"
    line = called.fail.__code__.co_firstlineno + 1
    assert frames[-1] == f'  File "{called.__file__}", line {line}, in fail'


@on_one_loop
async def test_an_os_error_keeps_its_class_and_its_numbers(worker: Worker) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await worker.run_sync(os.stat, "/no/such/file")
    assert (caught.value.errno, caught.value.filename) == (2, "/no/such/file")


MAIN = """
    import os
    import sys
    import anyio
    from dataclasses import dataclass
    from aions import Namespace, open_worker

    @dataclass
    class Point:
        x: int
        pid: int

    def move(point, by):
        return Point(point.x + by, os.getpid())

    def fail():
        raise LookupError(Point(1, 2))

    async def main():
        async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
            for _ in range(2):
                point = await worker.run_sync(move, Point(1, 0), 2)
                print(point, type(point) is Point)
            try:
                await worker.run_sync(fail)
            except LookupError as error:
                print(error.args, type(error.args[0]) is Point)

    if __name__ == "__main__":
        anyio.run(main, backend=sys.argv[1])
    else:
        print("imported as", __name__, flush=True)
    """


@on_one_loop
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_functions_and_classes_of_the_main_program(tmp_path: Path, backend: str) -> None:
    imported, *lines = run_script(tmp_path, MAIN, backend)
    assert imported == "imported as __mp_main__"
    assert lines == ["Point(x=3, pid=1) True"] * 2 + ["(Point(x=1, pid=2),) True"]


@on_one_loop
async def test_what_a_function_prints_goes_where_the_app_prints(tmp_path: Path) -> None:
    program = """
        import anyio
        from aions import open_worker
        async def main():
            async with open_worker() as worker:
                await worker.run_sync(print, "from the worker")
                print("from the app", flush=True)
                await worker.run_sync(print, "from the worker again")
        anyio.run(main)
        """
    assert run_script(tmp_path, program) == ["from the worker", "from the app", "from the worker again"]


def read_fifo(path: Path) -> str:
    return path.read_text()


async def begun(fifo: Path) -> int:
    """Wait until a call says that it has begun; return the pid of where it runs."""
    with anyio.fail_after(10):
        return int(await anyio.to_thread.run_sync(read_fifo, fifo))


async def test_a_cancellable_call_is_killed_and_the_worker_lives(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    async with anyio.create_task_group() as tasks:
        call = partial(worker.run_sync, called.write_and_wait, str(tmp_path / "began"), cancellable=True)
        tasks.start_soon(call)
        pid = await begun(tmp_path / "began")
        assert pid != worker.pid
        pidfd = os.pidfd_open(pid)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)
    assert await worker.run_sync(os.getpid) == worker.pid


async def test_a_cancellable_call_leaves_no_state_and_blocks_nobody(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    await worker.run_sync(called.remember, 1)
    async with anyio.create_task_group() as tasks:
        call = partial(worker.run_sync, called.write_and_wait, str(tmp_path / "began"), cancellable=True)
        tasks.start_soon(call)
        await begun(tmp_path / "began")
        limiter = anyio.CapacityLimiter(1)
        assert await worker.run_sync(called.remember, 2, cancellable=True, limiter=limiter) == [1, 2]
        assert await worker.run_sync(called.remember, 3) == [1, 3]
        tasks.cancel_scope.cancel()


async def test_a_cancellable_call_is_not_the_first_process_of_a_pid_namespace() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.TIME)
        assert await worker.run_sync(os.getpid, cancellable=True) > 1
        await worker.unshare(Namespace.PID)
        with pytest.raises(AionsError, match=r"first process.*Worker\.fork"):
            await worker.run_sync(os.getpid, cancellable=True)
        async with worker.fork() as first:
            assert await first.run_sync(os.getpid) == 1
            assert await worker.run_sync(os.getpid, cancellable=True) == 2
            await worker.run_process(["true"])


async def test_a_call_that_is_not_cancellable_is_waited_for(worker: Worker, tmp_path: Path) -> None:
    for name in ("began", "go_on"):
        os.mkfifo(tmp_path / name)
    finished = []

    async def call() -> None:
        await worker.run_sync(called.write_and_wait_for, str(tmp_path / "began"), str(tmp_path / "go_on"))
        finished.append(anyio.current_effective_deadline() == -float("inf"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        assert await begun(tmp_path / "began") == worker.pid
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync((tmp_path / "go_on").write_text, "")
    assert finished == [True]
    assert await worker.run_sync(called.remember, 2) == [1, 2]


async def test_other_calls_wait_for_a_function(worker: Worker, tmp_path: Path) -> None:
    for name in ("began", "go_on"):
        os.mkfifo(tmp_path / name)
    order = []

    async def call() -> None:
        await worker.run_sync(called.write_and_wait_for, str(tmp_path / "began"), str(tmp_path / "go_on"))
        order.append("function")

    async def ask() -> None:
        await worker.get_namespace_id(None, "net")
        order.append("question")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await begun(tmp_path / "began")
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync((tmp_path / "go_on").write_text, "")
    assert order == ["function", "question"]


async def test_a_limiter_is_held_for_the_length_of_a_call(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    limiter = anyio.CapacityLimiter(1)
    async with anyio.create_task_group() as tasks:
        call = partial(worker.run_sync, called.write_and_wait, str(tmp_path / "began"), cancellable=True, limiter=limiter)
        tasks.start_soon(call)
        await begun(tmp_path / "began")
        assert limiter.borrowed_tokens == 1
        with anyio.move_on_after(0.01) as scope:
            await worker.run_sync(os.getpid, limiter=limiter)
        assert scope.cancelled_caught
        tasks.cancel_scope.cancel()
    assert limiter.borrowed_tokens == 0
    assert await worker.run_sync(os.getpid, limiter=limiter) == worker.pid


async def test_cancellable_calls_take_the_default_limiter_of_processes(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    limiter = anyio.to_process.current_default_process_limiter()
    async with anyio.create_task_group() as tasks:
        call = partial(worker.run_sync, called.write_and_wait, str(tmp_path / "began"), cancellable=True)
        tasks.start_soon(call)
        await begun(tmp_path / "began")
        assert limiter.borrowed_tokens == 1
        await worker.run_sync(os.getpid)
        tasks.cancel_scope.cancel()
    assert limiter.borrowed_tokens == 0


async def test_a_cancelled_scope_does_not_start_a_call(worker: Worker) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await worker.run_sync(called.remember, 1)
    assert scope.cancelled_caught
    assert await worker.run_sync(called.remember, 2) == [2]


async def test_a_worker_that_dies_in_a_function_takes_its_children_along(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    async with worker.fork() as fork, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(WorkerDied):
                await fork.run_sync(called.write_and_wait, str(tmp_path / "began"))

        tasks.start_soon(call)
        pid = await begun(tmp_path / "began")
        os.kill(pid, signal.SIGKILL)
    assert await worker.run_sync(os.getpid) == worker.pid


def lower_limit() -> None:
    from aions._worker import functions

    vars(functions)["LARGEST_RESULT"] = 100_000


async def test_a_result_that_is_too_long_is_an_error_that_names_the_limit() -> None:
    async with open_worker() as worker:
        await worker.run_sync(lower_limit)
        with pytest.raises(AionsError, match=r"1000\d\d bytes when it is pickled, and 100000 are the limit"):
            await worker.run_sync(bytes, 100_000)
        assert await worker.run_sync(bytes, 99_900) == bytes(99_900)


def lie(size: int) -> None:
    """Have the worker answer with a file of that size, and nothing in it."""
    from aions._worker import functions

    def packed(_data: bytes) -> tuple[str, tuple[int, ...]]:
        memfd = os.memfd_create("lie")
        os.ftruncate(memfd, size)
        return "", (memfd,)

    vars(functions)["packed"] = packed


@pytest.mark.parametrize("size", [2**28 + 1, 3 * 2**30])
async def test_a_worker_that_answers_with_too_much_is_refused_at_once(size: int) -> None:
    async with open_worker() as worker, attentive_loop():
        with pytest.raises(ProtocolError, match=f"memfd of {size} bytes"):
            await worker.run_sync(lie, size)
        with pytest.raises(ProtocolError, match=f"memfd of {size} bytes"):
            await worker.run_sync(os.getpid)


@on_one_loop
async def test_large_arguments_and_results_arrive_and_hold_up_nothing() -> None:
    async with open_worker() as worker:
        data = bytes(200 * 2**20)
        assert await worker.run_sync(len, data) == len(data)
        async with attentive_loop():
            result = await worker.run_sync(bytes, len(data))
        assert result == data
