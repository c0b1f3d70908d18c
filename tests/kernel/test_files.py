"""Files of a worker's mount namespace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aions
from aions import Namespace, Worker, open_worker
from tests.kernel.called import mount_tmpfs
from tests.kernel.explained import works
from tests.kernel.targets import on_one_loop


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.run_sync(mount_tmpfs, "/tmp")
        yield worker


async def test_a_file_of_the_workers(worker: Worker) -> None:
    async with await worker.open_file("/tmp/file", "w") as file:
        assert isinstance(file, anyio.AsyncFile)
        await file.write("one\ntwo\n")
    async with await worker.open_file(Path("/tmp/file")) as lines:
        assert [line async for line in lines] == ["one\n", "two\n"]
    async with await worker.open_file("/tmp/file", "rb", buffering=0) as raw:
        assert await raw.read() == b"one\ntwo\n"
    assert not Path("/tmp/file").exists()


@on_one_loop
async def test_modes_are_those_of_python(worker: Worker) -> None:
    async with await worker.open_file("/tmp/file", "x", encoding="latin-1", newline="\r\n") as file:
        await file.write("ä\n")
    async with await worker.open_file("/tmp/file", "ab") as appended:
        await appended.write(b"!")
    async with await worker.open_file("/tmp/file", "r+b") as updated:
        assert await updated.read() == b"\xe4\r\n!"
    with pytest.raises(FileExistsError) as caught:
        await worker.open_file("/tmp/file", "x")
    assert caught.value.filename == "/tmp/file"
    for mode in ("rw", "z", ""):
        with pytest.raises(ValueError, match="mode"):
            await worker.open_file("/tmp/other", mode)  # type: ignore[call-overload]
    status = await worker.run_sync(os.stat, "/tmp/file")
    assert status.st_mode & 0o777 == 0o644
    assert not await worker.run_sync(os.path.exists, "/tmp/other")


@on_one_loop
async def test_refusals(worker: Worker) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await worker.open_file("/tmp/nothing")
    assert caught.value.filename == "/tmp/nothing"
    assert caught.value.__notes__[0].startswith('openat(AT_FDCWD, "/tmp/nothing", ')
    with pytest.raises(IsADirectoryError):
        await worker.open_file("/tmp")
    with pytest.raises(ValueError, match="opener"):
        await worker.open_file("/tmp/file", opener=os.open)
    with pytest.raises(ValueError, match="null"):
        await worker.open("/tmp/\0", os.O_RDONLY)
    assert await works(worker)


@on_one_loop
async def test_a_number_is_a_descriptor_of_the_apps(worker: Worker) -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    async with await worker.open_file(descriptor, closefd=False) as file:
        assert await file.read() == ""
    os.close(descriptor)


@on_one_loop
async def test_descriptors(worker: Worker) -> None:
    descriptor = await worker.open(b"/tmp/b\xffytes", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"here")
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    assert (await worker.run_process("cat /tmp/b*")).stdout == b"here"
    os.close(descriptor)
    descriptor = await aions.open("/tmp", os.O_PATH | os.O_DIRECTORY)
    assert os.listdir(f"/proc/self/fd/{descriptor}") == [os.fsdecode(b"b\xffytes")]
    os.close(descriptor)
    with pytest.raises(OSError, match="exists") as caught:
        await worker.open(b"/tmp/b\xffytes", os.O_CREAT | os.O_EXCL)
    assert caught.value.errno == errno.EEXIST


async def test_opening_can_be_cancelled() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.run_sync(mount_tmpfs, "/tmp")
        await worker.run_process(["mkfifo", "/tmp/fifo"])
        for call in (worker.open_file("/tmp/fifo"), worker.open("/tmp/fifo", os.O_RDONLY)):
            with anyio.move_on_after(0.05) as scope:
                await call
            assert scope.cancelled_caught


async def test_opening_can_be_cancelled_at_any_moment() -> None:
    async with open_worker() as worker:
        for moment in range(50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_and_close, worker)
                for _ in range(moment):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        await open_and_close(worker)


async def open_and_close(worker: Worker) -> None:
    async with await worker.open_file("/etc/hosts"):
        pass


@on_one_loop
async def test_the_function_acts_on_the_current_worker(worker: Worker) -> None:
    async with await aions.open_file("/tmp/here", "w"):
        assert await worker.run_sync(os.path.exists, "/tmp/here")


@on_one_loop
async def test_a_closed_worker_opens_nothing() -> None:
    async with open_worker() as worker:
        pass
    with pytest.raises(anyio.ClosedResourceError):
        await worker.open_file("/etc/passwd")
    with pytest.raises(anyio.ClosedResourceError):
        await worker.open("/etc/passwd", os.O_RDONLY)
