"""An app that does a little of everything, while the kernel is made to refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import anyio

from aions import AionsError, Namespace, Worker, get_namespace_id, open_worker
from tests.kernel.programs.scenario import report, run, start

_NEW = [Namespace.USER, Namespace.NETWORK]


async def _open() -> None:
    async with open_worker(unshare=_NEW) as worker:
        await worker.get_namespace_id(None, Namespace.NETWORK)


async def _open_as_init() -> None:
    async with open_worker(unshare=[Namespace.USER, Namespace.PID]) as worker:
        await worker.run_process(["true"])


async def _with_worker(use: Callable[[Worker], Awaitable[object]]) -> None:
    async with open_worker() as worker:
        await use(worker)


async def _enter(worker: Worker) -> None:
    async with open_worker(unshare=_NEW) as target:
        await worker.enter_namespace(target.pid, _NEW)


async def _fork(worker: Worker) -> None:
    async with worker.fork() as fork:
        await fork.get_namespace_id(None, Namespace.NETWORK)


async def _socket(worker: Worker) -> None:
    (await worker.socket()).close()


_ATTEMPTS: dict[str, Callable[[], Awaitable[object]]] = {
    "identify": lambda: get_namespace_id(os.getpid(), Namespace.NETWORK),
    "open": _open,
    "open as init": _open_as_init,
    "unshare": lambda: _with_worker(lambda worker: worker.unshare(_NEW)),
    "enter": lambda: _with_worker(_enter),
    "fork": lambda: _with_worker(_fork),
    "socket": lambda: _with_worker(_socket),
    "command": lambda: _with_worker(lambda worker: worker.run_process(["true"])),
    "function": lambda: _with_worker(lambda worker: worker.run_sync(divmod, 7, 3)),
    "cancellable function": lambda: _with_worker(lambda worker: worker.run_sync(divmod, 7, 3, cancellable=True)),
}


async def _outcome(attempt: Callable[[], Awaitable[object]]) -> str:
    try:
        with anyio.fail_after(5):
            await attempt()
    except TimeoutError as error:
        return "ETIMEDOUT" if error.errno else "hangs"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except AionsError as error:
        return type(error).__name__
    return "ok"


async def _try_everything() -> None:
    outcomes = {name: await _outcome(attempt) for name, attempt in _ATTEMPTS.items()}
    report(**outcomes)


def tries_everything(backend: str) -> None:
    """Report what became of each attempt."""
    before = len(os.listdir("/proc/self/fd"))
    run(backend, _try_everything)
    report(more_descriptors=len(os.listdir("/proc/self/fd")) - before)


if __name__ == "__main__":
    start(globals())
