"""Paths that the app names for a worker that sees other files lead to nothing outside, whoever wrote the links on the way."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aions import Bind, Namespace, Overlay, Tmpfs, Worker, open_worker
from tests.kernel.targets import on_one_loop, target_as_root

pytestmark = on_one_loop

LINKS = {
    "fd": "/proc/self/fd",
    "root": "/proc/self/root",
    "cwd": "/proc/self/cwd",
    "exe": "/proc/self/exe",
    "of process 1": "/proc/1/root",
}


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker below a root of its own, in which somebody has left links."""
    root = tmp_path / "root"
    for directory in ("usr", "proc", "tmp", "etc"):
        (root / directory).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "exe").symlink_to("/proc/self/exe")
    (root / "self-root").symlink_to("/proc/self/root")
    (root / "of-1").symlink_to("/proc/1/cwd")
    for number in range(3, 12):
        (root / f"fd-{number}").symlink_to(f"/proc/self/fd/{number}")
        (root / f"file-{number}").symlink_to(f"/proc/self/fd/{number}/../{tmp_path}/secret")
    (root / "plain").symlink_to("etc/file")
    (root / "etc/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    async with open_worker(
        unshare=Namespace.USER | Namespace.PID | Namespace.MOUNT,
        root=root,
        mount_proc=True,
        mounts=[Bind("/usr", "/usr", read_only=True), Tmpfs("/tmp")],
    ) as worker:
        yield worker


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(OSError, match=r"Too many levels of symbolic links|No such file") as caught:
        yield
    if caught.value.errno == errno.ELOOP:
        assert any("could lead outside" in note for note in caught.value.__notes__)
    else:
        assert caught.value.errno == errno.ENOENT


WAYS: dict[str, Callable[[Worker, str], Awaitable[Any]]] = {
    "open": lambda worker, path: worker.open(path, os.O_RDONLY),
    "open to write": lambda worker, path: worker.open(path, os.O_RDWR),
    "open or create": lambda worker, path: worker.open(path, os.O_RDWR | os.O_CREAT),
    "open a path": lambda worker, path: worker.open(path, os.O_PATH),
    "open_file": lambda worker, path: worker.open_file(path),
}

DIRECTORY_WAYS: dict[str, Callable[[Worker, str], Awaitable[Any]]] = {
    "chdir": lambda worker, path: worker.chdir(path),
    "chroot": lambda worker, path: worker.chroot(path),
    "pivot_root": lambda worker, path: worker.pivot_root(path),
    "cwd": lambda worker, path: worker.run_process(["true"], cwd=path),
    "cwd by a fork": lambda worker, path: worker.run_process(["true"], cwd=path, no_new_privs=True),
    "open_tree": lambda worker, path: worker.open_tree(path),
}

PROGRAM_WAYS: dict[str, Callable[[Worker, str], Awaitable[Any]]] = {
    "program": lambda worker, path: worker.run_process([path, "-c", ""]),
    "program by a fork": lambda worker, path: worker.run_process([path, "-c", ""], no_new_privs=True),
    "program in PATH": lambda worker, path: worker.run_process([os.path.basename(path), "-c", ""], env={"PATH": "/"}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_files(worker: Worker, way: str, tmp_path: Path) -> None:
    for name in (*(f"/file-{number}" for number in range(3, 12)), "/exe", "exe"):
        with refused():
            await WAYS[way](worker, name)
    assert (tmp_path / "secret").read_text() == "outside"


@pytest.mark.parametrize("way", DIRECTORY_WAYS)
async def test_directories(worker: Worker, way: str) -> None:
    for name in (*(f"/fd-{number}" for number in range(3, 12)), "/self-root", "self-root", "/of-1", "/proc/self/cwd"):
        with pytest.raises(OSError, match=r"Too many levels of symbolic links|No such file|Not a directory"):
            await DIRECTORY_WAYS[way](worker, name)


@pytest.mark.parametrize("way", PROGRAM_WAYS)
async def test_programs(worker: Worker, way: str) -> None:
    with refused():
        await PROGRAM_WAYS[way](worker, "/exe")


async def test_other_links_are_followed_as_ever(worker: Worker) -> None:
    async with await worker.open_file("/plain") as file:
        assert await file.read() == "inside"
    async with await worker.open_file("/../../plain") as file:
        assert await file.read() == "inside"
    assert (await worker.run_process(["/bin/pwd"], cwd="/bin")).stdout == b"/usr/bin\n"
    await worker.chdir("/etc")
    async with await worker.open_file("../etc/file") as file:
        assert await file.read() == "inside"
    assert (await worker.run_process(["cat", "file"])).stdout == b"inside"
    assert (await worker.run_process(["cat", "../../etc/file"], cwd="../bin")).stdout == b"inside"


async def test_a_working_directory_outside_of_the_root_is_none(worker: Worker) -> None:
    await worker.chdir("/tmp")
    await worker.chroot("/usr")
    for call in (worker.open("../etc/file", os.O_RDONLY), worker.open(".", os.O_RDONLY), worker.chdir("..")):
        with pytest.raises(FileNotFoundError):
            await call
    await worker.chdir("/")
    os.close(await worker.open("bin", os.O_RDONLY))


SETUP = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/to
ln -s /proc/self/cwd /mnt/link
"""


@pytest.mark.parametrize("mount", [Bind("/mnt/link", "/mnt/to"), Overlay("/mnt/to", ["/mnt/link"])], ids=["bind", "overlay"])
async def test_sources_in_a_mount_namespace_that_was_entered(mount: Bind | Overlay) -> None:
    """Those of `open_worker` are then paths of somebody else's."""
    with target_as_root(Namespace.MOUNT) as pid:
        into = ["nsenter", "--target", str(pid), "--user", "--mount", "--preserve-credentials", "sh", "-ec", SETUP]
        subprocess.run(into, check=True, capture_output=True)
        kinds = Namespace.USER | Namespace.MOUNT
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            async with open_worker(enter=(pid, kinds), unshare=Namespace.MOUNT, mounts=[mount]):
                pass


async def test_at_home_all_links_are_followed() -> None:
    async with open_worker() as worker:
        descriptor = await worker.open("/proc/self/ns/net", os.O_RDONLY)
        assert os.readlink(f"/proc/self/fd/{descriptor}") == os.readlink("/proc/self/ns/net")
        os.close(descriptor)
        await worker.run_process(["true"], cwd="/proc/self/root")
