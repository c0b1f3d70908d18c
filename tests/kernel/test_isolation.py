"""The app's own threads, signals, children and namespaces are never touched, and do not touch what workers do."""

from __future__ import annotations

import os
import signal

import pytest

from aions import Namespace, Worker, get_namespace_id, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import BACKENDS, Program, stat

in_every_event_loop = pytest.mark.parametrize("backend", BACKENDS)


@in_every_event_loop
def test_the_app_is_the_same_before_and_after(backend: str) -> None:
    with Program(backend, "isolation", "looks_at_itself") as app:
        facts = app.report()
        assert app.end() == 0
        assert facts["after"] == facts["before"]
        assert facts["before"]["tasks"] == 1
        assert app.stderr() == ""


@in_every_event_loop
def test_the_app_has_no_child_to_wait_for(backend: str) -> None:
    with Program(backend, "isolation", "waits") as app:
        assert app.report() == {"waited": None}
        assert app.end() == 0


@in_every_event_loop
def test_a_handler_of_the_app_sees_one_child_at_most(backend: str) -> None:
    with Program(backend, "isolation", "counts_children") as app:
        assert app.report()["signals"] <= 1
        assert app.end() == 0


@in_every_event_loop
def test_an_event_loop_in_a_thread_works_the_same(backend: str) -> None:
    with Program(backend, "isolation", "in_a_thread") as app:
        assert app.report()["forkserver"] > 0
        assert app.end() == 0
        assert app.left_after(1) == []
        assert app.stderr() == ""


@in_every_event_loop
def test_event_loops_in_two_threads_have_a_forkserver_each(backend: str) -> None:
    with Program(backend, "isolation", "in_two_threads") as app:
        assert len(set(app.report()["forkservers"])) == 2
        assert app.end() == 0
        assert app.left_after(1) == []
        assert app.stderr() == ""


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_a_forkserver_outlives_the_thread_that_started_it(backend: str) -> None:
    with Program(backend, "isolation", "started_in_a_thread_that_ends", times("threads that end")) as app:
        assert app.report() == {"done": True}
        assert app.end() == 0
        assert app.left_after(1) == []
        assert app.stderr() == ""


@in_every_event_loop
def test_user_namespaces_are_made_beside_busy_threads(backend: str) -> None:
    with Program(backend, "isolation", "unshares_beside_threads", times("unshare beside threads"), python=()) as app:
        assert app.report()["threads"] > 20
        assert app.end() == 0
        assert app.left_after(1) == []


async def leave_a_thread(worker: Worker, seconds: float) -> None:
    code = f"import threading, time\nthreading.Thread(target=time.sleep, args=({seconds},), daemon=True).start()"
    await worker.run_sync(exec, code)


async def test_a_user_namespace_is_made_once_the_threads_of_a_function_are_gone() -> None:
    """A thread that was joined still counts for a moment, and the kernel says EINVAL; one that is about to end, for longer."""
    app = await get_namespace_id(os.getpid(), Namespace.USER)
    for _ in range(times("unshare after a thread")):
        async with open_worker() as worker:
            await leave_a_thread(worker, 0.01)
            await worker.unshare(Namespace.USER)
            assert await worker.get_namespace_id(None, Namespace.USER) != app


async def test_a_thread_that_a_function_leaves_is_named_in_the_refusal() -> None:
    async with open_worker() as worker:
        await leave_a_thread(worker, 1000)
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await worker.unshare(Namespace.USER)
        assert any("2 threads" in note and "exec" in note for note in caught.value.__notes__)


@in_every_event_loop
def test_ctrl_c_is_for_the_app_and_its_commands(backend: str) -> None:
    for _ in range(times("interrupts")):
        keyboard, terminal = os.openpty()
        try:
            with Program(backend, "isolation", "is_interrupted", under=["setsid", "--ctty"], stdin=terminal) as app:
                pids = app.report()
                assert {process_group(pid) for pid in pids["commands"]} == {process_group(app.process.pid)}
                assert process_group(pids["workers"][0]) == process_group(pids["forkserver"]) == pids["forkserver"]
                os.write(keyboard, b"\x03")
                last = app.report()
                assert set(last["commands"]) == {-signal.SIGINT}
                assert set(last["namespaces"]) == {os.readlink("/proc/self/ns/net")}
                assert app.report() == {"interrupted": True}
                assert app.end() == 0
                assert app.left_after(1) == []
        finally:
            os.close(keyboard)
            os.close(terminal)


def process_group(pid: int) -> int:
    return int(stat(pid)[2])
