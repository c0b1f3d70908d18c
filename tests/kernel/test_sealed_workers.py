"""Workers that show nothing of themselves, since they have started something: they can do what they could before."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aions import Clock, GroupMapping, Identity, Namespace, UserMapping, Worker, open_worker
from tests.kernel.explained import named, refusal, works
from tests.kernel.programs.running import children, parent
from tests.kernel.targets import name_of, name_of_worker, names_of_worker, on_one_loop


def is_sealed(worker: Worker) -> bool:
    """Whether the files of a plain user's worker in /proc are root's."""
    return os.stat(f"/proc/{worker.pid}/status").st_uid == 0


@pytest.fixture
async def inside() -> AsyncIterator[Worker]:
    """A worker in a user namespace of its own, which has run a command, and has to be able to when the test is over."""
    async with open_worker(unshare=Namespace.USER) as worker:
        assert await works(worker)
        yield worker
        assert await works(worker)


@pytest.mark.plain_user
async def test_a_fork_seals_both() -> None:
    """SECURITY: before anything else can be started."""
    for _ in range(10):
        async with open_worker() as worker:
            assert not is_sealed(worker)
            async with worker.fork() as fork:
                assert is_sealed(worker)
                assert is_sealed(fork)


@pytest.mark.plain_user
@on_one_loop
async def test_a_worker_whose_maps_are_left_unwritten_is_not_sealed() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        assert not is_sealed(worker)


async def test_maps_are_written_for_a_worker_that_has_run_something() -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER)
        assert await works(worker)
        before = len(children(parent(worker.pid)))
        await worker.write_user_mappings(None, [UserMapping(7, os.geteuid(), 1)])
        await worker.write_group_mappings(None, [GroupMapping(8, os.getegid(), 1)], deny_setgroups=True)
        assert (await worker.run_process("id -u; id -g; cat /proc/self/setgroups")).stdout.split() == [b"7", b"8", b"deny"]
        assert len(children(parent(worker.pid))) == before, "nothing is left of how that was done"


@pytest.mark.plain_user
@on_one_loop
async def test_refused_maps_can_be_written_again_and_written_ones_cannot() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        assert await works(worker)
        with pytest.raises(OSError, match=r"\[Errno"):
            await worker.write_user_mappings(None, [UserMapping(0, 2**32 - 2, 1)])
        await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])
        with refusal(errno.EPERM, "write(", "the forkserver", "Write each map once"):
            await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])
        await worker.write_group_mappings(None, [GroupMapping(0, os.getegid(), 1)], deny_setgroups=True)


@pytest.mark.plain_user
@on_one_loop
async def test_maps_are_not_written_by_way_of_a_process_that_may_more_than_the_worker() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        await worker.restrict(no_new_privs=True)
        assert await works(worker)
        with refusal(errno.EACCES, "openat(", "the forkserver", "may not be looked into"):
            await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])


@on_one_loop
async def test_a_refused_unshare_of_several_leaves_the_worker_where_it_was(inside: Worker) -> None:
    await inside.run_process("echo 0 > /proc/sys/user/max_net_namespaces")
    before = await names_of_worker(inside)
    with refusal(errno.ENOSPC, "unshare(CLONE_NEWUSER|CLONE_NEWNET)", named(inside), "quota"):
        await inside.unshare(Namespace.USER | Namespace.NETWORK)
    async with inside.fork() as fork:
        await fork.unshare(Namespace.PID)
        with refusal(errno.EINVAL, "unshare(CLONE_NEWUSER|CLONE_NEWPID)", named(fork), "unshared its pid namespace already"):
            await fork.unshare(Namespace.USER | Namespace.PID)
        assert await name_of_worker(fork, Namespace.USER) == before[Namespace.USER]
        assert await works(fork)
    assert await names_of_worker(inside) == before


@on_one_loop
async def test_a_user_namespace_below_another_mount_of_the_same_root(tmp_path: Path) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.bind_mount("/", tmp_path)
        assert await works(worker)
        await worker.chroot(tmp_path)
        with refusal(errno.EPERM, "unshare(CLONE_NEWUSER)", named(worker), "chroot", "by pivot_root instead"):
            await worker.unshare(Namespace.USER)


@pytest.mark.plain_user
@on_one_loop
async def test_whatever_stands_in_for_a_worker_is_nowhere_but_where_that_is(tmp_path: Path) -> None:
    """SECURITY: what runs there can take it over."""
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT | Namespace.NETWORK, identity=Identity()) as worker:
        assert await works(worker)
        await worker.chroot(tmp_path)
        before = children(parent(worker.pid))
        await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])
        user = await name_of_worker(worker, Namespace.USER)
        (pid,) = (pid for pid in children(parent(worker.pid)) if pid not in before and name_of(pid, Namespace.USER) == user)
        assert [os.readlink(f"/proc/{pid}/{name}") for name in ("root", "cwd")] == [str(tmp_path)] * 2
        for kind in (Namespace.MOUNT, Namespace.NETWORK):
            assert name_of(pid, kind) == await name_of_worker(worker, kind)
        held = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        assert {re.sub(r"\d+", "…", each) for each in held} == {"/dev/null", "socket:[…]"}


@on_one_loop
async def test_what_a_function_has_changed_the_root_of_imports_nothing_any_more(tmp_path: Path) -> None:
    """The first worker is forked before its forkserver has imported what other requests need."""
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.run_sync(os.chroot, str(tmp_path))
        with pytest.raises(FileNotFoundError):
            await worker.run_process(["true"])


@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_a_fork_sets_clocks() -> None:
    async with open_worker(unshare=Namespace.USER) as worker, worker.fork() as fork:
        await fork.unshare(Namespace.TIME)
        await fork.set_clock_offset(Clock.BOOTTIME, 70_000)
        offsets = Path(f"/proc/{fork.pid}/timens_offsets").read_text().split()
        assert offsets == ["monotonic", "0", "0", "boottime", "70000", "0"]


@pytest.mark.plain_user
@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_a_fork_of_a_worker_that_has_run_something_says_that_it_sets_no_clocks(inside: Worker) -> None:
    async with inside.fork() as fork:
        await fork.unshare(Namespace.TIME)
        with refusal(errno.EACCES, "openat(", named(fork), "had started something", "open one with clock_offsets"):
            await fork.set_clock_offset(Clock.MONOTONIC, 1)
