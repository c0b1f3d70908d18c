"""What anyio's documentation does with processes and functions, with nothing but `worker.` in front."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import CalledProcessError

import anyio
import pytest
from anyio.streams.text import TextReceiveStream, TextSendStream

from aions import Namespace, Worker, open_worker
from tests.kernel.scripts import run_script
from tests.kernel.targets import on_one_loop

FRESH = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.NETWORK


@pytest.fixture(params=["home", "fresh"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    async with open_worker(unshare=FRESH if request.param == "fresh" else ()) as worker:
        yield worker


async def test_running_one_shot_commands(worker: Worker) -> None:
    result = await worker.run_process("ps")
    assert result.stdout.decode().split()[0] == "PID"


async def test_running_one_shot_commands_without_a_shell(worker: Worker) -> None:
    result = await worker.run_process(["ps"])
    assert "ps" in result.stdout.decode()


async def test_a_failing_command(worker: Worker) -> None:
    with pytest.raises(CalledProcessError):
        await worker.run_process("exit 1")
    assert (await worker.run_process("exit 1", check=False)).returncode == 1


async def test_working_with_processes(worker: Worker) -> None:
    said = ""
    async with await worker.open_process(["ps", "ax"]) as process:
        assert process.stdout
        async for text in TextReceiveStream(process.stdout):
            said += text
    assert "COMMAND" in said
    assert process.returncode == 0


async def test_talking_to_a_process(worker: Worker) -> None:
    async with await worker.open_process(["cat"]) as process:
        assert process.stdin
        assert process.stdout
        await TextSendStream(process.stdin).send("håll i hatten")
        await process.stdin.aclose()
        assert await TextReceiveStream(process.stdout).receive() == "håll i hatten"


def cpu_intensive_function(arg1: str, arg2: str) -> str:
    time.sleep(0.01)
    return arg1 + arg2


async def test_running_functions_in_worker_processes(worker: Worker) -> None:
    assert await worker.run_sync(cpu_intensive_function, "Hello, ", "world!") == "Hello, world!"


async def test_with_a_limiter_of_its_own(worker: Worker) -> None:
    limiter = anyio.CapacityLimiter(1)
    result = await worker.run_sync(cpu_intensive_function, "Hello, ", "world!", cancellable=True, limiter=limiter)
    assert result == "Hello, world!"
    assert limiter.borrowed_tokens == 0


@on_one_loop
async def test_a_program_that_protects_its_main_module(tmp_path: Path) -> None:
    program = """
        import time
        from anyio import run
        from aions import open_worker

        def cpu_intensive_function(arg1, arg2):
            time.sleep(0.01)
            return arg1 + arg2

        async def main():
            async with open_worker() as worker:
                result = await worker.run_sync(cpu_intensive_function, 'Hello, ', 'world!')
            print(result)

        if __name__ == '__main__':
            run(main)
        """
    assert run_script(tmp_path, program) == ["Hello, world!"]
