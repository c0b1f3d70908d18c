"""Apps that look at themselves before and after they use aions."""

from __future__ import annotations

import importlib
import os
import re
import signal
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio

from aions import Namespace, get_namespace_id, open_worker, run_process, run_sync, unshare
from tests.kernel.programs.running import parent
from tests.kernel.programs.scenario import new_loop, report, run, start

_SETTABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


async def _use() -> int:
    """Use most of aions; return the pid of the forkserver."""
    async with open_worker(unshare=[Namespace.USER, Namespace.NETWORK, Namespace.MOUNT, Namespace.PID]) as worker:
        await worker.run_process(["true"])
        (await worker.socket()).close()
        async with worker.fork() as fork:
            await fork.run_sync(os.getpid, cancellable=True)
    await run_process(["true"])
    await unshare([Namespace.USER, Namespace.UTS])
    return await run_sync(os.getppid)


def _own_state() -> dict[str, Any]:
    return {
        "signal handlers": [repr(signal.getsignal(number)) for number in _SETTABLE],
        "signals": re.findall("Sig(?:Blk|Ign|Cgt):.*", Path("/proc/self/status").read_text()),
        "threads": [repr(thread) for thread in threading.enumerate()],
        "tasks": len(os.listdir("/proc/self/task")),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")],
        "ids": [os.getresuid(), os.getresgid(), os.getgroups(), os.getsid(0), os.getpgrp()],
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "limits": Path("/proc/self/limits").read_text(),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text(),
    }


async def _compare() -> None:
    before = _own_state()
    await _use()
    report(before=before, after=_own_state())


def looks_at_itself(backend: str) -> None:
    """Report the state of the process before and after."""
    run(backend, _compare)


async def _wait_for_children() -> None:
    await _use()
    try:
        report(waited=os.wait())
    except ChildProcessError:
        report(waited=None)


def waits(backend: str) -> None:
    """Call os.wait() while workers are open."""
    run(backend, _wait_for_children)


def counts_children(backend: str) -> None:
    """Count SIGCHLD, but not what the first event loop of this process causes by itself."""
    run(backend, anyio.sleep, 0)
    signals: list[int] = []
    signal.signal(signal.SIGCHLD, lambda number, _frame: signals.append(number))
    run(backend, _use)
    report(signals=len(signals))


def in_a_thread(backend: str) -> None:
    """Use aions from an event loop in a thread that is not the main one."""
    thread = threading.Thread(target=lambda: report(forkserver=run(backend, _use)))
    thread.start()
    thread.join()


async def _meet(barrier: threading.Barrier, forkservers: list[int]) -> None:
    forkserver = await run_sync(os.getppid)
    forkservers.append(forkserver)
    await anyio.to_thread.run_sync(barrier.wait)
    for _ in range(5):
        async with open_worker() as worker:
            assert parent(worker.pid) == forkserver
    await anyio.to_thread.run_sync(barrier.wait)


def in_two_threads(backend: str) -> None:
    """Use aions from two event loops at once."""
    barrier = threading.Barrier(2, timeout=10)
    forkservers: list[int] = []
    threads = [threading.Thread(target=run, args=(backend, _meet, barrier, forkservers)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report(forkservers=forkservers)


def started_in_a_thread_that_ends(backend: str, count: str) -> None:
    """Start the forkserver where a thread drives the event loop, and go on in another thread."""
    for _ in range(int(count)):
        loop = new_loop(backend)
        thread = threading.Thread(target=loop.run_until_complete, args=(_use(),))
        thread.start()
        thread.join()
        while len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.001)
        loop.run_until_complete(_use_what_the_thread_left())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    report(done=True)


async def _use_what_the_thread_left() -> None:
    """The default worker was moved: another in its place would be in other namespaces."""
    app = await get_namespace_id(os.getpid(), Namespace.UTS)
    assert await get_namespace_id(None, Namespace.UTS) != app


async def _unshare_in_fresh_workers(count: int) -> None:
    app = await get_namespace_id(os.getpid(), Namespace.USER)
    begin = time.monotonic()
    for _ in range(count):
        async with open_worker() as worker:
            await worker.unshare(Namespace.USER)
            assert await worker.get_namespace_id(None, Namespace.USER) != app
    assert await get_namespace_id(os.getpid(), Namespace.USER) == app
    report(threads=len(os.listdir("/proc/self/task")), milliseconds=(time.monotonic() - begin) / count * 1000)


def unshares_beside_threads(backend: str, count: str) -> None:
    """Make user namespaces in a process in which 20 threads are busy."""
    importlib.import_module("tests.kernel.programs.threads_on_import")
    run(backend, _unshare_in_fresh_workers, int(count))


async def _until_interrupted() -> None:
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(open_worker())
        first = await stack.enter_async_context(open_worker(unshare=Namespace.USER | Namespace.PID))
        fork = await stack.enter_async_context(first.fork())
        workers = [home, first, fork]
        commands = [
            await stack.enter_async_context(await worker.open_process(["sleep", "1000"], user=user))
            for worker in workers
            for user in (None, os.geteuid() if worker is home else 0)
        ]
        try:
            report(workers=[w.pid for w in workers], forkserver=parent(home.pid), commands=[c.pid for c in commands])
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                report(
                    commands=[await command.wait() for command in commands],
                    namespaces=[str(await worker.get_namespace_id(None, Namespace.NETWORK)) for worker in workers],
                )


def is_interrupted(backend: str) -> None:
    """Wait for Ctrl-C, and see what it leaves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
    try:
        run(backend, _until_interrupted)
    except KeyboardInterrupt:
        report(interrupted=True)


if __name__ == "__main__":
    start(globals())
