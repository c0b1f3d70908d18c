"""Ids, groups and capabilities inside: what was asked for is what /proc says, and what aions reads back (R35)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from aions import Capability, Credentials, GroupMapping, Identity, Namespace, UserMapping, Worker, get_credentials, open_worker
from tests.kernel import called
from tests.kernel.explained import named, refusal
from tests.kernel.scripts import run_script
from tests.kernel.targets import on_one_loop, status_field, target, target_as_root

pytestmark = on_one_loop

ALL = ~Capability(0)
NET = Capability.NET_ADMIN | Capability.NET_RAW
STATUS = ["cat", "/proc/self/status"]


def who(status: str | bytes) -> dict[str, str]:
    text = status.decode() if isinstance(status, bytes) else status
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def capabilities(text: str) -> Capability:
    return Capability(int(text, 16))


async def command_status(worker: Worker, **options: Any) -> dict[str, str]:
    return who((await worker.run_process(STATUS, **options)).stdout)


@pytest.fixture
def groups() -> Iterator[None]:
    """Have the app in two supplementary groups, which it inherits to its forkserver."""
    before = os.getgroups()
    os.setgroups([7, 8])
    yield
    os.setgroups(before)


@pytest.mark.root
@pytest.mark.usefixtures("groups")
async def test_groups_are_dropped_where_that_is_allowed() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        found = await worker.get_credentials(None)
        assert (found.extra_groups, found.setgroups) == ((), True)
        assert status_field(worker.pid, "Groups") == ""
    async with open_worker() as worker:
        assert (await worker.get_credentials(None)).extra_groups == (7, 8)


@pytest.mark.root
@pytest.mark.usefixtures("groups")
async def test_groups_that_cannot_be_dropped_are_reported() -> None:
    identity = Identity([UserMapping(0, 0, 1)], [GroupMapping(0, 0, 1), GroupMapping(5, 8, 1)], setgroups=False)
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        found = await worker.get_credentials(None)
        assert (found.extra_groups, found.setgroups) == ((65534, 5), False)
        assert (await worker.get_credentials(worker.pid)).extra_groups == (7, 8)


@pytest.mark.root
async def test_the_worker_is_root_inside_as_another_user_outside() -> None:
    identity = Identity([UserMapping(0, 100_000, 1000)], [GroupMapping(0, 200_000, 1000)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        inside, outside = await worker.get_credentials(None), await worker.get_credentials(worker.pid)
        assert inside.users == inside.groups == (0, 0, 0, 0)
        assert (outside.users, outside.groups) == ((100_000,) * 4, (200_000,) * 4)
        assert inside.capabilities == inside.permitted == inside.bounding == ALL
        assert status_field(worker.pid, "Uid").split() == ["100000"] * 4
        assert os.stat(f"/proc/{worker.pid}/status").st_uid == 0, "nobody but root can look into it"
        status = await command_status(worker)
        assert status["Uid"].split() == status["Gid"].split() == ["0"] * 4
        assert capabilities(status["CapEff"]) == ALL


@pytest.mark.root
async def test_the_worker_is_who_the_app_is_mapped_to() -> None:
    identity = Identity(
        [UserMapping(0, 100_000, 1000), UserMapping(1000, 0, 1)], [GroupMapping(0, 100_000, 1000), GroupMapping(1001, 0, 1)]
    )
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        found = await worker.get_credentials(None)
        assert (found.users, found.groups, found.capabilities) == ((1000,) * 4, (1001,) * 4, ALL)
    only_users = Identity([UserMapping(0, 100_000, 1000)], [GroupMapping(7, 0, 1)])
    async with open_worker(unshare=Namespace.USER, identity=only_users) as worker:
        found = await worker.get_credentials(None)
        assert (found.users, found.groups) == ((0,) * 4, (7,) * 4)


@contextmanager
def target_of_others() -> Iterator[int]:
    """A process in a user namespace in which root is another user outside, and that is allowed to set groups."""
    with target(Namespace.USER | Namespace.NETWORK) as pid:
        for file in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{file}").write_bytes(b"0 100000 1000\n")
        yield pid


@pytest.mark.root
@pytest.mark.usefixtures("groups")
async def test_who_enters_a_user_namespace_is_root_there() -> None:
    with target_of_others() as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, Namespace.USER | Namespace.NETWORK)
            found = await worker.get_credentials(None)
            assert (found.users, found.groups, found.extra_groups) == ((0,) * 4, (0,) * 4, ())
            assert found.capabilities == found.permitted == found.bounding == ALL
            assert found.inheritable == found.ambient == Capability(0)
            assert status_field(worker.pid, "Uid").split() == ["100000"] * 4
            status = await command_status(worker)
            assert (status["Uid"].split(), status["Groups"]) == (["0"] * 4, "")


@pytest.mark.root
@pytest.mark.usefixtures("groups")
async def test_who_enters_can_stay_who_it_is() -> None:
    with target_of_others() as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, "user", preserve_credentials=True)
            found = await worker.get_credentials(None)
            assert (found.users, found.extra_groups) == ((65534,) * 4, (65534, 65534))
            assert status_field(worker.pid, "Uid").split() == ["0"] * 4
        async with open_worker() as worker:
            with open(f"/proc/{pid}/ns/user") as nsfd:
                await worker.set_namespace(nsfd)
            assert status_field(worker.pid, "Uid").split() == ["100000"] * 4


async def test_a_namespace_without_root_is_entered_all_the_same() -> None:
    with target(Namespace.USER, "--map-user", "5", "--map-group", "6") as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, "user")
            found = await worker.get_credentials(None)
            assert (found.users, found.groups) == ((5,) * 4, (6,) * 4)
            assert found.capabilities == ALL


async def test_entering_other_kinds_changes_nobody() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, identity=Identity.current) as worker:
        before = await worker.get_credentials(None)
        async with worker.fork() as other:
            await other.unshare(Namespace.NETWORK)
            await other.enter_namespace(worker.pid, "net")
            assert await other.get_credentials(None) == before


async def test_what_is_read_is_what_proc_says() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        status = who(Path(f"/proc/{worker.pid}/status").read_text())
        found = await worker.get_credentials(worker.pid)
        assert found == Credentials(
            users=tuple(map(int, status["Uid"].split())),
            groups=tuple(map(int, status["Gid"].split())),
            extra_groups=tuple(map(int, status["Groups"].split())),
            setgroups=os.geteuid() == 0,
            capabilities=capabilities(status["CapEff"]),
            permitted=capabilities(status["CapPrm"]),
            inheritable=capabilities(status["CapInh"]),
            bounding=capabilities(status["CapBnd"]),
            ambient=capabilities(status["CapAmb"]),
            no_new_privs=False,
        )
        assert (await get_credentials(os.getpid())).users[1] == os.geteuid()


async def test_a_command_has_only_the_capabilities_that_it_is_given() -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        status = await command_status(worker, capabilities=[Capability.NET_ADMIN, Capability.NET_RAW])
        for name in ("CapEff", "CapPrm", "CapBnd"):
            assert capabilities(status[name]) == NET
        assert capabilities(status["CapInh"]) == capabilities(status["CapAmb"]) == Capability(0)
        assert not capabilities((await command_status(worker, capabilities=Capability(0)))["CapEff"])
        assert capabilities((await command_status(worker))["CapEff"]) == ALL, "the worker has lost nothing"


async def test_a_command_that_is_not_root_keeps_capabilities_if_asked_to() -> None:
    identity = Identity([UserMapping(5, os.geteuid(), 1)], [GroupMapping(5, os.getegid(), 1)])
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, identity=identity) as worker:
        assert not capabilities((await command_status(worker))["CapEff"])
        status = await command_status(worker, keep_capabilities=True)
        assert status["Uid"].split() == ["5"] * 4
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert capabilities(status[name]) == ALL
        status = await command_status(worker, keep_capabilities=True, capabilities=NET)
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            assert capabilities(status[name]) == NET
        await worker.run_process(["ip", "link", "set", "lo", "up"], keep_capabilities=True, capabilities=Capability.NET_ADMIN)
        with pytest.raises(subprocess.CalledProcessError):
            await worker.run_process(["ip", "link", "set", "lo", "up"])


@pytest.mark.root
async def test_capabilities_survive_the_change_to_another_user() -> None:
    async with open_worker() as worker:
        status = await command_status(
            worker, user=1234, group=4321, extra_groups=[9], keep_capabilities=True, capabilities=NET, no_new_privs=True
        )
        assert (status["Uid"].split(), status["Gid"].split(), status["Groups"]) == (["1234"] * 4, ["4321"] * 4, "9")
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            assert capabilities(status[name]) == NET
        assert status["NoNewPrivs"] == "1"
        status = await command_status(worker, user=1234)
        assert not capabilities(status["CapEff"])


@pytest.mark.root
async def test_a_command_without_new_privileges_gets_none_of_a_setuid_program(tmp_path: Path) -> None:
    program = tmp_path / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    async with open_worker() as worker:
        assert (await worker.run_process([program, "-u"], user=1234)).stdout == b"0\n"
        assert (await worker.run_process([program, "-u"], user=1234, no_new_privs=True)).stdout == b"1234\n"
        assert not (await worker.get_credentials(None)).no_new_privs


async def test_a_worker_gives_up_privileges_for_good() -> None:
    async with open_worker(unshare=Namespace.USER, capabilities=NET, no_new_privs=True) as worker:
        found = await worker.get_credentials(None)
        assert (found.capabilities, found.permitted, found.bounding) == (NET, NET, NET)
        assert found.no_new_privs
        status = await command_status(worker)
        assert capabilities(status["CapEff"]) == NET
        assert status["NoNewPrivs"] == "1"
        with refusal(errno.EPERM, "unshare(CLONE_NEWUTS)", named(worker), "CAP_SYS_ADMIN"):
            await worker.unshare(Namespace.UTS)
        async with worker.fork() as fork:
            assert (await fork.get_credentials(None)).bounding == NET
        assert await worker.run_sync(called.death_signal) == signal.SIGKILL


async def test_a_worker_is_restricted_only_once_it_is_inside() -> None:
    inside = Namespace.USER | Namespace.PID | Namespace.MOUNT
    async with open_worker(unshare=inside, capabilities=Capability(0), no_new_privs=True) as worker:
        assert await worker.run_sync(os.getpid) == 1
        assert not (await worker.get_credentials(None)).capabilities


async def test_a_worker_that_is_not_root_has_its_commands_keep_capabilities() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity(), keep_capabilities=True) as worker:
        assert (await worker.get_credentials(None)).ambient == ALL
        assert capabilities((await command_status(worker))["CapEff"]) == ALL
        assert capabilities((await command_status(worker, capabilities=NET))["CapEff"]) == NET


@pytest.mark.plain_user
async def test_dropping_capabilities_takes_one() -> None:
    async with open_worker() as worker:
        with refusal(errno.EPERM, "prctl(PR_CAPBSET_DROP, 0)", named(worker), "CAP_SETPCAP"):
            await worker.restrict(capabilities=Capability(0))
        with refusal(errno.EPERM, "prctl(PR_CAPBSET_DROP, 0)", named(worker), "CAP_SETPCAP"):
            await worker.run_process(["true"], capabilities=NET)
        assert (await command_status(worker, no_new_privs=True))["NoNewPrivs"] == "1"
        assert (await command_status(worker, keep_capabilities=True))["CapAmb"] == "0" * 16


async def test_the_worker_ends_with_its_parent_after_each_change() -> None:
    """R4: every change of credentials clears PDEATHSIG."""
    with target_as_root(Namespace.NETWORK) as pid:
        async with open_worker() as outer, outer.fork() as inner:
            changes: list[Callable[[], Awaitable[None]]] = [
                lambda: inner.enter_namespace(pid, Namespace.USER),
                lambda: inner.restrict(capabilities=ALL ^ Capability.SYS_BOOT, keep_capabilities=True),
                lambda: inner.restrict(no_new_privs=True),
                lambda: inner.unshare(Namespace.UTS),
                lambda: inner.run_sync(called.clear_death_signal),
            ]
            for change in changes:
                await change()
                assert await inner.run_sync(called.death_signal) == signal.SIGKILL


@pytest.mark.root
async def test_the_worker_ends_with_its_parent_after_it_became_root_inside() -> None:
    """R4: nobody of the app's is mapped, so the worker becomes somebody else."""
    identity = Identity([UserMapping(0, 100_000, 1000)], [GroupMapping(0, 100_000, 1000)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        assert status_field(worker.pid, "Uid").split() == ["100000"] * 4
        os.kill(int(status_field(worker.pid, "PPid")), signal.SIGKILL)
        with anyio.fail_after(10):
            await anyio.wait_readable(worker.pidfd)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.root
async def test_a_worker_that_became_another_user_ends_with_its_parent() -> None:
    """R4. The forkserver, which would end it too, is stopped meanwhile."""
    with target_of_others() as pid:
        async with open_worker() as outer, outer.fork() as inner:
            await inner.enter_namespace(pid, Namespace.USER)
            assert status_field(inner.pid, "Uid").split() == ["100000"] * 4
            with stopped(int(status_field(outer.pid, "PPid"))), anyio.fail_after(10):
                os.kill(outer.pid, signal.SIGKILL)
                await anyio.wait_readable(inner.pidfd)


@pytest.mark.root
async def test_a_worker_that_is_inside_as_nobody_is_not_left(tmp_path: Path) -> None:
    """Where it may not become root (here by seccomp), it ends: its next call would run as whom nobody asked for."""
    program = """
        import sys
        import anyio
        from aions import Namespace, WorkerDied, open_worker
        from tests.kernel.programs import seccomp

        async def main():
            async with open_worker() as worker:
                try:
                    await worker.enter_namespace(int(sys.argv[1]), Namespace.USER)
                except PermissionError as error:
                    print(error.__notes__[0].partition(" was")[0])
                try:
                    await worker.run_process(["true"])
                except WorkerDied:
                    print("has ended")

        seccomp.deny("setresuid")
        anyio.run(main)
        """
    with target_of_others() as pid:
        assert run_script(tmp_path, program, pid) == ["setresuid(0, 0, 0)", "has ended"]
