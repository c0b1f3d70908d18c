"""Modules that are imported once, in the forkserver."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from aions import AionsError, WorkerDied, open_worker
from tests.kernel.targets import on_one_loop, status_field


def module(directory: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module that the app, and so a worker, can import."""
    (directory / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(directory)
    return name


def imported_by(name: str) -> int | None:
    """Return what a module that a worker has imported knows, without importing it."""
    return getattr(sys.modules.get(name), "PID", None)


def is_imported(name: str) -> bool:
    return name in sys.modules


async def test_a_module_is_imported_once_for_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, "preloaded_once", "import os\nPID = os.getpid()\n", monkeypatch)
    async with open_worker():
        pass  # leaves one in reserve, which is without the module
    async with open_worker(preload=[name]) as worker, open_worker(preload=(name, "json")) as second, open_worker() as third:
        forkserver = int(status_field(worker.pid, "PPid"))
        for each in (worker, second, third):
            assert await each.run_sync(imported_by, name) == forkserver
        async with worker.fork() as fork:
            assert await fork.run_sync(imported_by, name) == forkserver
        assert await second.run_sync(is_imported, "json")
    assert name not in sys.modules


async def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, "preloaded_badly", "1 / 0\n", monkeypatch)
    with pytest.raises(ZeroDivisionError) as caught:
        async with open_worker(preload=[name]):
            raise AssertionError
    assert f"{name}.py" in caught.value.__notes__[0]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        async with open_worker(preload=["no_such_module"]):
            raise AssertionError
    async with open_worker() as worker:
        assert await worker.run_sync(os.getpid) == worker.pid


async def test_a_module_that_starts_threads_is_refused_by_name() -> None:
    with pytest.raises(AionsError, match=r"threads_on_import starts 20 threads"):
        async with open_worker(preload=["tests.kernel.programs.threads_on_import"]):
            raise AssertionError
    async with open_worker(preload=["json"]) as worker:
        assert await worker.run_sync(os.listdir, "/proc/self/task") == [str(worker.pid)]


LATE = """
import os, threading, time
def start(): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
if os.getpgrp() == os.getpid() and not os.path.exists({mark!r}):  # the forkserver itself, which leads a group
    start()
"""


async def test_a_module_that_starts_threads_in_the_forkserver_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, "preloaded_late", LATE.format(mark=str(tmp_path / "mark")), monkeypatch)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        async with open_worker(preload=[name]):
            raise AssertionError
    assert any("2 threads" in note and name in note for note in caught.value.__notes__)


SPOILS = """
import signal
signal.set_wakeup_fd(-1)
for number in (signal.SIGCHLD, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
"""


async def test_a_module_that_spoils_the_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module(tmp_path, "preloaded_spoilt", SPOILS, monkeypatch)
    with anyio.fail_after(2):
        async with open_worker(preload=[name]) as worker:
            await worker.run_process(["true"])
        async with open_worker() as worker:
            os.kill(int(status_field(worker.pid, "PPid")), signal.SIGPIPE)
            await worker.run_process(["true"])
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(WorkerDied) as caught:
                await worker.get_namespace_id(None, "net")
        assert caught.value.status == -signal.SIGKILL


@on_one_loop
async def test_a_name_alone_is_refused() -> None:
    with pytest.raises(TypeError, match="'json'"):
        async with open_worker(preload="json"):
            raise AssertionError
