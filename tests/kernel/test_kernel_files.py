"""What can be written to in a proc and a sysfs inside: nothing that is about the machine, by root of the machine either."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from aions import Bind, Capability, Dev, Mount, Namespace, Proc, Sysfs, Tmpfs, Worker, open_worker
from tests.kernel.mountinfo import mounted
from tests.kernel.targets import on_one_loop

NO_NETWORK = Namespace.USER | Namespace.MOUNT | Namespace.PID
FRESH = NO_NETWORK | Namespace.NETWORK
NOBODYS_PROCESS = r'find /proc -mindepth 1 -maxdepth 1 ! -name "[0-9]*" ! -type l'
DANGEROUS = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper")
"""By which root without capabilities is root outside, where the kernel has them."""


async def writable(worker: Worker, *starts: str) -> set[str]:
    """Return the files that a command of the worker's may write to."""
    script = f"find $({NOBODYS_PROCESS}) {' '.join(starts)} -type f -writable 2>/dev/null; true"
    return set((await worker.run_process(script)).stdout.decode().splitlines())


async def opened(worker: Worker, path: str) -> bool:
    """Whether a command can open a file for writing. It writes nothing."""
    return (await worker.run_process(["sh", "-c", f": >> {path}"], check=False)).returncode == 0


@pytest.mark.root
@pytest.mark.parametrize("user", [Namespace.USER, Namespace(0)], ids=["in a user namespace", "on the machine"])
async def test_root_without_capabilities_cannot_write_to_the_machine(user: Namespace) -> None:
    mounts = [Bind("/", "/", read_only=True), Proc(), Dev(), Tmpfs("/tmp"), Proc("/tmp/other")]
    unshare = FRESH & ~Namespace.USER | user
    async with open_worker(unshare=unshare, mounts=mounts, capabilities=Capability(0), no_new_privs=True) as worker:
        found = await writable(worker, "/tmp/other/sys", "/sys")
        allowed = ("/proc/pressure/", "/proc/sys/net/", "/tmp/other/sys/net/")
        assert {path for path in found if not path.startswith(allowed)} == set()
        assert [path for path in DANGEROUS if await opened(worker, path)] == []
        assert not await opened(worker, "/tmp/other/sys/kernel/core_pattern")
        assert await opened(worker, "/proc/self/comm"), "what is a process's can be written to"
        assert await opened(worker, "/proc/self/oom_score_adj")


@pytest.mark.root
@pytest.mark.parametrize("how", ["mounts", "mount_proc"])
@on_one_loop
async def test_both_ways_to_a_proc_are_alike(how: str) -> None:
    mounts: Sequence[Mount] = [Proc()] if how == "mounts" else []
    async with open_worker(unshare=NO_NETWORK, mounts=mounts, mount_proc=how == "mount_proc", capabilities=()) as worker:
        assert {path for path in await writable(worker) if not path.startswith("/proc/pressure/")} == set()


@pytest.mark.root
@on_one_loop
async def test_who_wants_the_machine_can_have_it() -> None:
    mounts = [Proc(kernel_writable=True), Sysfs(kernel_writable=True)]
    async with open_worker(unshare=FRESH, mounts=mounts) as worker:
        assert await opened(worker, "/proc/sys/kernel/core_pattern")
        assert [path for path in await writable(worker, "/sys/kernel") if path.startswith("/sys/kernel/")]
        assert {mount.target for mount in mounted(worker.pid) if mount.target.startswith("/proc/")} <= {
            mount.target for mount in mounted() if mount.target.startswith("/proc/")
        }


@pytest.mark.parametrize("fallback", [False, True])
@on_one_loop
async def test_what_is_read_only_is_so_all_the_way(fallback: bool) -> None:
    async with open_worker(unshare=FRESH, mounts=[Proc(read_only=True, fallback=fallback)]) as worker:
        assert await writable(worker) == set()


@pytest.mark.root
@on_one_loop
async def test_what_is_the_machines_is_read_only_also_in_the_proc_that_was_there_before() -> None:
    """A new sysfs is refused without a new network namespace."""
    with pytest.warns(RuntimeWarning, match="/sys is the /sys"):
        async with open_worker(unshare=NO_NETWORK, mounts=[Sysfs(fallback=True)], capabilities=Capability(0)) as worker:
            assert {path for path in await writable(worker, "/sys") if path.startswith("/sys/")} == set()


async def test_a_network_of_ones_own_can_be_set_up() -> None:
    """As a plain user and as root, who are root inside; and the machine's own network stays as it was."""
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    async with open_worker(unshare=FRESH, mounts=[Proc(), Sysfs()], loopback=True) as worker:
        wanted = "0" if before.strip() == "1" else "1"
        files = {"/proc/sys/net/ipv4/ip_forward": wanted}
        if os.geteuid() == 0:
            files["/sys/class/net/lo/mtu"] = "1234"
        for path, text in files.items():
            assert (await worker.run_process(f"echo {text} > {path} && cat {path}")).stdout.decode() == f"{text}\n"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before


@pytest.mark.root
@on_one_loop
async def test_the_network_of_the_machine_cannot() -> None:
    async with open_worker(unshare=NO_NETWORK, mounts=[Proc()]) as worker:
        assert not await opened(worker, "/proc/sys/net/ipv4/ip_forward")


@pytest.mark.plain_user
@on_one_loop
async def test_for_a_plain_user_nothing_is_in_the_way_of_another_proc() -> None:
    """Who cannot write to what is the machine's gets a proc as it is, so that what runs inside can mount its own."""
    async with open_worker(unshare=NO_NETWORK, mounts=[Proc()]) as worker:
        nested = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo $$"]
        assert (await worker.run_process(nested)).stdout == b"1\n"
        assert not await opened(worker, "/proc/sys/kernel/core_pattern")
        assert os.geteuid() != 0
