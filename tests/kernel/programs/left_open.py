"""Apps whose event loop ends while something of aions's is open that nobody closes."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress

import anyio

from aions import Namespace, Worker, current_worker, open_worker
from tests.kernel.programs.scenario import report, run, start

_kept: list[object] = []
"""What an application object keeps."""

_INSIDE = Namespace.USER | Namespace.NETWORK


async def _opened(*unshare: Namespace) -> Worker:
    """Open a worker on a stack that nobody closes."""
    _kept.append(stack := AsyncExitStack())
    worker = await stack.enter_async_context(open_worker(unshare=unshare))
    await worker.run_process(["true"])
    return worker


async def _around_worker() -> AsyncGenerator[object]:
    async with open_worker(unshare=_INSIDE) as worker:
        await worker.run_process(["true"])
        yield worker


async def _around_others_namespaces() -> AsyncGenerator[object]:
    async with open_worker(unshare=_INSIDE) as other, open_worker(enter=(other, _INSIDE)) as worker:
        await worker.run_process(["true"])
        yield worker


async def _around_fork() -> AsyncGenerator[object]:
    async with open_worker() as worker, worker.fork() as fork:
        await fork.run_process(["true"])
        yield fork


async def _around_process() -> AsyncGenerator[object]:
    async with open_worker() as worker, await worker.open_process(["sleep", "1000"]) as process:
        yield process


async def _around_process_of_default_worker() -> AsyncGenerator[object]:
    async with await (await current_worker()).open_process(["sleep", "1000"]) as process:
        yield process


async def _with_a_last_call() -> AsyncGenerator[object]:
    async with open_worker() as worker:
        try:
            yield worker
        finally:
            with suppress(anyio.ClosedResourceError):  # it may be too late
                await worker.run_process(["true"])


_GENERATORS: list[Callable[[], AsyncGenerator[object]]] = [
    _around_worker,
    _around_others_namespaces,
    _around_fork,
    _around_process,
    _around_process_of_default_worker,
    _with_a_last_call,
]


async def _keep(generator: AsyncGenerator[object]) -> None:
    _kept.append(generator)
    await anext(generator)


async def a_worker() -> None:
    await _opened(Namespace.USER, Namespace.PID)


async def a_block_that_was_entered_by_hand() -> None:
    _kept.append(block := open_worker())
    await block.__aenter__()


async def a_worker_in_namespaces_of_others() -> None:
    other = await _opened(Namespace.USER, Namespace.NETWORK)
    await (worker := await _opened()).enter(other, _INSIDE)
    await worker.run_process(["true"])


async def a_fork() -> None:
    _kept.append(fork := (await _opened()).fork())
    await (await fork.__aenter__()).run_process(["true"])


async def a_process() -> None:
    _kept.append(await (await _opened()).open_process(["sleep", "1000"]))


async def a_pipe_that_was_read() -> None:
    process = await (await current_worker()).open_process(["sleep", "1000"])
    _kept.append(process)
    assert process.stdout is not None
    with anyio.move_on_after(0.01):
        await process.stdout.receive()


async def a_call_that_was_cancelled() -> None:
    worker = await _opened()
    with anyio.move_on_after(0.01):
        await worker.run_sync(time.sleep, 1000, cancellable=True)


async def a_generator(number: str) -> None:
    await _keep(_GENERATORS[int(number)]())


async def all_generators() -> None:
    for generator in _GENERATORS:
        await _keep(generator())


async def a_generator_that_nobody_keeps(number: str) -> None:
    await anext(_GENERATORS[int(number)]())


async def everything() -> None:
    for leave_open in (a_worker, a_worker_in_namespaces_of_others, a_fork, a_process, a_pipe_that_was_read, all_generators):
        await leave_open()


def ends_with(backend: str, what: str, how: str, *arguments: str) -> None:
    """Leave something open, and end by a status or an exception; report how long that took."""

    async def main() -> None:
        await globals()[what](*arguments)
        begun = time.monotonic()
        atexit.register(lambda: report(seconds=time.monotonic() - begun, now=time.monotonic()))
        if how == "exception":
            raise ArithmeticError
        sys.exit(7)

    run(backend, main)


if __name__ == "__main__":
    start(globals())
