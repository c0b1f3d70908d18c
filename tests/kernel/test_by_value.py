"""Functions that have no name to be found by: with cloudpickle they are sent by value."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from aions import Namespace, Worker, open_worker, run_sync
from tests.kernel.scripts import run_script
from tests.kernel.targets import on_one_loop


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        yield worker


async def test_a_lambda(worker: Worker) -> None:
    assert await worker.run_sync(lambda: os.getpid()) == 1


async def test_a_closure_with_arguments(worker: Worker) -> None:
    base = 40

    def add(number: int) -> int:
        return base + number

    assert await worker.run_sync(add, 2) == 42
    assert await worker.run_sync(add, 2, cancellable=True) == 42


async def test_a_result_that_has_no_name_either(worker: Worker) -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    result = await worker.run_sync(lambda: Local(7))
    assert result.value == 7
    double: Callable[[int], int] = await worker.run_sync(lambda: lambda number: 2 * number)
    assert double(21) == 42


async def test_an_exception_without_a_name(worker: Worker) -> None:
    class LocalError(Exception):
        pass

    def fail() -> None:
        raise LocalError("it failed")

    with pytest.raises(Exception, match="it failed") as caught:
        await worker.run_sync(fail)
    assert type(caught.value).__name__ == "LocalError"
    assert "in fail" in caught.value.__notes__[0]


@on_one_loop
async def test_what_not_even_cloudpickle_can(worker: Worker) -> None:
    lock = threading.Lock()
    with pytest.raises((TypeError, pickle.PicklingError)):
        await worker.run_sync(lambda: lock)
    assert await worker.run_sync(os.getpid) == 1


@on_one_loop
async def test_without_cloudpickle_the_error_says_what_to_install(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises((pickle.PicklingError, AttributeError)) as caught:
        await worker.run_sync(lambda: 1)
    assert "pip install cloudpickle" in caught.value.__notes__[0]


@on_one_loop
async def test_a_program_that_is_no_file(tmp_path: Path) -> None:
    program = """
        import subprocess, sys
        program = '''
        import anyio, os
        from aions import run_sync

        def double(number):
            return 2 * number

        async def main():
            print(await run_sync(double, 21))

        anyio.run(main)
        '''
        import textwrap
        for command in ([sys.executable, "-c", textwrap.dedent(program)], [sys.executable]):
            done = subprocess.run(command, input=textwrap.dedent(program), capture_output=True, text=True)
            print(done.stdout.strip(), done.stderr.strip())
        """
    assert run_script(tmp_path, program) == ["42 ", "42 "]


@on_one_loop
async def test_what_goes_by_value_does_not_load_the_main_file(tmp_path: Path) -> None:
    """Which would start a program without a guard again."""
    program = """
        import anyio
        from aions import run_sync

        async def main():
            print(await run_sync(lambda: 21 * 2))

        print("started")
        anyio.run(main)
        """
    assert run_script(tmp_path, program) == ["started", "42"]


@on_one_loop
async def test_a_main_file_that_imports_all_there_is(tmp_path: Path) -> None:
    program = """
        import anyio
        from aions import *

        def name_of(number):
            return open_worker.__name__

        async def main():
            print(await run_sync(name_of, 1))

        if __name__ == "__main__":
            anyio.run(main)
        """
    assert run_script(tmp_path, program) == ["open_worker"]


@on_one_loop
async def test_the_current_worker_takes_them_too() -> None:
    async with open_worker() as worker:
        assert await run_sync(lambda: os.getpid()) == worker.pid
