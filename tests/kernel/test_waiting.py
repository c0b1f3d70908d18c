"""What waits for somebody who never answers holds up no other call of its worker, and ends when it is cancelled."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from aions import Bind, Namespace, Tmpfs, Worker, open_worker
from tests.kernel.explained import works
from tests.kernel.targets import on_one_loop

INSIDE = Namespace.USER | Namespace.PID | Namespace.MOUNT


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker with a FIFO, which has no other end, and room for more."""
    os.mkfifo(tmp_path / "fifo")
    mounts = [Bind(tmp_path, "/mnt"), Tmpfs("/srv")]
    async with open_worker(unshare=INSIDE, mount_proc=True, mounts=mounts) as worker:
        yield worker


async def nothing_else_waits(worker: Worker, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Have a call wait, others not, and end the call."""
    with anyio.fail_after(10):
        before = await descriptors(worker)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                assert await works(worker)
            tasks.cancel_scope.cancel()
        assert await works(worker)
        assert await descriptors(worker) == before


async def descriptors(worker: Worker) -> int:
    return len(await worker.run_sync(os.listdir, "/proc/self/fd"))


ON_A_FIFO: dict[str, Callable[[Worker], Coroutine[Any, Any, Any]]] = {
    "open": lambda worker: worker.open("/mnt/fifo", os.O_RDONLY),
    "open to write": lambda worker: worker.open("/mnt/fifo", os.O_WRONLY),
    "open or create": lambda worker: worker.open("/mnt/fifo", os.O_WRONLY | os.O_CREAT),
    "open_file": lambda worker: worker.open_file("/mnt/fifo"),
}


@pytest.mark.parametrize("call", ON_A_FIFO)
async def test_a_fifo_without_another_end(worker: Worker, call: str) -> None:
    await nothing_else_waits(worker, lambda: ON_A_FIFO[call](worker))


async def test_a_fifo_that_is_opened_at_last(worker: Worker, tmp_path: Path) -> None:
    results: list[int] = []

    async def read() -> None:
        results.append(await worker.open("/mnt/fifo", os.O_RDONLY))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            writing = await anyio.to_thread.run_sync(os.open, tmp_path / "fifo", os.O_WRONLY)
    os.write(writing, b"said")
    os.close(writing)
    assert os.get_blocking(results[0])
    assert os.read(results[0], 10) == b"said"
    os.close(results[0])


@on_one_loop
async def test_with_o_nonblock_a_fifo_is_opened_as_ever(worker: Worker) -> None:
    reading = await worker.open("/mnt/fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert not os.get_blocking(reading)
    writing = await worker.open("/mnt/fifo", os.O_WRONLY | os.O_NONBLOCK)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="No such device or address"):
        await worker.open("/mnt/fifo", os.O_WRONLY | os.O_NONBLOCK)


@on_one_loop
async def test_what_is_opened_is_blocking_unless_asked_otherwise(worker: Worker) -> None:
    for path in ("/etc/passwd", "/dev/null", "/dev/zero", "/etc", "/srv/new"):
        flags = os.O_CREAT | os.O_WRONLY if path == "/srv/new" else os.O_RDONLY
        descriptor = await worker.open(path, flags)
        assert os.get_blocking(descriptor)
        assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(descriptor)


@on_one_loop
async def test_a_file_that_somebody_has_leased(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "leased").touch()
    leased = os.open(tmp_path / "leased", os.O_RDWR)
    try:
        fcntl.fcntl(leased, fcntl.F_SETSIG, 28)  # instead of SIGIO, which would end this process: SIGWINCH
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        await nothing_else_waits(worker, lambda: worker.open("/mnt/leased", os.O_RDONLY))
    finally:
        os.close(leased)


@on_one_loop
async def test_no_fork_is_made_for_this_that_would_be_process_1(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        os.close(await worker.open(tmp_path / "fifo", os.O_WRONLY))
        assert (await worker.run_process(["sh", "-c", "echo $$"])).stdout == b"1\n"
    os.close(reading)


def mount_dead_server(path: str) -> None:
    """Mount a FUSE file system that nobody serves. The descriptor that keeps it waiting for its server stays open."""
    os.mkdir(path)
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    if libc.mount(b"nobody", path.encode(), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


ON_A_DEAD_SERVER: dict[str, Callable[[Worker], Coroutine[Any, Any, Any]]] = {
    "open": lambda worker: worker.open("/srv/dead/file", os.O_RDONLY),
    "create": lambda worker: worker.open("/srv/dead/file", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open the root": lambda worker: worker.open("/srv/dead", os.O_RDONLY),
    "open_file": lambda worker: worker.open_file("/srv/dead/file"),
    "mount": lambda worker: worker.mount("x", "/srv/dead/directory", "tmpfs"),
    "open_tree": lambda worker: worker.open_tree("/srv/dead/directory"),
    "chdir": lambda worker: worker.chdir("/srv/dead/directory"),
    "chroot": lambda worker: worker.chroot("/srv/dead/directory"),
    "a command's directory": lambda worker: worker.run_process(["true"], cwd="/srv/dead/directory"),
    "a command": lambda worker: worker.run_process(["/srv/dead/program"]),
    "a command by a fork": lambda worker: worker.run_process(["/srv/dead/program"], no_new_privs=True),
}


@pytest.mark.root  # of whom everybody has /dev/fuse
@pytest.mark.needs("fuse")
@pytest.mark.parametrize("call", ON_A_DEAD_SERVER)
async def test_a_file_server_that_does_not_answer(worker: Worker, call: str) -> None:
    await worker.run_sync(mount_dead_server, "/srv/dead")
    await nothing_else_waits(worker, lambda: ON_A_DEAD_SERVER[call](worker))
    descriptor = await worker.open("/etc/passwd", os.O_RDONLY)
    os.close(descriptor)


@pytest.mark.root  # of whom everybody has /dev/fuse
@pytest.mark.needs("fuse")
async def test_beside_such_a_server_commands_and_files_are_found(worker: Worker) -> None:
    await worker.run_sync(mount_dead_server, "/srv/dead")
    with anyio.fail_after(10):
        for _ in range(2):
            assert (await worker.run_process(["cat", "/etc/hostname"], cwd="/etc", check=False)).returncode in (0, 1)
            with pytest.raises(OSError, match="No such file") as caught:
                await worker.run_process(["/no/such/program"])
            assert caught.value.errno == errno.ENOENT
        async with await worker.open_file("/etc/passwd") as file:
            assert await file.read()
