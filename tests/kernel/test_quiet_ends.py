"""What is forked leaves without a word: nothing that its parent has registered, or left in a buffer, happens again in it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from aions import Namespace, WorkerDied, open_worker
from tests.kernel import called
from tests.kernel.programs.counts import times

LOUD = """
import atexit, os, sys, threading

FILE = {file!r}

def tell(*what):
    descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, repr(what).encode() + b"\\\\n")
    os.close(descriptor)

class Loud:
    def __del__(self):
        tell("deleted", os.getpid())

LOUD = Loud()
BUFFER = open(FILE, "a")
BUFFER.write("left in a buffer")
atexit.register(tell, "atexit")
threading._register_atexit(tell, "threading's atexit")

def fork_and_return():
    return os.fork() and None

def fork_and_raise():
    if os.fork() == 0:
        raise SystemExit(3)

def fail():
    raise SystemExit(3)
"""


async def test_children_run_no_exit_handlers_no_destructors_and_flush_no_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    (tmp_path / "loud.py").write_text(LOUD.format(file=str(told)))
    monkeypatch.syspath_prepend(tmp_path)
    async with open_worker(preload=["loud"]):
        for number in range(times("quiet forks")):
            await end_one_way_or_another(number)
    assert told.read_text() == ""


async def end_one_way_or_another(number: int) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        match number % 6:
            case 0:
                await worker.run_sync(called.call_by_name, "loud", "fork_and_return")
            case 1:
                await worker.run_sync(called.call_by_name, "loud", "fork_and_raise")
            case 2:
                with pytest.raises(SystemExit):
                    await worker.run_sync(called.call_by_name, "loud", "fail", cancellable=True)
            case 3:
                await worker.run_process(["true"], user=0)
                with pytest.raises(FileNotFoundError):
                    await worker.run_process(["no-such-command"], user=0)
            case 4:
                async with worker.fork() as fork:
                    await fork.get_namespace_id(None, "net")
                    worker._link.client._connection.shutdown(2)  # the app goes away
                    with anyio.fail_after(5):
                        await anyio.wait_readable(worker.pidfd)
            case 5:
                with suppress(WorkerDied):
                    os.kill(worker.pid, signal.SIGTERM)
                    await worker.get_namespace_id(None, "net")
