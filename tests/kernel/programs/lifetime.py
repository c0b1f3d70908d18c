"""Apps with workers in every state, which end in every way."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL
from typing import NoReturn

import anyio
from anyio.abc import TaskGroup

from aions import Namespace, Worker, current_worker, get_namespace_id, open_worker
from tests.kernel.programs.running import parent
from tests.kernel.programs.scenario import new_loop, report, run, start, wait_for_the_test

_SPIN = "while True: pass"
_DOUBLE_FORK = ["setsid", "--fork", "sleep", "1000"]


async def _never_returns(worker: Worker, code: str, begun: Path) -> None:
    """Run code in the worker until that is closed. `exec`, so that the worker need not import this program."""
    with contextlib.suppress(anyio.ClosedResourceError):
        await worker.run_sync(exec, f"open({str(begun)!r}, 'x').close()\n{code}")


async def _open_in_every_state(directory: Path, stack: contextlib.AsyncExitStack, tasks: TaskGroup) -> dict[str, int]:
    """Open workers of every kind; return their pids."""
    directory.mkdir(exist_ok=True)
    os.mkfifo(directory / "fifo")
    names = ("idle", "busy", "opening", "stopped", "commanding")
    workers = {name: await stack.enter_async_context(open_worker()) for name in names}
    workers["fork"] = await stack.enter_async_context(workers["idle"].fork())
    workers["inside"] = await stack.enter_async_context(open_worker(unshare=Namespace.USER | Namespace.PID))
    await workers["inside"].run_sync(os.setresuid, 0, 0, 0)  # after which the kernel forgets PR_SET_PDEATHSIG
    opening = f"import os\nos.open({str(directory / 'fifo')!r}, os.O_RDONLY)"
    tasks.start_soon(_never_returns, workers["busy"], _SPIN, directory / "busy")
    tasks.start_soon(_never_returns, workers["opening"], opening, directory / "opening")
    os.kill(workers["stopped"].pid, signal.SIGSTOP)
    for name in ("commanding", "inside"):
        await workers[name].run_process(_DOUBLE_FORK, stdin=DEVNULL, stdout=None, stderr=None)
    while not ((directory / "busy").exists() and (directory / "opening").exists()):
        await anyio.sleep(0.001)
    pids = {name: worker.pid for name, worker in workers.items()}
    return {**pids, "forkserver": parent(workers["idle"].pid)}


async def _until_killed(directory: Path) -> None:
    async with anyio.create_task_group() as tasks, contextlib.AsyncExitStack() as stack:
        report(**await _open_in_every_state(directory, stack, tasks))
        await anyio.sleep_forever()


def until_killed(backend: str, directory: str) -> None:
    """Report once before anything is opened, and once when all is."""
    report(begins=True)
    run(backend, _until_killed, Path(directory))


_FAMILY = "sleep 1000 & sleep 1001 & wait"


async def _in_an_entered_pid_namespace(pid: int) -> None:
    kinds = Namespace.USER | Namespace.PID
    async with open_worker() as outside, open_worker(enter=(pid, kinds)) as inside:
        await outside.enter(pid, kinds)
        commands = [
            await worker.open_process(command, stdin=DEVNULL, stdout=None, stderr=None)
            for worker in (outside, inside)
            for command in (_FAMILY, ["sleep", "1002"])
        ]
        await inside.run_process(_DOUBLE_FORK, stdin=DEVNULL, stdout=None, stderr=None)
        report(outside=outside.pid, inside=inside.pid, forkserver=parent(outside.pid), commands=len(commands))
        await anyio.sleep_forever()


def in_an_entered_pid_namespace(backend: str, pid: str) -> None:
    """Have commands, and what these start, in a pid namespace that somebody else has made; by workers in and outside of it."""
    run(backend, _in_an_entered_pid_namespace, int(pid))


class Unexpected(Exception):
    """What an app may raise."""


def _fork() -> int:
    """Fork this process; the child holds all descriptors, but for stdout, until the test kills it."""
    child = os.fork()
    if child == 0:
        os.close(1)
        signal.pause()
    return child


async def _ends(directory: Path, how: str) -> None:
    async with anyio.create_task_group() as tasks, contextlib.AsyncExitStack() as stack:
        await _open_in_every_state(directory, stack, tasks)
        await get_namespace_id(None, Namespace.NETWORK)
        if how == "exception":
            raise Unexpected
        if how == "_exit":
            os._exit(0)
        if how == "_exit, and a fork lives on":
            report(fork=_fork())
            os._exit(0)


def ends(backend: str, directory: str, how: str) -> None:
    """End with all workers open."""
    run(backend, _ends, Path(directory), how)


async def _use_default_worker() -> float:
    """Use it and leave it; return when the loop begins to end."""
    await get_namespace_id(None, Namespace.NETWORK)
    return time.monotonic()


def closes_nothing(backend: str) -> None:
    """Leave the default worker to the end of the event loop, and see how long that and the interpreter take."""
    ended = run(backend, _use_default_worker)
    report(loop=time.monotonic() - ended, now=time.monotonic())


async def _open_in_background() -> None:
    async with open_worker(), open_worker(unshare=[Namespace.USER, Namespace.PID]):
        report(begun=True)
        await anyio.sleep_forever()


def ends_beside_a_loop(backend: str) -> None:
    """End while an event loop runs in a daemon thread."""
    import threading

    threading.Thread(target=run, args=(backend, _open_in_background), daemon=True).start()
    wait_for_the_test()


async def _use_and_fork() -> int:
    await get_namespace_id(None, Namespace.NETWORK)
    return _fork()


def loop_ends_and_a_fork_lives_on(backend: str) -> None:
    """End the event loop only, while a fork of the app holds a copy of every descriptor."""
    report(fork=run(backend, _use_and_fork))
    wait_for_the_test()


async def _use_and_hold_forkserver() -> tuple[float, int]:
    forkserver = os.pidfd_open(parent((await current_worker()).pid))
    return await _use_default_worker(), forkserver


def many_loops(backend: str, count: str) -> None:
    """Start and end the event loop many times; report what remains."""
    shutdowns, descriptors, alive = [], [], 0
    for _ in range(int(count)):
        ended, forkserver = run(backend, _use_and_hold_forkserver)
        shutdowns.append(time.monotonic() - ended)
        alive += not select.select([forkserver], [], [], 1)[0]
        os.close(forkserver)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    report(slowest=max(shutdowns), descriptors=descriptors, forkservers=alive)


def loop_closed_without_shutdown(backend: str) -> None:
    """Drive an event loop by hand, without `loop.shutdown_asyncgens()`."""
    loop = new_loop(backend)
    loop.run_until_complete(_use_default_worker())
    loop.close()


async def _use_handle_in_fork(leave: Callable[[int], NoReturn]) -> None:
    async with open_worker() as worker:
        expected = await worker.get_namespace_id(None, Namespace.NETWORK)
        child = os.fork()
        if child == 0:
            refused = await _is_refused(worker)
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            same = await worker.get_namespace_id(None, Namespace.NETWORK) == expected
            async with worker.fork() as fork:
                report(child=status, same=same, pid=worker.pid, fork=fork.pid)
    if child == 0:
        leave(7 if refused else 1)


async def _is_refused(worker: Worker) -> bool:
    try:
        await worker.get_namespace_id(None, Namespace.NETWORK)
    except RuntimeError:
        return True
    return False


def forks(backend: str) -> None:
    """Fork the app, and use what the fork has inherited.

    The fork leaves by way of the end of its event loop, but not with trio, which then takes its own things out of the epoll
    that it shares with the parent.
    """
    leave: Callable[[int], NoReturn] = sys.exit
    if backend == "trio":
        leave = os._exit
    run(backend, _use_handle_in_fork, leave)


if __name__ == "__main__":
    start(globals())
