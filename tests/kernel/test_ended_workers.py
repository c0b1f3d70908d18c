"""Workers that end, stop, or are closed: every call learns of it, and nobody else is harmed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from aions import (
    Clock,
    GroupMapping,
    Namespace,
    UserMapping,
    Worker,
    WorkerDied,
    current_worker,
    open_worker,
    run_process,
    unshare,
)
from tests.kernel.explained import works
from tests.kernel.scripts import run_script
from tests.kernel.targets import (
    name_of_worker,
    names_of,
    names_of_worker,
    on_one_loop,
    status_field,
    target,
    target_as_root,
    until,
)

Act = Callable[[Worker], Awaitable[Any]]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker where the app is, which has to work when the test is over."""
    async with open_worker() as worker:
        yield worker
        assert await works(worker)


async def test_a_worker_that_is_killed(worker: Worker) -> None:
    async with open_worker(unshare=Namespace.USER) as killed:
        os.kill(killed.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(WorkerDied, match=f"worker {killed.pid} has ended by SIGKILL") as caught:
                await killed.get_namespace_id(None, "net")
            assert caught.value.status == -signal.SIGKILL
        assert await works(worker)


def with_arguments(*arguments: str) -> list[int]:
    """Return the processes that have these arguments, but for those that have ended."""
    wanted = "".join(f"{argument}\0" for argument in arguments).encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (directory / "cmdline").read_bytes() == wanted:
                found.append(int(directory.name))
    return found


@on_one_loop
@pytest.mark.parametrize("when", ["opened", "entered"])
async def test_what_was_started_in_somebody_elses_pid_namespace_ends_with_the_worker(when: str) -> None:
    """KERNEL: there it falls to the first process of that namespace, which does not belong to us."""
    kinds = Namespace.USER | Namespace.PID
    command = ["sleep", str(10_000_000 + os.getpid())]
    with target_as_root(kinds) as pid:
        async with open_worker(enter=(pid, kinds) if when == "opened" else None) as worker:
            if when == "entered":
                await worker.enter(pid, kinds)
            running = await worker.open_process(command)
            if when == "opened":
                await worker.run_process(f"{' '.join(command)} >/dev/null 2>&1 &")
                await until(lambda: len(with_arguments(*command)) == 2)
        await until(lambda: not with_arguments(*command))
        with suppress(WorkerDied):  # the first process there collects nobody, so nobody learns of the status
            await running.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGRTMIN + 5])
async def test_a_worker_that_a_signal_ends(worker: Worker, number: int) -> None:
    async with open_worker() as killed:
        os.kill(killed.pid, number)
        with pytest.raises(WorkerDied, match="has ended by ") as caught:
            await killed.get_namespace_id(None, "net")
        assert caught.value.status == -number


async def test_a_worker_that_is_killed_while_calls_wait(worker: Worker) -> None:
    async def call(killed: Worker) -> None:
        with pytest.raises(WorkerDied):
            await killed.get_namespace_id(None, "net")

    async with open_worker() as killed:
        os.kill(killed.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call, killed)
            await anyio.wait_all_tasks_blocked()
            os.kill(killed.pid, signal.SIGKILL)


async def test_a_worker_that_is_killed_while_its_command_runs(worker: Worker) -> None:
    async with open_worker() as killed:
        process = await killed.open_process(["sleep", "600"])
        os.kill(killed.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await process.wait()
        with anyio.fail_after(10):
            await anyio.wait_readable(process.pidfd)
        with pytest.raises(WorkerDied):
            await process.aclose()


async def test_a_fork_that_is_killed_while_its_command_runs(worker: Worker) -> None:
    async with worker.fork() as killed:
        process = await killed.open_process(["sleep", "600"])
        os.kill(killed.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await process.wait()
        try:
            with anyio.fail_after(2):
                await anyio.wait_readable(process.pidfd)
        finally:
            with pytest.raises(WorkerDied):
                await process.aclose()


async def test_run_process_in_a_worker_that_is_killed(worker: Worker, tmp_path: Path) -> None:
    async def kill_once_it_runs(killed: Worker) -> None:
        await until((tmp_path / "runs").exists)
        os.kill(killed.pid, signal.SIGKILL)

    async with open_worker() as killed, anyio.create_task_group() as tasks:
        tasks.start_soon(kill_once_it_runs, killed)
        with pytest.raises(WorkerDied):
            await killed.run_process(f"touch {tmp_path}/runs; exec sleep 600")


async def test_all_workers_end_with_the_forkserver_and_another_takes_its_place() -> None:
    async with open_worker() as at_home, open_worker(unshare=Namespace.USER) as inside, open_worker() as entered:
        await entered.enter_namespace(inside.pid, Namespace.USER)
        forkserver = int(status_field(at_home.pid, "PPid"))
        os.kill(forkserver, signal.SIGKILL)
        for worker in (at_home, inside, entered):
            with anyio.fail_after(10):
                await anyio.wait_readable(worker.pidfd)
            with pytest.raises(WorkerDied):
                await worker.get_namespace_id(None, "net")
        async with open_worker(unshare=Namespace.USER) as other:
            assert int(status_field(other.pid, "PPid")) != forkserver
            assert await works(other)


@pytest.mark.root
@on_one_loop
async def test_a_worker_in_another_users_namespace_ends_with_the_forkserver_too() -> None:
    """The kernel forgets PR_SET_PDEATHSIG there."""
    with target(Namespace.USER, owner=65534) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, Namespace.USER)
            os.kill(int(status_field(worker.pid, "PPid")), signal.SIGKILL)
            with anyio.fail_after(10):
                await anyio.wait_readable(worker.pidfd)


async def test_a_stopped_worker_and_cancelled_calls(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    acts: list[Act] = [
        lambda worker: worker.get_namespace_id(None, "net"),
        lambda worker: worker.socket(),
        lambda worker: worker.run_process(["echo", "nobody reads this"]),
        lambda worker: worker.unshare(Namespace.USER),
        lambda worker: worker.fork().__aenter__(),
        lambda worker: worker.run_sync(os.getpid, cancellable=True),
    ]
    for act in acts:
        with anyio.move_on_after(0.01) as scope:
            await act(worker)
        assert scope.cancelled_caught
    async with open_worker() as other:
        assert await works(other)
    os.kill(worker.pid, signal.SIGCONT)
    assert str(await worker.get_namespace_id(None, "net")) == await name_of_worker(worker, Namespace.NETWORK)


async def test_a_cancelled_call_does_not_touch_another(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    found = []

    async def ask(kind: Namespace) -> None:
        found.append(await worker.get_namespace_id(None, kind))

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.01) as scope:
            await ask(Namespace.UTS)
        tasks.start_soon(ask, Namespace.NETWORK)
        tasks.start_soon(ask, Namespace.MOUNT)
        await anyio.wait_all_tasks_blocked()
        os.kill(worker.pid, signal.SIGCONT)
    assert scope.cancelled_caught
    assert {str(each) for each in found} == {
        await name_of_worker(worker, kind) for kind in (Namespace.NETWORK, Namespace.MOUNT)
    }


CLOSED: dict[str, Act] = {
    "unshare": lambda worker: worker.unshare("net"),
    "set_namespace": lambda worker: worker.set_namespace(0, "net"),
    "enter_namespace": lambda worker: worker.enter_namespace(os.getpid(), "net"),
    "get_namespace_id": lambda worker: worker.get_namespace_id(None, "net"),
    "get_namespace_id of another": lambda worker: worker.get_namespace_id(os.getpid(), "net"),
    "write_user_mappings": lambda worker: worker.write_user_mappings(None, [UserMapping(0, 0, 1)]),
    "write_group_mappings": lambda worker: worker.write_group_mappings(None, [GroupMapping(0, 0, 1)]),
    "set_clock_offset": lambda worker: worker.set_clock_offset(Clock.MONOTONIC, 1),
    "fork": lambda worker: worker.fork().__aenter__(),
    "run_process": lambda worker: worker.run_process(["true"]),
    "open_process": lambda worker: worker.open_process(["true"]),
    "run_sync": lambda worker: worker.run_sync(os.getpid),
    "run_sync, cancellable": lambda worker: worker.run_sync(os.getpid, cancellable=True),
    "socket": lambda worker: worker.socket(),
}


@on_one_loop
@pytest.mark.parametrize("act", CLOSED.values(), ids=CLOSED)
async def test_a_closed_worker(act: Act) -> None:
    async with open_worker() as worker:
        await worker.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await act(worker)


async def test_a_worker_that_is_closed_while_calls_wait() -> None:
    async def call(worker: Worker) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await worker.get_namespace_id(None, "net")

    async with open_worker() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call, worker)
            await anyio.wait_all_tasks_blocked()
            await worker.aclose()


async def test_the_default_worker_is_replaced_where_nobody_had_moved_it() -> None:
    first = await current_worker()
    os.kill(first.pid, signal.SIGKILL)
    with anyio.fail_after(10):
        while await current_worker() is first:
            await anyio.sleep(0.001)
    second = await current_worker()
    assert await names_of_worker(second) == names_of("self")
    assert await works(second)


async def test_the_default_worker_is_replaced_when_it_was_closed() -> None:
    first = await current_worker()
    await first.aclose()
    assert await current_worker() is not first
    assert (await run_process(["true"])).returncode == 0


async def test_the_default_worker_stays_dead_where_it_had_been_moved() -> None:
    await unshare(["user", "net"])
    moved = await current_worker()
    os.kill(moved.pid, signal.SIGKILL)
    for _ in range(3):
        with pytest.raises(WorkerDied):
            await run_process(["true"])
    assert await current_worker() is moved


async def test_a_moved_default_worker_stays_dead_when_the_forkserver_dies_with_it() -> None:
    await unshare(["user", "net"])
    moved = await current_worker()
    os.kill(int(status_field(moved.pid, "PPid")), signal.SIGKILL)
    with anyio.fail_after(10):
        await anyio.wait_readable(moved.pidfd)
    async with open_worker() as other:  # starts another forkserver
        assert await works(other)
    with pytest.raises(WorkerDied):
        await run_process(["true"])


FORKED = """
    import asyncio
    import os
    import sys
    import warnings
    from aions import Namespace, UserMapping, current_worker, open_worker, run_process

    async def in_a_fork(act):
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        try:
            asyncio.run(act())
        except BaseException as error:
            print(type(error).__name__, "this is a fork of it" in str(error))
        else:
            print("went well")
        finally:
            sys.stdout.flush()
            os._exit(0)

    async def open_and_run():
        async with open_worker(unshare=Namespace.USER):
            await run_process(["true"])

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60
        warnings.simplefilter("ignore")  # that this program forks
        default = await current_worker()
        async with open_worker(unshare=Namespace.USER) as worker, worker.fork() as other:
            for act in (
                lambda: worker.unshare("net"),
                lambda: worker.get_namespace_id(None, "net"),
                lambda: worker.get_namespace_id(1, "net"),
                lambda: worker.write_user_mappings(None, [UserMapping(0, 0, 1)]),
                lambda: worker.run_process(["true"]),
                lambda: worker.run_sync(os.getpid),
                lambda: worker.run_sync(os.getpid, cancellable=True),
                lambda: worker.socket(),
                lambda: worker.fork().__aenter__(),
            ):
                await in_a_fork(act)
            print("workers of its own:")
            await in_a_fork(open_and_run)
            await in_a_fork(lambda: run_process(["true"]))
            print("closing:")
            await in_a_fork(worker.aclose)
            await in_a_fork(other.aclose)
            for each in (worker, other, default):
                await each.run_process(["true"])
            print("the app goes on")

    asyncio.run(main())
    """


@on_one_loop
async def test_a_fork_of_the_app_uses_workers_of_its_own(tmp_path: Path) -> None:
    assert run_script(tmp_path, FORKED) == [
        *["RuntimeError True"] * 9,
        *["workers of its own:", "went well", "went well"],
        *["closing:", "went well", "went well"],
        "the app goes on",
    ]
