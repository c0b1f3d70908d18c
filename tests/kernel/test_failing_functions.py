"""Functions that go wrong in a worker: the app learns what happened, and the worker works or is clearly dead."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from aions import AionsError, Namespace, Worker, WorkerDied, open_worker
from tests.kernel import called
from tests.kernel.explained import named, refusal, works
from tests.kernel.targets import on_one_loop, until

pytestmark = on_one_loop


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker where the app is, which has to work when the test is over."""
    async with open_worker() as worker:
        yield worker
        assert await works(worker)


async def test_a_function_that_cannot_be_pickled(worker: Worker) -> None:
    with pytest.raises(Exception, match=r"[Pp]ickle|local object"):
        await worker.run_sync(threading.Lock().acquire)


async def test_an_argument_that_cannot_be_pickled(worker: Worker) -> None:
    with socket.socket() as sock, pytest.raises(TypeError, match=r"cannot pickle 'socket' object"):
        await worker.run_sync(called.both, sock)


async def test_a_function_that_cannot_be_found(worker: Worker) -> None:
    gone = type("Gone", (), {"__module__": "no_such_module", "__reduce__": lambda self: "gone"})()
    with pytest.raises(Exception, match="no_such_module"):
        await worker.run_sync(called.both, gone)


async def test_a_function_that_raises(worker: Worker) -> None:
    with pytest.raises(LookupError, match="nothing there") as caught:
        await worker.run_sync(called.fail, "nothing there")
    (note,) = caught.value.__notes__
    assert "called.py" in note
    assert "in fail" in note


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit], ids=lambda kind: kind.__name__)
async def test_a_function_that_raises_what_ends_programs(worker: Worker, kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="on purpose"):
        await worker.run_sync(called.fail_with, kind)


@pytest.mark.parametrize(
    ("function", "said"),
    [(called.fail_with_what_does_not_pickle, "called.NeedsTwo: one and two"), (called.fail_with_a_thing_inside, "ValueError")],
    ids=["cannot be made again", "cannot be pickled"],
)
async def test_an_exception_that_cannot_travel(worker: Worker, function: Callable[[], None], said: str) -> None:
    with pytest.raises(AionsError, match=said) as caught:
        await worker.run_sync(function)
    assert function.__name__ in caught.value.__notes__[0]


async def test_a_result_that_cannot_be_pickled(worker: Worker) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        await worker.run_sync(called.result_that_does_not_pickle)


async def test_a_result_whose_pickling_raises_what_cannot_be_pickled(worker: Worker) -> None:
    with pytest.raises(AionsError, match=r"called\.NeedsTwo: no and never"):
        await worker.run_sync(called.stubborn_result)


async def test_a_function_that_exits(worker: Worker) -> None:
    async with worker.fork() as fork:
        with pytest.raises(WorkerDied, match=f"worker {fork.pid} has ended with status 7") as caught:
            await fork.run_sync(called.exit_at_once, 7)
        assert caught.value.status == 7


async def test_a_function_that_kills_its_worker(worker: Worker) -> None:
    async with worker.fork() as fork:
        with pytest.raises(WorkerDied, match=f"worker {fork.pid} has ended by SIGKILL") as caught:
            await fork.run_sync(called.kill_itself)
        assert caught.value.status == -signal.SIGKILL


async def test_a_function_that_returns_twice(worker: Worker) -> None:
    for _ in range(3):
        assert await worker.run_sync(called.fork_and_return_twice) > 0
    await until(lambda: not Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text())


NEW_USER_NAMESPACE = "unshare(CLONE_NEWUSER)" if os.geteuid() == 0 else "setns("
"""What is refused a worker that has run a function. A plain user's joins the namespace that a stand-in has made."""


async def test_a_function_that_leaves_a_thread(worker: Worker) -> None:
    await worker.run_sync(called.leave_a_thread)
    with refusal(errno.EINVAL, NEW_USER_NAMESPACE, named(worker), "more than one thread", "leave_a_thread"):
        await worker.unshare(Namespace.USER)


async def test_a_function_that_leaves_a_thread_is_named_whatever_runs_after_it(worker: Worker) -> None:
    for _ in range(5):
        await worker.run_sync(called.join_a_thread)
    await worker.run_sync(called.leave_a_thread)
    await worker.run_sync(called.remember, 1)
    await worker.run_sync(called.join_a_thread)
    with refusal(errno.EINVAL, NEW_USER_NAMESPACE, named(worker), "leave_a_thread"):
        await worker.unshare(Namespace.USER)


async def test_a_function_that_joins_its_threads(worker: Worker) -> None:
    for _ in range(5):
        await worker.run_sync(called.join_a_thread)
        async with worker.fork() as fork:
            await fork.run_sync(called.join_a_thread)
            await fork.unshare(Namespace.USER)


async def test_a_function_that_spoils_the_signals_of_its_worker(worker: Worker) -> None:
    await worker.run_sync(called.spoil_signals)
    assert await works(worker)
    for _ in range(5):
        with anyio.move_on_after(0):
            await worker.run_process(["true"])
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTSTP):
        os.kill(worker.pid, number)
    assert await works(worker)


async def test_a_function_that_starts_a_thread_where_none_can_be() -> None:
    """pthread_create(3) fails once the children are to be in another pid namespace."""
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        with pytest.raises(RuntimeError, match="thread") as caught:
            await worker.run_sync(called.join_a_thread)
        assert any("Worker.fork" in note for note in caught.value.__notes__)
        async with worker.fork() as fork:
            await fork.run_sync(called.join_a_thread)
        with pytest.raises(RuntimeError, match="on purpose") as other:
            await worker.run_sync(called.fail_with, RuntimeError)
        assert not any("Worker.fork" in note for note in other.value.__notes__)


async def test_a_function_that_starts_a_process_where_none_can_be() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        await worker.run_process(["true"])  # the first, and the last
        with pytest.raises(OSError, match="Cannot allocate memory") as caught:
            await worker.run_sync(subprocess.call, ["true"])
        assert any("has ended, and with it the namespace" in note for note in caught.value.__notes__)


async def test_an_exception_brings_the_ways_of_those_that_it_came_from(worker: Worker) -> None:
    with pytest.raises(RuntimeError) as caught:
        await worker.run_sync(called.fail_twice)
    (note,) = caught.value.__notes__
    assert "LookupError('first') was the direct cause of RuntimeError('second'):" in note
    assert note.endswith("in fail")


async def test_a_second_unshare_of_the_pid_namespace_explains_itself() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await worker.unshare(Namespace.PID)
        assert any("unshared its pid namespace already" in note for note in caught.value.__notes__)
