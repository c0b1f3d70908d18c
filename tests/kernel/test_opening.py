"""open_worker, fork and aclose: where a worker is from its first moment to its last."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from aions import (
    Clock,
    GroupMapping,
    Identity,
    Namespace,
    UserMapping,
    Worker,
    current_worker,
    get_namespace_id,
    open_worker,
    run_process,
    run_sync,
    unshare,
)
from tests.kernel import called
from tests.kernel.scripts import run_script
from tests.kernel.targets import (
    EVERY_KIND,
    KINDS,
    has_ended,
    has_processes,
    is_gone,
    name_of,
    name_of_worker,
    names_of,
    names_of_worker,
    on_one_loop,
    status_field,
    until,
)

INSIDE = Namespace.USER | Namespace.NETWORK | Namespace.MOUNT | Namespace.PID
"""What most uses ask for."""


def map_of(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_text().split()


def mounts_of(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def test_a_plain_worker_is_where_the_app_is() -> None:
    async with open_worker() as worker:
        assert await names_of_worker(worker) == names_of("self")
        assert worker.pid != os.getpid()


@pytest.mark.parametrize("unshare", [Namespace(0), (), []], ids=repr)
@on_one_loop
async def test_no_namespaces_can_be_asked_for_in_any_form(unshare: Namespace | list[Namespace]) -> None:
    async with open_worker(unshare=unshare) as worker:
        assert await names_of_worker(worker) == names_of("self")


@on_one_loop
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kernel_name)
async def test_a_worker_is_itself_inside_what_it_was_opened_with(kind: Namespace) -> None:
    async with open_worker(unshare=[kind, Namespace.USER]) as worker:
        inside = await names_of_worker(worker)
    assert {other for other, name in names_of("self").items() if inside[other] != name} == {kind, Namespace.USER}


@pytest.mark.root
@on_one_loop
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kernel_name)
async def test_root_opens_a_worker_in_each_kind_alone(kind: Namespace) -> None:
    async with open_worker(unshare=kind.kernel_name) as worker:
        inside = await names_of_worker(worker)
    assert {other for other, name in names_of("self").items() if inside[other] != name} == {kind}


async def test_a_worker_is_inside_all_eight() -> None:
    async with open_worker(unshare=EVERY_KIND) as worker:
        names = await names_of_worker(worker)
        assert not names.items() & names_of("self").items()
        inside = await worker.run_sync(called.namespaces, os.listdir("/proc/self/ns"))
        assert inside == {
            **{kind.kernel_name: name for kind, name in names.items()},
            "pid_for_children": names[Namespace.PID],
            "time_for_children": names[Namespace.TIME],
        }


@on_one_loop
async def test_pid_and_pidfd_are_of_the_worker_as_the_app_sees_it() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        assert status_field(worker.pid, "NSpid").split() == [str(worker.pid), "1"]
        fdinfo = Path(f"/proc/self/fdinfo/{worker.pidfd}").read_text()
        assert f"Pid:\t{worker.pid}\n" in fdinfo
        assert str(worker.pid) in repr(worker)
    assert worker.pidfd == -1
    assert "closed" in repr(worker)


async def test_the_apps_user_is_root_inside() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        assert map_of(worker.pid, "uid_map") == ["0", str(os.geteuid()), "1"]
        assert map_of(worker.pid, "gid_map") == ["0", str(os.getegid()), "1"]
        assert (await worker.run_process("id -u; id -g")).stdout.split() == [b"0", b"0"]


@pytest.mark.root
@on_one_loop
async def test_root_keeps_setgroups() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        assert map_of(worker.pid, "setgroups") == ["allow"]


@pytest.mark.plain_user
@on_one_loop
async def test_setgroups_is_denied_to_a_plain_user() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        assert map_of(worker.pid, "setgroups") == ["deny"]


@on_one_loop
async def test_an_identity_of_nothing_leaves_the_maps_unwritten() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        assert map_of(worker.pid, "uid_map") == map_of(worker.pid, "gid_map") == []
        await worker.write_user_mappings(None, [UserMapping(5, os.geteuid(), 1)])
        assert (await worker.run_sync(os.getuid)) == 5


@on_one_loop
async def test_each_map_can_be_chosen_for_itself() -> None:
    users, groups = [UserMapping(1234, os.geteuid(), 1)], [GroupMapping(4321, os.getegid(), 1)]
    async with open_worker(unshare=Namespace.USER, identity=Identity(users, groups)) as worker:
        assert await worker.run_sync(os.getresuid) == (1234, 1234, 1234)
        assert await worker.run_sync(os.getresgid) == (4321, 4321, 4321)
    async with open_worker(unshare=Namespace.USER, identity=Identity(group_mappings=groups)) as worker:
        assert map_of(worker.pid, "uid_map") == []
        assert await worker.run_sync(os.getresgid) == (4321, 4321, 4321)


@pytest.mark.root
@on_one_loop
async def test_root_opens_a_worker_with_many_mappings() -> None:
    users = [UserMapping(0, 100_000, 1000), UserMapping(1000, 0, 1)]
    groups = [GroupMapping(0, 100_000, 1000), GroupMapping(1000, 0, 1)]
    async with open_worker(unshare=Namespace.USER, identity=Identity(iter(users), iter(groups))) as worker:
        assert map_of(worker.pid, "uid_map") == map_of(worker.pid, "gid_map") == ["0", "100000", "1000", "1000", "0", "1"]
        assert map_of(worker.pid, "setgroups") == ["allow"]


@pytest.mark.parametrize("identity", [Identity(), Identity.root(), Identity.current], ids=str)
@on_one_loop
async def test_an_identity_needs_a_user_namespace(identity: Identity) -> None:
    with pytest.raises(ValueError, match=r"add Namespace\.USER"):
        async with open_worker(unshare="net", identity=identity):
            raise AssertionError


async def test_the_worker_is_the_first_process_of_its_pid_namespace() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        assert await worker.run_sync(os.getpid) == 1
        assert (await worker.run_process("echo $PPID")).stdout == b"1\n"


async def test_the_first_process_collects_orphans() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker, await worker.open_process(["cat"]) as running:
        assert await worker.run_sync(called.leave_an_orphan) > 1
        await worker.run_process("(sleep 0.01 & ) ; (true &)")
        await until(lambda: children_of(worker.pid) == {running.pid})


async def test_processes_in_a_pid_namespace_end_with_its_first() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        sleeper = await worker.open_process(["sleep", "600"])
        pidfd = os.dup(sleeper.pidfd)
        os.kill(worker.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            await anyio.wait_readable(pidfd)
        os.close(pidfd)
        with pytest.raises(Exception, match="has ended"):
            await sleeper.aclose()


@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_the_clocks_of_a_worker_are_fixed_when_it_is_inside() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.TIME) as worker:
        with pytest.raises(PermissionError, match="timens_offsets"):
            await worker.set_clock_offset(Clock.MONOTONIC, 1)


@on_one_loop
async def test_what_is_mounted_inside_does_not_appear_outside(tmp_path: Path) -> None:
    before = mounts_of("self")
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.run_sync(called.mount_tmpfs, str(tmp_path))
        (inside,) = [line for line in mounts_of(worker.pid) if f" {tmp_path} " in line]
        assert "tmpfs" in inside
        await worker.run_process(["touch", str(tmp_path / "file")])
        assert list(tmp_path.iterdir()) == []
        assert mounts_of("self") == before


@on_one_loop
async def test_what_is_mounted_inside_stays_there_where_mounts_are_shared(tmp_path: Path) -> None:
    """The program has a mount namespace of its own, with a shared mount, as most hosts have; the host's is left alone."""
    setup = 'mount -t tmpfs none "$0" && mount --make-shared "$0" && mkdir "$0/below" && exec "$@"'
    shared = tmp_path / "shared"
    shared.mkdir()
    program = """
        import sys
        from pathlib import Path
        import anyio
        from aions import Namespace, open_worker

        async def shows_outside(worker):
            await worker.run_process(["mount", "-t", "tmpfs", "none", sys.argv[1]])
            return f" {sys.argv[1]} " in Path("/proc/self/mountinfo").read_text()

        async def main():
            async with open_worker(unshare=Namespace.MOUNT) as worker:
                print(await shows_outside(worker))
            async with open_worker() as worker:
                await worker.unshare(Namespace.MOUNT)
                print(await shows_outside(worker))

        anyio.run(main)
        """
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", setup, str(shared)]
    assert run_script(tmp_path, program, shared / "below", under=unshare) == ["False", "True"]


async def test_the_current_worker_is_the_innermost() -> None:
    default = await current_worker()
    async with open_worker() as outer:
        assert await current_worker() is outer
        async with open_worker(unshare=Namespace.USER) as inner:
            assert await current_worker() is inner
            assert await run_sync(os.getpid) == inner.pid
        assert await current_worker() is outer
    assert await current_worker() is default


async def test_the_current_worker_is_restored_after_an_error() -> None:
    async with open_worker() as outer:
        with pytest.raises(LookupError, match="mine"):
            async with open_worker():
                raise LookupError("mine")
        assert await current_worker() is outer


async def test_a_fork_is_not_current() -> None:
    async with open_worker() as worker, worker.fork():
        assert await current_worker() is worker


async def test_tasks_inherit_the_current_worker_and_change_only_their_own() -> None:
    seen: list[Worker] = []

    async def task() -> None:
        seen.append(await current_worker())
        async with open_worker() as own:
            assert await current_worker() is own
            started.set()
            await checked.wait()

    started, checked = anyio.Event(), anyio.Event()
    async with open_worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(task)
        await started.wait()
        assert await current_worker() is worker
        checked.set()
    assert seen == [worker]


async def test_there_is_one_default_worker_for_each_event_loop() -> None:
    async def default_pid() -> int:
        return (await current_worker()).pid

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(default_pid)
    mine = await default_pid()
    elsewhere = await anyio.to_thread.run_sync(anyio.run, default_pid)
    assert mine == await default_pid() != elsewhere
    await until(lambda: is_gone(elsewhere))


async def test_the_default_worker_keeps_what_it_was_moved_to() -> None:
    await unshare(["user", "net"])
    moved = await get_namespace_id(None, "net")
    assert str(moved) != name_of("self", Namespace.NETWORK)
    assert moved == await get_namespace_id(None, "net")
    assert (await run_process(["readlink", "/proc/self/ns/net"])).stdout.decode().strip() == str(moved)


async def test_a_worker_is_not_current_in_another_event_loop() -> None:
    async def current() -> tuple[int, str]:
        worker = await current_worker()
        return worker.pid, await name_of_worker(worker, Namespace.USER)

    async with open_worker(unshare=Namespace.USER) as worker:
        pid, name = await anyio.to_thread.run_sync(anyio.run, current)
        assert pid != worker.pid
        assert name == name_of("self", Namespace.USER)


async def test_fifty_tasks_have_fifty_workers_in_namespaces_of_their_own() -> None:
    before = names_of("self")
    ids = set()
    all_are_open = anyio.Event()

    async def task() -> None:
        async with open_worker(unshare=Namespace.USER | Namespace.NETWORK):
            ids.add(await get_namespace_id(None, Namespace.NETWORK))
            if len(ids) == 50:
                all_are_open.set()
            await all_are_open.wait()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(task)
    assert len(ids) == 50
    assert before[Namespace.NETWORK] not in map(str, ids)
    assert names_of("self") == before


@on_one_loop
async def test_a_fork_is_where_its_worker_is() -> None:
    async with open_worker(unshare=EVERY_KIND) as worker, worker.fork() as fork:
        assert await names_of_worker(fork) == await names_of_worker(worker)
        assert status_field(fork.pid, "NSpid").split() == [str(fork.pid), str(await fork.run_sync(os.getpid))]


@on_one_loop
async def test_a_fork_and_its_worker_go_separate_ways() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker, worker.fork() as fork:
        await fork.unshare(Namespace.NETWORK)
        assert await name_of_worker(fork, Namespace.NETWORK) != await name_of_worker(worker, Namespace.NETWORK)
        await worker.run_process(["true"])


@on_one_loop
async def test_the_first_fork_after_unshare_is_the_first_process() -> None:
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER | Namespace.PID)
        async with worker.fork() as first, worker.fork() as second:
            assert [await first.run_sync(os.getpid), await second.run_sync(os.getpid)] == [1, 2]
            assert await first.run_sync(os.getppid) == 0


async def test_closing_a_fork_leaves_its_worker() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        async with worker.fork() as fork:
            pass
        assert is_gone(fork.pid)
        await worker.run_process(["true"])


async def test_a_fork_ends_with_the_worker_that_it_was_forked_from() -> None:
    async with open_worker() as worker, worker.fork() as fork, fork.fork() as grandchild:
        pidfds = [os.dup(each.pidfd) for each in (fork, grandchild)]  # closing the worker lets go of the handles of its forks
        await worker.aclose()
        for pidfd in pidfds:
            with anyio.fail_after(10):
                await anyio.wait_readable(pidfd)
            os.close(pidfd)


async def test_closing_leaves_no_process_and_no_namespace() -> None:
    async with open_worker(unshare=INSIDE) as worker:
        pidfd = os.dup(worker.pidfd)
        names = [await name_of_worker(worker, kind) for kind in INSIDE]
        await worker.run_process("sleep 600 > /dev/null 2>&1 &")
        await worker.run_process(["setsid", "sh", "-c", "setsid sleep 600 > /dev/null 2>&1 &"])
        assert all(map(has_processes, names))
    assert has_ended(pidfd)
    os.close(pidfd)
    await until(lambda: not any(map(has_processes, names)))


async def leave_running(worker: Worker) -> list[int]:
    """Have commands leave processes behind that outlive them; return pidfds of these."""
    left = await worker.run_process("sleep 600 > /dev/null 2>&1 & echo $!")
    detached = await worker.run_process(["setsid", "sh", "-c", "setsid sleep 600 > /dev/null 2>&1 & echo $!"])
    pidfds = [os.pidfd_open(int(done.stdout)) for done in (left, detached)]
    assert not any(map(has_ended, pidfds))
    return pidfds


async def end(pidfds: list[int]) -> None:
    with anyio.fail_after(10):
        for pidfd in pidfds:
            await anyio.wait_readable(pidfd)
            os.close(pidfd)


@on_one_loop
async def test_what_commands_left_running_ends_with_the_worker() -> None:
    async with open_worker() as worker:
        pidfds = await leave_running(worker)
    await end(pidfds)


@on_one_loop
async def test_what_commands_left_running_ends_with_the_fork_that_ran_them() -> None:
    async with open_worker() as worker:
        async with worker.fork() as fork:
            pidfds = await leave_running(fork)
        await end(pidfds)
        assert await worker.run_sync(os.getpid) == worker.pid


@on_one_loop
async def test_a_namespace_lives_on_where_something_outside_holds_it() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        found = await worker.get_namespace_id(None, Namespace.NETWORK)
        async with await worker.open_namespace("user") as user, await worker.open_namespace("net") as network:
            await worker.aclose()
            async with open_worker() as other:
                await other.set_namespace(user)
                await other.set_namespace(network)
                assert await other.get_namespace_id(None, Namespace.NETWORK) == found


async def test_closing_twice_does_nothing() -> None:
    async with open_worker() as worker:
        await worker.aclose()
        await worker.aclose()
        assert worker.pidfd == -1


async def test_closing_is_not_held_up_by_a_cancelled_task() -> None:
    with anyio.CancelScope() as scope:
        async with open_worker() as worker:
            pidfd = os.dup(worker.pidfd)
            scope.cancel()
            await anyio.sleep_forever()
    assert has_ended(pidfd)
    os.close(pidfd)


async def test_a_stopped_worker_is_closed() -> None:
    async with open_worker() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        pidfd = os.dup(worker.pidfd)
    assert has_ended(pidfd)
    os.close(pidfd)


def is_in_reserve(pid: int) -> bool:
    """Whether a process is a worker that was forked in advance: where the app is, and with nothing of its own."""
    try:
        return names_of(pid) == names_of("self") and not children_of(pid)
    except OSError:
        return False


async def leaves_nothing(worker: Worker) -> None:
    """Wait until a worker and what is held in reserve are all that its forkserver has."""
    forkserver = int(status_field(worker.pid, "PPid"))
    await until(lambda: sum(map(is_in_reserve, others := children_of(forkserver) - {worker.pid})) == len(others) <= 1)


def overlapping() -> Identity:
    return Identity([UserMapping(0, 0, 2), UserMapping(1, 5, 1)])


async def test_bad_mappings_leave_nothing_half_made() -> None:
    async with open_worker() as bystander:
        with pytest.raises(ValueError, match="overlap inside"):
            async with open_worker(unshare=EVERY_KIND, identity=overlapping):
                raise AssertionError
        await leaves_nothing(bystander)
        assert await current_worker() is bystander


@pytest.mark.plain_user
@pytest.mark.parametrize(
    ("unshare", "identity"),
    [
        (Namespace.NETWORK, Identity.root),
        (EVERY_KIND, Identity([UserMapping(0, 0, 1)])),
        (Namespace.USER, Identity([UserMapping(0, os.geteuid(), 2)])),
    ],
    ids=["unshare", "another's id", "too many ids"],
)
@on_one_loop
async def test_refusals_leave_nothing_half_made(unshare: Namespace, identity: Identity) -> None:
    async with open_worker() as bystander:
        with pytest.raises(PermissionError):
            async with open_worker(unshare=unshare, identity=identity):
                raise AssertionError
        await leaves_nothing(bystander)
