"""The seven functions of the mission, checked by namespace ids against util-linux."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import aions
from aions import (
    Clock,
    GroupMapping,
    Identity,
    Namespace,
    UserMapping,
    Worker,
    get_namespace_id,
    open_worker,
    run_process,
    unshare,
)
from tests.kernel.targets import (
    EVERY_KIND,
    KINDS,
    in_namespaces_of,
    inode_by_lsns,
    name_of,
    name_of_worker,
    names_in,
    names_of,
    names_of_worker,
    on_one_loop,
    readlink_all,
    target,
    target_as_root,
)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kernel_name)

Seed = Any
"""The package, whose functions act on the current worker, or a worker: both have the seven."""


@pytest.fixture(params=["functions", "methods"])
async def seed(request: pytest.FixtureRequest) -> AsyncIterator[Seed]:
    if request.param == "functions":
        yield aions
    else:
        async with open_worker() as worker:
            yield worker


async def names_inside(worker: Seed) -> dict[Namespace, str]:
    """Ask a command that the worker runs where it is."""
    return names_in((await worker.run_process(readlink_all())).stdout)


def map_of(pid: int, file: str) -> list[list[int]]:
    return [list(map(int, line.split())) for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]


async def test_unshare_moves_the_worker_and_not_the_app() -> None:
    app = os.readlink("/proc/self/ns/net")
    await unshare([Namespace.USER, Namespace.NETWORK])
    inside = await run_process(["readlink", "/proc/self/ns/net"])
    assert inside.stdout.decode().strip() == str(await get_namespace_id(None, "net")) != app
    assert os.readlink("/proc/self/ns/net") == app == str(await get_namespace_id(os.getpid(), Namespace.NETWORK))


async def test_functions_and_methods_unshare_alike(seed: Seed) -> None:
    await seed.unshare(Namespace.USER | Namespace.UTS)
    inside = await names_inside(seed)
    assert {kind for kind, name in names_of("self").items() if inside[kind] != name} == {Namespace.USER, Namespace.UTS}


@on_one_loop
@each_kind
async def test_unshare_makes_one_new_namespace_and_leaves_the_others(kind: Namespace) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        before = await names_inside(worker)
        await worker.unshare(kind)
        after = await names_inside(worker)
    assert {other for other in KINDS if before[other] != after[other]} == {kind}


@pytest.mark.root
@on_one_loop
@each_kind
async def test_root_needs_no_user_namespace(kind: Namespace) -> None:
    async with open_worker() as worker:
        await worker.unshare(kind)
        inside = await names_inside(worker)
    assert {other for other, name in names_of("self").items() if inside[other] != name} == {kind}


@on_one_loop
async def test_unshare_makes_all_eight_at_once() -> None:
    async with open_worker() as worker:
        await worker.unshare(EVERY_KIND)
        inside = await names_inside(worker)
    assert not inside.items() & names_of("self").items()


@pytest.mark.parametrize(
    "namespaces",
    [
        lambda: Namespace.USER | Namespace.NETWORK | Namespace.IPC,
        lambda: ["user", "net", "ipc"],
        lambda: (Namespace(name) for name in ("user", "net", "ipc")),
        lambda: {Namespace("user") | Namespace("net"), "ipc"},
    ],
    ids=["union", "names", "generator", "mixed"],
)
@on_one_loop
async def test_namespaces_can_be_named_in_every_form(namespaces: Callable[[], Namespace | Iterable[Namespace | str]]) -> None:
    async with open_worker() as worker:
        await worker.unshare(namespaces())
        inside = await names_inside(worker)
    wanted = {Namespace.USER, Namespace.NETWORK, Namespace.IPC}
    assert {kind for kind, name in names_of("self").items() if inside[kind] != name} == wanted


@on_one_loop
async def test_new_pid_and_time_namespaces_are_for_what_the_worker_starts() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID | Namespace.TIME)
        for kind in (Namespace.PID, Namespace.TIME):
            assert await name_of_worker(worker, kind) == name_of("self", kind)
        async with worker.fork() as fork:
            for kind in (Namespace.PID, Namespace.TIME):
                assert await name_of_worker(fork, kind) != name_of("self", kind)


@on_one_loop
async def test_a_refused_unshare_makes_none_of_its_namespaces() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        before = await names_of_worker(worker)
        with pytest.raises(OSError, match="Invalid argument"):
            await worker.unshare(Namespace.UTS | Namespace.NETWORK | Namespace.PID)
        assert await names_of_worker(worker) == before


async def test_functions_and_methods_enter_alike(seed: Seed) -> None:
    with target_as_root(Namespace.UTS) as pid:
        await seed.enter_namespace(pid, Namespace.USER | Namespace.UTS)
        inside = await names_inside(seed)
        assert inside == names_of(pid)
        assert in_namespaces_of(pid, Namespace.USER | Namespace.UTS, "readlink", "/proc/self/ns/uts") == (
            f"{inside[Namespace.UTS]}\n".encode()
        )


@on_one_loop
@each_kind
async def test_enter_namespace_enters_what_is_named_and_no_more(kind: Namespace) -> None:
    with target_as_root(EVERY_KIND) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, kind | Namespace.USER)
            inside = await names_inside(worker)
        assert {other for other, name in names_of(pid).items() if inside[other] == name} == {kind, Namespace.USER}
        assert {other for other, name in names_of("self").items() if inside[other] == name} == (
            set(KINDS) - {kind, Namespace.USER}
        )


@pytest.mark.root
@on_one_loop
@each_kind
async def test_root_enters_each_kind_alone(kind: Namespace) -> None:
    with target(kind) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, kind.kernel_name)
            assert await names_inside(worker) == names_of(pid)


@on_one_loop
async def test_enter_namespace_enters_all_eight_at_once() -> None:
    with target_as_root(EVERY_KIND) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, EVERY_KIND)
            inside = await names_inside(worker)
        nsenter = in_namespaces_of(pid, EVERY_KIND, *readlink_all())
        assert inside == names_in(nsenter) == names_of(pid)


@on_one_loop
async def test_namespaces_are_entered_one_after_another_from_inside_their_user_namespace() -> None:
    with target_as_root(EVERY_KIND) as pid:
        async with open_worker() as worker:
            for kind in (Namespace.USER, *(kind for kind in KINDS if kind is not Namespace.USER)):
                await worker.enter_namespace(pid, kind)
            assert await names_inside(worker) == names_of(pid)


@on_one_loop
async def test_a_refused_enter_namespace_enters_none() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.UTS) as worker, worker.fork() as other:
        await other.unshare(Namespace.UTS)
        before = await names_of_worker(worker)
        with pytest.raises(PermissionError):  # the network is the host's
            await worker.enter_namespace(other.pid, Namespace.UTS | Namespace.NETWORK)
        assert await names_of_worker(worker) == before
        await worker.enter_namespace(other.pid, Namespace.UTS)
        assert await name_of_worker(worker, Namespace.UTS) == await name_of_worker(other, Namespace.UTS)


@on_one_loop
async def test_enter_namespace_by_pidfd_takes_pids_as_the_app_sees_them() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID | Namespace.NETWORK) as worker, worker.fork() as other:
        await other.unshare(Namespace.NETWORK)
        await worker.enter_namespace(other.pid, Namespace.NETWORK)
        assert await name_of_worker(worker, Namespace.NETWORK) == await name_of_worker(other, Namespace.NETWORK)


async def test_functions_and_methods_set_a_namespace_alike(seed: Seed) -> None:
    with target_as_root(Namespace.NETWORK) as pid:
        with open(f"/proc/{pid}/ns/user") as user, open(f"/proc/{pid}/ns/net") as network:
            await seed.set_namespace(user)
            await seed.set_namespace(network.fileno(), Namespace.NETWORK)
        assert await names_inside(seed) == names_of(pid)


@on_one_loop
@each_kind
async def test_set_namespace_takes_a_descriptor_of_a_namespace(kind: Namespace) -> None:
    with target_as_root(EVERY_KIND) as pid:
        async with open_worker() as worker:
            if kind is not Namespace.USER:
                await worker.enter_namespace(pid, Namespace.USER)
            with open(f"/proc/{pid}/ns/{kind.kernel_name}") as nsfd:
                await worker.set_namespace(nsfd, kind)
            inside = await names_inside(worker)
        assert inside == {**names_of("self"), kind: name_of(pid, kind), Namespace.USER: name_of(pid, Namespace.USER)}


@on_one_loop
async def test_set_namespace_takes_a_pidfd() -> None:
    with target_as_root(EVERY_KIND) as pid:
        pidfd = os.pidfd_open(pid)
        try:
            async with open_worker() as worker:
                await worker.set_namespace(pidfd, [Namespace.USER, "mnt", "time"])
                inside = await names_inside(worker)
        finally:
            os.close(pidfd)
        joined = {kind: name_of(pid, kind) for kind in (Namespace.USER, Namespace.MOUNT, Namespace.TIME)}
        assert inside == names_of("self") | joined


@on_one_loop
async def test_set_namespace_enters_a_namespace_that_has_no_process() -> None:
    with target_as_root(Namespace.NETWORK) as pid:
        user, network = (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("user", "net"))
        names = names_of(pid)
    try:
        async with open_worker() as worker:
            await worker.set_namespace(user)
            await worker.set_namespace(network)
            assert await names_inside(worker) == names
    finally:
        os.close(user)
        os.close(network)


@on_one_loop
async def test_a_descriptor_that_set_namespace_took_remains_the_callers() -> None:
    with target_as_root(Namespace.UTS) as pid, open(f"/proc/{pid}/ns/user") as user:
        async with open_worker() as first, open_worker() as second:
            await first.set_namespace(user)
            await second.set_namespace(user)
            for each in (first, second):
                assert await name_of_worker(each, Namespace.USER) == name_of(pid, Namespace.USER)


@pytest.mark.root
@on_one_loop
async def test_the_way_back_is_a_descriptor_of_where_the_worker_was() -> None:
    with open("/proc/self/ns/net") as home:
        async with open_worker(unshare=Namespace.NETWORK) as worker:
            assert await name_of_worker(worker, Namespace.NETWORK) != name_of("self", Namespace.NETWORK)
            await worker.set_namespace(home, "net")
            assert await name_of_worker(worker, Namespace.NETWORK) == name_of("self", Namespace.NETWORK)


async def test_functions_and_methods_identify_alike(seed: Seed) -> None:
    with target_as_root(EVERY_KIND) as pid:
        for kind in KINDS:
            found = await seed.get_namespace_id(pid, kind)
            assert str(found) == name_of(pid, kind)
            assert found.type is kind
            assert found.inode == inode_by_lsns(pid, kind)
            assert found.device == os.stat(f"/proc/{pid}/ns/{kind.kernel_name}").st_dev
            assert found == await seed.get_namespace_id(pid, kind.kernel_name)


@on_one_loop
async def test_none_identifies_where_the_worker_is() -> None:
    async with open_worker(unshare=EVERY_KIND) as worker:
        for kind in KINDS:
            found = await worker.get_namespace_id(None, kind)
            assert found == await worker.get_namespace_id(worker.pid, kind)
            assert str(found) == await name_of_worker(worker, kind) != name_of("self", kind)


@on_one_loop
async def test_an_id_is_never_used_again_where_the_kernel_has_them() -> None:
    ids = []
    async with open_worker(unshare=Namespace.USER) as worker:
        for _ in range(20):
            await worker.unshare(Namespace.UTS)
            ids.append((await worker.get_namespace_id(None, Namespace.UTS)).id)
    if ids[0] is None:
        pytest.skip("NS_GET_ID needs Linux 6.18")
    assert len(set(ids)) == 20


async def test_functions_and_methods_write_maps_alike(seed: Seed) -> None:
    await seed.unshare(Namespace.USER)
    await seed.write_user_mappings(None, [UserMapping(7, os.geteuid(), 1)])
    await seed.write_group_mappings(None, [GroupMapping(8, os.getegid(), 1)], deny_setgroups=True)
    command = "id -u; id -g; cat /proc/self/setgroups"
    assert (await seed.run_process(command)).stdout.split() == [b"7", b"8", b"deny"]


@on_one_loop
async def test_maps_are_written_for_a_process_that_unshare_made() -> None:
    with target(Namespace.USER) as pid:
        assert map_of(pid, "uid_map") == map_of(pid, "gid_map") == []
        async with open_worker() as worker:
            await worker.write_user_mappings(pid, [UserMapping(0, os.geteuid(), 1)])
            await worker.write_group_mappings(pid, [GroupMapping(3, os.getegid(), 1)], deny_setgroups=True)
        assert map_of(pid, "uid_map") == [[0, os.geteuid(), 1]]
        assert map_of(pid, "gid_map") == [[3, os.getegid(), 1]]
        assert Path(f"/proc/{pid}/setgroups").read_text() == "deny\n"
        assert in_namespaces_of(pid, Namespace.USER, "sh", "-c", "id -u; id -g").split() == [b"0", b"3"]


@pytest.mark.root
@on_one_loop
async def test_root_writes_maps_of_many_lines_and_keeps_setgroups() -> None:
    with target(Namespace.USER) as pid:
        async with open_worker() as worker:
            await worker.write_user_mappings(pid, [UserMapping(0, 0, 1), UserMapping(1, 100_000, 65_535)])
            await worker.write_group_mappings(
                pid, [GroupMapping(0, 5, 2), GroupMapping(10, 200_000, 3), GroupMapping(20, 9, 1)]
            )
        assert map_of(pid, "uid_map") == [[0, 0, 1], [1, 100_000, 65_535]]
        assert map_of(pid, "gid_map") == [[0, 5, 2], [10, 200_000, 3], [20, 9, 1]]
        assert Path(f"/proc/{pid}/setgroups").read_text() == "allow\n"


@pytest.mark.root
@on_one_loop
async def test_root_maps_the_worker_itself_with_many_lines() -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER)
        await worker.write_user_mappings(None, (UserMapping(number, number, 1) for number in range(0, 680, 2)))
        assert len(map_of(worker.pid, "uid_map")) == 340


@pytest.mark.plain_user
@on_one_loop
async def test_a_plain_user_has_to_deny_setgroups_to_map_groups() -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER)
        with pytest.raises(PermissionError):
            await worker.write_group_mappings(None, [GroupMapping(0, os.getegid(), 1)])
        await worker.write_group_mappings(None, [GroupMapping(0, os.getegid(), 1)], deny_setgroups=True)
        assert map_of(worker.pid, "gid_map") == [[0, os.getegid(), 1]]


@pytest.mark.plain_user
@on_one_loop
async def test_a_plain_user_maps_one_id_and_its_own() -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER)
        for mappings in ([UserMapping(0, os.geteuid() + 1, 1)], [UserMapping(0, os.geteuid(), 2)]):
            with pytest.raises(PermissionError):
                await worker.write_user_mappings(None, mappings)
        await worker.write_user_mappings(None, [UserMapping(1, os.geteuid(), 1)])
        assert map_of(worker.pid, "uid_map") == [[1, os.geteuid(), 1]]


async def mapped_to_root_inside(worker: Worker) -> None:
    """Map a worker's new user namespace whose parent has no user but root."""
    await worker.write_user_mappings(None, [UserMapping(0, 0, 1)])
    await worker.write_group_mappings(None, [GroupMapping(0, 0, 1)], deny_setgroups=True)


@on_one_loop
async def test_user_namespaces_nest_in_a_fork() -> None:
    async with open_worker(unshare=Namespace.USER) as outer, outer.fork() as inner:
        await inner.unshare(Namespace.USER)
        await mapped_to_root_inside(inner)
        assert (await inner.run_process("cat /proc/self/uid_map /proc/self/gid_map")).stdout.split() == [b"0", b"0", b"1"] * 2
        names = {name_of("self", Namespace.USER), *[await name_of_worker(each, Namespace.USER) for each in (outer, inner)]}
        assert len(names) == 3


@on_one_loop
async def test_user_namespaces_nest_in_one_worker() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        for _ in range(3):
            before = await name_of_worker(worker, Namespace.USER)
            await worker.unshare(Namespace.USER)
            await mapped_to_root_inside(worker)
            assert await name_of_worker(worker, Namespace.USER) != before
        assert (await worker.run_process(["id", "-u"])).stdout == b"0\n"


@pytest.mark.root
@on_one_loop
async def test_a_fork_gets_a_map_of_many_lines_from_the_worker_that_it_was_forked_from() -> None:
    identity = Identity([UserMapping(0, 0, 10)], [GroupMapping(0, 0, 10)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as outer, outer.fork() as inner:
        await inner.unshare(Namespace.USER)
        await inner.write_user_mappings(None, [UserMapping(0, 0, 1), UserMapping(5, 7, 2)])
        assert (await inner.run_process(["cat", "/proc/self/uid_map"])).stdout.split() == b"0 0 1 5 7 2".split()


def seconds_ahead(clock: int, reading: float) -> int:
    """How far a reading is ahead of the clock here; whoever reads later is not ahead by that."""
    return round((reading - time.clock_gettime(clock)) / 100) * 100


@pytest.mark.needs("time_namespaces")
async def test_functions_and_methods_set_clock_offsets_alike(seed: Seed) -> None:
    await seed.unshare([Namespace.USER, Namespace.TIME])
    await seed.set_clock_offset(Clock.MONOTONIC, 5_000)
    await seed.set_clock_offset(Clock.BOOTTIME, 70_000, 999_999_999)
    command = ["python3", "-c", "import time; print(time.clock_gettime(1), time.clock_gettime(7))"]
    monotonic, boottime = map(float, (await seed.run_process(command)).stdout.split())
    assert seconds_ahead(time.CLOCK_MONOTONIC, monotonic) == 5_000
    assert seconds_ahead(time.CLOCK_BOOTTIME, boottime) == 70_000


@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_clock_offsets_stand_in_proc() -> None:
    async with open_worker() as worker:
        await worker.unshare([Namespace.USER, Namespace.TIME])
        await worker.set_clock_offset(Clock.MONOTONIC, 1, 2)
        await worker.set_clock_offset(Clock.BOOTTIME, -1, 3)
        offsets = Path(f"/proc/{worker.pid}/timens_offsets").read_text().split()
    assert offsets == ["monotonic", "1", "2", "boottime", "-1", "3"]


@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_a_worker_that_enters_a_time_namespace_reads_its_clocks() -> None:
    with target(Namespace.USER | Namespace.TIME, "--map-root-user", "--monotonic", "4000", "--boottime", "90000") as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, Namespace.USER | Namespace.TIME)
            readings = [
                await worker.run_sync(time.clock_gettime, clock) for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
            ]
    assert seconds_ahead(time.CLOCK_MONOTONIC, readings[0]) == 4_000
    assert seconds_ahead(time.CLOCK_BOOTTIME, readings[1]) == 90_000
