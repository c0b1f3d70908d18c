"""A command whose handle nobody keeps goes on until its worker is closed, and no longer."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from aions import Worker, open_process, open_worker
from aions._app.worker import Worker as Handle
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import wait_until
from tests.kernel.targets import is_gone, until


@contextmanager
def warned_of(*texts: str) -> Iterator[None]:
    """Have the block leave handles open, and see that it is warned of these and of nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [(type(each.message), str(each.message)) for each in caught] == [(ResourceWarning, text) for text in texts]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def leave(worker: Worker, *command: str) -> int:
    """Start a command and keep nothing of it but its pid."""
    return (await worker.open_process(command)).pid


async def test_it_goes_on_until_its_worker_is_closed() -> None:
    async with open_worker():
        pass
    before = descriptors()
    async with open_worker() as worker:
        with warned_of():
            process = await worker.open_process(["sleep", "100"])
        pid = process.pid
        with warned_of(f"unclosed process ['sleep', '100'] (pid {pid})"):
            del process
        for _ in range(20):  # after each of which the worker has looked after its children
            await worker.run_process(["true"])
        assert not is_gone(pid)
    assert is_gone(pid)
    assert descriptors() == before


async def test_what_it_writes_and_reads_goes_on_as_well(tmp_path: Path) -> None:
    """Its pipes stay open, and are there for who has kept one of them."""
    async with open_worker() as worker:
        command = f"echo some; read line && echo more; echo $line > {tmp_path}/read; exec sleep 100"
        process = await worker.open_process(command)
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout
        with warned_of(f"unclosed process {command!r} (pid {process.pid})"):
            del process
        await stdin.send(b"input\n")
        said = b""
        while said != b"some\nmore\n":
            said += await stdout.receive()
        await until(lambda: (tmp_path / "read").exists() and (tmp_path / "read").read_text() == "input\n")


async def test_one_that_has_ended_is_not_complained_about() -> None:
    async with open_worker() as worker:
        process = await worker.open_process(["true"])
        assert await process.wait() == 0
        with warned_of():
            del process
        process = await worker.open_process(["sleep", "100"])
    with warned_of():
        del process


async def test_those_that_have_ended_do_not_pile_up() -> None:
    async with open_worker() as worker:
        await worker.run_process(["true"])
        before = descriptors()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(times("left processes")):
                await leave(worker, "true")
        assert descriptors() < before + 400
        await until(lambda: not Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text())
        for _ in range(40):
            await worker.run_process(["true"])
        assert descriptors() < before + 400


async def test_those_that_run_are_kept_however_many() -> None:
    async with open_worker() as worker:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pids = [await leave(worker, "sleep", "100") for _ in range(50)]
            for _ in range(100):
                await leave(worker, "true")
        assert not any(map(is_gone, pids))
    assert all(map(is_gone, pids))


async def test_a_worker_that_nobody_keeps_is_named() -> None:
    async with open_worker() as worker:
        handle = Handle(await worker._link.fork())
        link = handle._link
        with warned_of(f"unclosed <aions.Worker pid={handle.pid}>"):
            del handle
        await link.aclose()


async def test_a_namespace_and_a_mount_tree_that_nobody_keeps_are_named() -> None:
    async with open_worker(unshare=["user", "mnt"]) as worker:
        namespace = await worker.open_namespace("net")
        with warned_of(f"unclosed {namespace!r}"):
            del namespace
        tree = await worker.open_tree("/tmp")
        with warned_of("unclosed mount tree of '/tmp'"):
            del tree
        tree = await worker.fsmount("tmpfs")
        with warned_of("unclosed mount tree of a new 'tmpfs'"):
            del tree


def test_those_of_the_default_worker_end_with_the_loop(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    async def main() -> int:
        return (await open_process(["sleep", "100"])).pid

    name, options = anyio_backend
    with pytest.warns(ResourceWarning, match=r"unclosed process \['sleep', '100'\]"):
        pid = anyio.run(main, backend=name, backend_options=options)
    wait_until(lambda: is_gone(pid), 5)
    assert is_gone(pid)
