"""Workers in cgroups, of either version and as many hierarchies as this machine has."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aions import Namespace, open_worker
from tests.kernel.mountinfo import mounted
from tests.kernel.targets import on_one_loop, until

pytestmark = on_one_loop

HIERARCHIES = [Path(mount.target) for mount in mounted() if mount.filesystem in ("cgroup", "cgroup2")]
SIMPLE = [path for path in HIERARCHIES if path.name in ("unified", "pids", "freezer", "cgroup")]
"""Those in which a new cgroup takes processes as it is."""


@contextmanager
def new_cgroup(hierarchy: Path) -> Iterator[Path]:
    """Have a cgroup, which must be empty at the end: else the kernel does not let go of it."""
    directory = hierarchy / f"aions-test-{os.getpid()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        directory.rmdir()


def cgroups_of(pid: int) -> list[str]:
    return [line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]


@pytest.mark.root
@pytest.mark.parametrize("hierarchy", SIMPLE, ids=lambda path: path.name)
async def test_a_worker_and_what_it_starts_are_in_its_cgroup(hierarchy: Path) -> None:
    with new_cgroup(hierarchy) as directory:
        async with open_worker(unshare=Namespace.USER | Namespace.PID, cgroup=directory) as worker:
            assert f"/{directory.name}" in cgroups_of(worker.pid)
            assert f"/{directory.name}" in (await worker.run_process("cat /proc/self/cgroup")).stdout.decode()
            async with worker.fork() as fork, await fork.open_process(["cat"]) as command:
                members = set((directory / "cgroup.procs").read_text().split())
                assert {str(process.pid) for process in (worker, fork, command)} <= members
                assert command.stdin is not None
                await command.stdin.aclose()
        await until(lambda: not (directory / "cgroup.procs").read_text())
    assert f"/{directory.name}" not in cgroups_of(os.getpid())


@pytest.mark.root
async def test_a_worker_is_in_a_cgroup_of_each_hierarchy_and_sees_them_as_roots() -> None:
    with new_cgroup(SIMPLE[0]) as first, new_cgroup(SIMPLE[-1]) as second:
        unshare = Namespace.USER | Namespace.CGROUP
        async with open_worker(unshare=unshare, cgroup=[os.fsencode(first), str(second)]) as worker:
            assert cgroups_of(worker.pid).count(f"/{first.name}") == len({first, second})
            inside = (await worker.run_process("cat /proc/self/cgroup")).stdout.decode().splitlines()
            assert all(line.endswith(":/") for line in inside)
        await until(lambda: not (first / "cgroup.procs").read_text() + (second / "cgroup.procs").read_text())


@pytest.mark.root
@pytest.mark.parametrize("hierarchy", SIMPLE, ids=lambda path: path.name)
async def test_two_hundred_openings_leave_an_empty_cgroup(hierarchy: Path) -> None:
    with new_cgroup(hierarchy) as directory:
        for _ in range(200):
            async with open_worker(cgroup=directory):
                pass
        await until(lambda: not (directory / "cgroup.procs").read_text())


@pytest.mark.parametrize(
    ("name", "number", "remedy"),
    [("none", errno.ENOENT, "Make the directory first"), ("file", errno.ENOTDIR, "not a file in it")],
)
async def test_a_cgroup_that_is_none(tmp_path: Path, name: str, number: int, remedy: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        async with open_worker(cgroup=tmp_path / name):
            raise AssertionError
    assert caught.value.errno == number
    assert remedy in "\n".join(caught.value.__notes__)


@pytest.mark.plain_user
@pytest.mark.parametrize("hierarchy", HIERARCHIES[:1], ids=lambda path: path.name)
async def test_a_cgroup_that_is_not_delegated(hierarchy: Path) -> None:
    with pytest.raises(PermissionError) as caught:
        async with open_worker(unshare=Namespace.USER, cgroup=hierarchy):
            raise AssertionError
    assert caught.value.errno == errno.EACCES
    assert "Delegate=yes" in "\n".join(caught.value.__notes__)
