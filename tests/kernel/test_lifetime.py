"""Nothing outlives the app, however it ends; and the app learns when what it relies on has ended."""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest

from aions import Namespace, Worker, WorkerDied, current_worker, get_namespace_id, open_worker
from aions._sys import proc
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import BACKENDS, Program, children, command, parent, state, wait_until, zombies
from tests.kernel.targets import target_as_root


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outlives_an_app_that_is_killed(backend: str, tmp_path: Path) -> None:
    for attempt in range(times("app killed")):
        with Program(backend, "lifetime", "until_killed", tmp_path / str(attempt)) as app:
            assert app.report() == {"begins": True}
            pids = app.report()
            assert state(pids["stopped"]) == "T"
            assert set(pids.values()) < app.left()
            assert len(app.left()) >= len(pids) + 3  # the app and two commands
            app.process.kill()
            assert app.left_after(1) == []
            assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outlives_an_app_that_is_killed_while_it_opens_workers(backend: str, tmp_path: Path) -> None:
    for attempt in range(times("app killed early")):
        with Program(backend, "lifetime", "until_killed", tmp_path / str(attempt)) as app:
            assert app.report() == {"begins": True}
            time.sleep(random.uniform(0, 0.1))  # opening them all takes about as long
            app.process.kill()
            assert app.left_after(1) == []
            assert app.stderr() == ""


def of_commands(app: Program) -> list[str]:
    """Return the command lines of the commands that run, and of what they have started."""
    return sorted(line for pid in app.left() if (line := command(pid).strip()).startswith(("sleep", "sh", "/bin/sh")))


@contextmanager
def in_an_entered_pid_namespace(backend: str) -> Iterator[tuple[Program, dict[str, int]]]:
    """Have a program run commands in a pid namespace that unshare(1) has made; give the program and what it reports."""
    with target_as_root(Namespace.PID) as pid, Program(backend, "lifetime", "in_an_entered_pid_namespace", pid) as app:
        reported = app.report()
        wait_until(lambda: len(of_commands(app)) == 9, 5)
        assert len(of_commands(app)) == 9  # each worker's shell with two children, and another one; and an orphan
        yield app, reported


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_a_killed_app_is_left_in_a_pid_namespace_that_was_entered(backend: str) -> None:
    for _ in range(times("app killed")):
        with in_an_entered_pid_namespace(backend) as (app, _):
            app.process.kill()
            assert app.left_after(1) == []
            assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_a_killed_worker_is_left_in_a_pid_namespace_that_was_entered_by_it_alone(backend: str) -> None:
    with in_an_entered_pid_namespace(backend) as (app, reported):
        os.kill(reported["outside"], signal.SIGKILL)
        wait_until(lambda: len(of_commands(app)) == 5, 1)
        assert len(of_commands(app)) == 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("killed", ["inside", "forkserver"])
def test_the_commands_of_a_worker_inside_of_somebody_elses_pid_namespace_end_with_it(backend: str, killed: str) -> None:
    """What these have started is then the child of that namespace's first process, and out of reach."""
    with in_an_entered_pid_namespace(backend) as (_app, reported):
        commands = [pid for pid in children(reported["inside"]) if command(pid).startswith(("sleep 1002", "/bin/sh"))]
        assert len(commands) == 2
        os.kill(reported[killed], signal.SIGKILL)
        wait_until(lambda: all(state(pid) in "XZ" for pid in commands), 1)
        assert [state(pid) for pid in commands if state(pid) not in "XZ"] == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("how", "status"), [("return", 0), ("exception", 1), ("_exit", 0)])
def test_nothing_outlives_an_app_that_ends(backend: str, how: str, status: int, tmp_path: Path) -> None:
    with Program(backend, "lifetime", "ends", tmp_path, how) as app:
        assert app.end() == status
        assert app.left_after(1) == []
        assert ("Unexpected" in app.stderr()) == (how == "exception")
        assert "Warning" not in app.stderr()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_worker_outlives_an_app_of_which_a_fork_lives_on(backend: str, tmp_path: Path) -> None:
    with Program(backend, "lifetime", "ends", tmp_path, "_exit, and a fork lives on") as app:
        fork = app.report()["fork"]
        assert app.end() == 0
        assert app.left_after(1, but=fork) == []
        assert app.left() == {fork}
        assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_worker_outlives_an_event_loop_while_a_fork_of_the_app_lives_on(backend: str) -> None:
    with Program(backend, "lifetime", "loop_ends_and_a_fork_lives_on") as app:
        here = {app.report()["fork"], app.process.pid}
        wait_until(lambda: app.left() == here, 1)
        assert app.left() == here
        assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fork_of_the_app_keeps_its_hands_off(backend: str) -> None:
    with Program(backend, "lifetime", "forks", python=()) as app:
        facts = app.report()
        assert facts["child"] == 7
        assert facts["same"]
        assert app.end() == 0
        assert app.left_after(1) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_event_loop_that_closes_nothing_ends_quickly_and_without_a_warning(backend: str) -> None:
    with Program(backend, "lifetime", "closes_nothing") as app:
        facts = app.report()
        assert app.end() == 0
        assert time.monotonic() - facts["now"] < 0.5
        assert facts["loop"] < 0.2
        assert app.left_after(1) == []
        assert app.stderr() == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outlives_an_app_that_ends_beside_an_event_loop_in_a_thread(backend: str) -> None:
    with Program(backend, "lifetime", "ends_beside_a_loop", python=()) as app:
        assert app.report() == {"begun": True}
        app.go_on()
        assert app.end() == 0
        assert app.left_after(1) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_event_loops_come_and_go_without_a_trace(backend: str) -> None:
    with Program(backend, "lifetime", "many_loops", times("loops in one program")) as app:
        facts = app.report()
        assert app.end() == 0
        assert facts["forkservers"] == 0
        assert facts["slowest"] < 0.2
        assert facts["descriptors"][-1] == facts["descriptors"][1]  # uvloop opens one in its first loop, for good
        assert app.stderr() == ""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_nothing_outlives_a_loop_that_was_closed_without_its_generators(backend: str) -> None:
    with Program(backend, "lifetime", "loop_closed_without_shutdown", python=()) as app:
        assert app.end() == 0
        assert app.left_after(1) == []
        assert app.stderr() == ""


def test_a_process_that_is_gone_has_no_children() -> None:
    """What ends the descendants of a worker asks for the children of processes that end while it asks."""
    descriptor = proc.open_proc()
    try:
        assert proc.children(descriptor, 2**30) == []
    finally:
        os.close(descriptor)


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


async def learns_of_it(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(WorkerDied):
        await call()


async def test_calls_learn_within_a_second_that_the_forkserver_was_killed() -> None:
    for _ in range(times("forkserver killed")):
        async with open_worker() as worker, open_worker(unshare=["user", "pid"]) as inside, worker.fork() as fork:
            sleeping = await inside.open_process(["sleep", "1000"], stdout=DEVNULL)
            forkserver = parent(worker.pid)
            for pid in (worker.pid, forkserver):
                os.kill(pid, signal.SIGSTOP)
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(learns_of_it, partial(worker.get_namespace_id, None, "net"))
                    tasks.start_soon(learns_of_it, partial(worker.get_namespace_id, os.getpid(), "net"))
                    tasks.start_soon(learns_of_it, worker.fork().__aenter__)
                    tasks.start_soon(learns_of_it, partial(fork.run_sync, time.sleep, 1000, cancellable=True))
                    tasks.start_soon(learns_of_it, sleeping.wait)
                    await anyio.wait_all_tasks_blocked()
                    os.kill(forkserver, signal.SIGKILL)
                    killed = time.monotonic()
            assert time.monotonic() - killed < 1
            with pytest.raises(WorkerDied):
                await sleeping.aclose()


async def kill_forkserver(worker: Worker) -> None:
    """Kill the forkserver that a worker comes from, where nobody waits for it."""
    pid = parent(worker.pid)
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def test_no_worker_outlives_the_forkserver() -> None:
    for _ in range(times("forkserver killed")):
        async with open_worker() as worker, open_worker(unshare=["user", "pid"]) as inside, worker.fork() as fork:
            os.kill(worker.pid, signal.SIGSTOP)
            await kill_forkserver(worker)
            with anyio.fail_after(1):
                for each in (worker, inside, fork):
                    await anyio.wait_readable(each.pidfd)


async def test_closing_a_worker_ends_its_command_although_the_forkserver_was_killed() -> None:
    async with open_worker() as worker:
        command = await worker.open_process(["sleep", "1000"], stdout=DEVNULL)
        pidfd = os.dup(command.pidfd)
        await kill_forkserver(worker)
    with suppress(WorkerDied):  # before Linux 6.15
        await command.aclose()
    try:
        wait_until(lambda: ended(pidfd), 1)
        assert ended(pidfd)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


@pytest.mark.root
async def test_a_worker_that_changed_its_user_does_not_outlive_the_forkserver() -> None:
    async with open_worker() as worker:
        await worker.run_sync(os.setresuid, 65534, 65534, 65534)
        async with worker.fork() as fork:
            await kill_forkserver(worker)
            with anyio.fail_after(1):
                for each in (worker, fork):
                    await anyio.wait_readable(each.pidfd)


async def test_the_next_worker_comes_from_a_new_forkserver() -> None:
    for _ in range(times("forkserver killed")):
        async with open_worker() as worker:
            before = parent(worker.pid)
            await kill_forkserver(worker)
        async with open_worker() as worker:
            assert parent(worker.pid) != before
            assert await worker.get_namespace_id(None, "net") == await worker.get_namespace_id(os.getpid(), "net")


async def test_the_default_worker_comes_back_after_the_forkserver() -> None:
    expected = await get_namespace_id(None, "net")
    for _ in range(times("forkserver killed")):
        await kill_forkserver(await current_worker())
        assert await get_namespace_id(None, "net") == expected
        assert await get_namespace_id(os.getpid(), "net") == expected


async def test_a_worker_opens_after_the_forkserver_of_the_default_worker_was_killed() -> None:
    await kill_forkserver(await current_worker())
    async with open_worker() as worker:
        assert not ended(worker.pidfd)


async def use_for_ever(worker: Worker) -> None:
    while True:
        await worker.get_namespace_id(None, "net")
        (await worker.socket()).close()
        await worker.run_sync(time.sleep, 0.001)
        await worker.run_process(["true"])
        async with worker.fork() as fork:
            await fork.get_namespace_id(None, "net")


async def use_until_it_dies(worker: Worker, told: list[float]) -> None:
    with pytest.raises(WorkerDied) as caught:
        await use_for_ever(worker)
    told.append(time.monotonic())
    assert caught.value.status in (-signal.SIGKILL, 0, None)  # 0: a fork that saw the end of its parent by itself


async def test_the_caller_learns_of_a_killed_worker_and_nobody_else_minds() -> None:
    async with open_worker() as other:
        forkserver = parent(other.pid)
        killed: list[float] = []
        told: list[float] = []
        for _ in range(times("worker killed")):
            with anyio.fail_after(10):
                async with open_worker() as worker, anyio.create_task_group() as tasks:
                    tasks.start_soon(use_until_it_dies, worker, told)
                    await anyio.sleep(random.uniform(0, 0.01))
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append(time.monotonic())
            assert time.monotonic() - killed[-1] < 1
            assert await other.get_namespace_id(None, "net")
            wait_until(lambda: not zombies(forkserver), 1)
            assert zombies(forkserver) == []
        delays = [after - before for before, after in zip(killed, told, strict=True)]
        assert statistics.median(delays) < 0.1  # a busy machine may take longer once


async def test_a_killed_worker_takes_its_commands_along() -> None:
    async with open_worker() as worker:
        command = "sleep 1000 & setsid --fork sleep 1000; setsid sleep 1000"
        process = await worker.open_process(command, stdin=DEVNULL, stderr=DEVNULL)
        assert process.stdout is not None
        wait_until(lambda: len(children(worker.pid)) == 2, 1)  # the shell, and an orphan that the worker has adopted
        os.kill(worker.pid, signal.SIGKILL)
        with anyio.fail_after(1), pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()
        with suppress(WorkerDied):  # unless the shell has ended by itself, when it saw its child end
            await process.aclose()
