"""The kernel refuses: the error says why and what helps, and the worker is where it was."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aions import Capability, Clock, GroupMapping, Namespace, UserMapping, Worker, open_worker
from tests.kernel import called
from tests.kernel.explained import named, refusal, works
from tests.kernel.scripts import run_script
from tests.kernel.targets import name_of_worker, names_of_worker, on_one_loop

pytestmark = on_one_loop

NO_PID = 2**22 + 1
"""More than any kernel gives out."""


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker where the app is, which has to work when the test is over."""
    async with open_worker() as worker:
        yield worker
        assert await works(worker)


@pytest.fixture
async def inside() -> AsyncIterator[Worker]:
    """The same in a user namespace of its own."""
    async with open_worker(unshare=Namespace.USER) as worker:
        yield worker
        assert await works(worker)


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that has ended and that nobody has collected."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@pytest.fixture
def dead() -> int:
    """The pid of a process that was."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


async def test_a_pid_that_does_not_exist(worker: Worker) -> None:
    with refusal(errno.ESRCH, f"pidfd_open({NO_PID})", "the app"):
        await worker.enter_namespace(NO_PID, "net")
    with refusal(errno.ENOENT, "openat(", "the forkserver", "no such process"):
        await worker.get_namespace_id(NO_PID, "net")
    with refusal(errno.ENOENT, "openat(", "the forkserver", "no such process"):
        await worker.write_user_mappings(NO_PID, [UserMapping(0, os.geteuid(), 1)])


async def test_a_process_that_was(worker: Worker, dead: int) -> None:
    with refusal(errno.ESRCH, f"pidfd_open({dead})", "the app"):
        await worker.enter_namespace(dead, "net")
    with refusal(errno.ENOENT, "openat(", "the forkserver", "no such process"):
        await worker.get_namespace_id(dead, "net")


async def test_a_process_that_has_ended_but_was_not_collected(worker: Worker, zombie: int) -> None:
    with refusal(errno.ESRCH, "setns(", named(worker), "ended"):
        await worker.enter_namespace(zombie, "net")
    with refusal(errno.ENOENT, "openat(", "the forkserver"):
        await worker.get_namespace_id(zombie, "net")


async def test_a_pidfd_whose_process_ends(worker: Worker) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
    with refusal(errno.ESRCH, "setns(", named(worker), "ended"):
        await worker.set_namespace(pidfd, "net")
    os.close(pidfd)


@pytest.mark.parametrize("pid", [0, -1])
async def test_a_pid_that_no_process_can_have(worker: Worker, pid: int) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        await worker.get_namespace_id(pid, "net")
    with pytest.raises((ValueError, FileNotFoundError)):
        await worker.write_user_mappings(pid, [UserMapping(0, os.geteuid(), 1)])


@pytest.fixture(params=["file", "pipe", "socket", "event"])
def no_namespace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A descriptor of something else."""
    if request.param == "file":
        descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    elif request.param == "pipe":
        descriptor, writer = os.pipe()
        os.close(writer)
    elif request.param == "socket":
        descriptor = socket.socket().detach()
    else:
        descriptor = os.eventfd(0)
    yield descriptor
    os.close(descriptor)


async def test_a_descriptor_of_no_namespace(worker: Worker, no_namespace: int) -> None:
    with refusal(errno.EINVAL, "setns(", named(worker), "descriptor"):
        await worker.set_namespace(no_namespace)
    with refusal(errno.EINVAL, "setns(", named(worker), "descriptor"):
        await worker.set_namespace(no_namespace, "net")


async def test_a_namespace_of_another_type(worker: Worker) -> None:
    with open("/proc/self/ns/net") as nsfd, refusal(errno.EINVAL, "setns(", named(worker), "another type"):
        await worker.set_namespace(nsfd, "uts")


async def test_a_pidfd_without_a_type(worker: Worker) -> None:
    with refusal(errno.EINVAL, "setns(", named(worker), "pidfd"):
        await worker.set_namespace(worker.pidfd)


async def test_the_workers_own_user_namespace(worker: Worker) -> None:
    with refusal(errno.EINVAL, "setns(", named(worker), "user namespace already"):
        await worker.enter_namespace(os.getpid(), "user")


async def test_a_descriptor_that_is_not_open(worker: Worker) -> None:
    nsfd = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.close(nsfd)
    for descriptor in (nsfd, -1):
        with refusal(errno.EBADF, "", named(worker), "not open"):
            await worker.set_namespace(descriptor, "net")


async def test_a_descriptor_that_is_only_a_path(worker: Worker) -> None:
    descriptor = os.open("/proc/self/ns/net", os.O_PATH)
    with refusal(errno.EBADF, "setns(", named(worker), "not open"):
        await worker.set_namespace(descriptor, "net")
    os.close(descriptor)


async def test_a_map_is_written_once(inside: Worker) -> None:
    for _ in range(2):
        with refusal(errno.EPERM, "write(", "the forkserver", "Write each map once"):
            await inside.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])
    with refusal(errno.EPERM, "write(", "the forkserver", "Write each map once"):
        await inside.write_group_mappings(None, [GroupMapping(0, os.getegid(), 1)])


async def test_a_map_without_a_user_namespace(worker: Worker) -> None:
    with refusal(errno.EPERM, "write(", "the forkserver", "Namespace.USER"):
        await worker.write_user_mappings(None, [UserMapping(0, os.geteuid(), 1)])


async def test_a_mapping_of_ids_that_the_parent_namespace_has_not(inside: Worker) -> None:
    async with inside.fork() as inner:
        await inner.unshare(Namespace.USER)
        with pytest.raises(PermissionError):
            await inner.write_user_mappings(None, [UserMapping(0, 5, 1)])
        await inner.write_user_mappings(None, [UserMapping(0, 0, 1)])


async def test_a_second_pid_namespace(inside: Worker) -> None:
    async with inside.fork() as fork:
        await fork.unshare(Namespace.PID)
        with refusal(errno.EINVAL, "unshare(CLONE_NEWPID)", named(fork), "unshared its pid namespace already"):
            await fork.unshare(Namespace.PID)
        assert await works(fork)


async def test_a_pid_namespace_whose_first_process_has_ended(inside: Worker) -> None:
    async with inside.fork() as fork:
        await fork.unshare(Namespace.PID)
        assert await works(fork)
        with refusal(errno.ENOMEM, "posix_spawn(", named(fork), "first process"):
            await fork.run_process(["true"])
        with refusal(errno.ENOMEM, "", named(fork), "first process"):
            async with fork.fork():
                raise AssertionError
        assert str(await fork.get_namespace_id(None, "user")) == await name_of_worker(inside, Namespace.USER)


async def test_a_quota_that_is_used_up(inside: Worker) -> None:
    await inside.run_process("echo 0 > /proc/sys/user/max_net_namespaces")
    before = await names_of_worker(inside)
    with refusal(errno.ENOSPC, "unshare(CLONE_NEWUTS|CLONE_NEWNET)", named(inside), "quota", "not about disk space"):
        await inside.unshare(Namespace.NETWORK | Namespace.UTS)
    assert await names_of_worker(inside) == before


async def test_thirty_two_user_namespaces_inside_each_other(inside: Worker) -> None:
    async with inside.fork() as fork:
        with refusal(errno.ENOSPC, "unshare(CLONE_NEWUSER)", named(fork), "inside each other"):
            for _ in range(33):
                await fork.unshare(Namespace.USER)
                await fork.write_user_mappings(None, [UserMapping(0, 0, 1)])
                await fork.write_group_mappings(None, [GroupMapping(0, 0, 1)], deny_setgroups=True)


async def test_nesting_without_mappings(worker: Worker) -> None:
    async with worker.fork() as fork:
        await fork.unshare(Namespace.USER)
        with refusal(errno.EPERM, "unshare(CLONE_NEWUSER)", named(fork), "map is not written", "Map both"):
            await fork.unshare(Namespace.USER)


async def test_a_user_namespace_after_chroot(inside: Worker, tmp_path: Path) -> None:
    async with inside.fork() as fork:
        await fork.run_sync(os.chroot, str(tmp_path))
        with refusal(errno.EPERM, "unshare(CLONE_NEWUSER)", named(fork), "chroot", "by pivot_root instead"):
            await fork.unshare(Namespace.USER)


@pytest.mark.parametrize("act", ["open_worker", "new_namespace"])
async def test_a_loopback_without_capabilities(act: str, tmp_path: Path) -> None:
    """As on Ubuntu, where AppArmor takes them from user namespaces of plain users."""
    program = f"""
        import anyio
        from aions import Namespace, open_worker
        from tests.kernel.programs import seccomp

        async def main():
            unshare = Namespace.USER | Namespace.NETWORK
            try:
                async with open_worker(unshare=unshare, loopback={act == "open_worker"}) as worker:
                    (await worker.new_namespace("net", loopback=True)).close()
            except PermissionError as error:
                print(*error.__notes__, sep="\\n")

        seccomp.deny("ioctl", second_argument=0x8914)  # SIOCSIFFLAGS
        anyio.run(main)
        """
    said = "\n".join(run_script(tmp_path, program))
    assert said.startswith("ioctl(SIOCSIFFLAGS")
    assert "Probable cause: The worker lacks CAP_NET_ADMIN" in said
    assert "kernel.apparmor_restrict_unprivileged_userns" in said
    assert "aions doctor" in said


async def test_a_host_name_without_capabilities() -> None:
    async with open_worker(unshare=["user", "uts"], capabilities=Capability.NET_ADMIN) as worker:
        with refusal(errno.EPERM, "sethostname(", named(worker), "kernel.apparmor_restrict", "aions doctor"):
            await worker.sethostname("x")


@pytest.mark.root
async def test_root_without_the_capability_to_map_itself(tmp_path: Path) -> None:
    program = """
        import anyio
        from aions import Namespace, open_worker

        async def main():
            try:
                async with open_worker(unshare=Namespace.USER):
                    raise AssertionError
            except PermissionError as error:
                print(*error.__notes__)

        anyio.run(main)
        """
    (said,) = run_script(tmp_path, program, under=["setpriv", "--bounding-set=-setfcap", "--inh-caps=-setfcap"])
    assert said.startswith("write(")
    assert "as root, have CAP_SETFCAP" in said


@pytest.mark.plain_user
async def test_the_maps_of_another_user(worker: Worker) -> None:
    with refusal(errno.EACCES, "openat(", "the forkserver", "another user"):
        await worker.write_user_mappings(1, [UserMapping(0, os.geteuid(), 1)])


@pytest.mark.needs("time_namespaces")
async def test_a_time_namespace_beside_threads(inside: Worker) -> None:
    async with inside.fork() as fork, inside.fork() as other:
        await other.unshare(Namespace.TIME)
        async with other.fork() as member:
            await fork.run_sync(called.leave_a_thread)
            with refusal(errno.EUSERS, "setns(", named(fork), "one thread", "leave_a_thread"):
                await fork.enter_namespace(member.pid, Namespace.TIME)


@pytest.mark.parametrize("kind", ["user", "mnt"])
async def test_a_namespace_that_takes_no_threads(worker: Worker, kind: str) -> None:
    async with worker.fork() as fork, open_worker(unshare=["user", "mnt"]) as target:
        await fork.run_sync(called.leave_a_thread)
        with refusal(errno.EINVAL, "setns(", named(fork), "leave_a_thread"):
            await fork.enter_namespace(target.pid, ["user", kind])


async def test_users_and_groups_that_are_not_mapped(inside: Worker) -> None:
    with refusal(errno.EINVAL, "setreuid(", named(inside), "mapped by no mapping", "Identity.subordinate"):
        await inside.run_process(["true"], user=4321)
    with refusal(errno.EINVAL, "setregid(", named(inside), "mapped by no mapping", "Identity.subordinate"):
        await inside.run_process(["true"], group=4321)


@pytest.mark.plain_user
async def test_users_and_groups_of_others(worker: Worker, inside: Worker) -> None:
    with refusal(errno.EPERM, "setreuid(0, 0)", named(worker), "CAP_SETUID"):
        await worker.run_process(["true"], user=0)
    with refusal(errno.EPERM, "setgroups(", named(inside), "denied", "Identity.subordinate"):
        await inside.run_process(["true"], extra_groups=[0])


async def test_seccomp_as_in_docker(tmp_path: Path) -> None:
    program = """
        import anyio
        from aions import Namespace, open_worker
        from tests.kernel.programs import seccomp

        async def main():
            async with open_worker() as bystander:
                try:
                    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK):
                        print("half-made")
                except PermissionError as error:
                    print(*error.__notes__, sep="\\n")
                print((await bystander.run_process(["echo", "works"])).stdout.decode())

        seccomp.deny("unshare", "setns", "mount")
        anyio.run(main)
        """
    said = "\n".join(run_script(tmp_path, program))
    assert "unshare(CLONE_NEWUSER|CLONE_NEWNET) was refused" in said
    assert "A seccomp filter is in force" in said
    assert "--security-opt seccomp=unconfined" in said
    assert said.strip().endswith("works")


@pytest.mark.plain_user
async def test_a_plain_user_without_a_user_namespace(worker: Worker) -> None:
    with refusal(errno.EPERM, "unshare(CLONE_NEWNET)", named(worker), "add Namespace.USER"):
        await worker.unshare(Namespace.NETWORK)


@pytest.mark.plain_user
async def test_a_plain_user_and_the_namespaces_of_root(worker: Worker) -> None:
    with refusal(errno.EPERM, "setns(", named(worker), "CAP_SYS_ADMIN"):
        await worker.enter_namespace(os.getpid(), "net")
    with refusal(errno.EACCES, "openat(", "the forkserver", "another user"):
        await worker.get_namespace_id(1, "net")


async def test_the_hosts_network_from_inside_a_user_namespace(inside: Worker) -> None:
    with refusal(errno.EPERM, "setns(", named(inside), "owns the target"):
        await inside.enter_namespace(os.getpid(), "net")


async def test_a_command_that_does_not_exist(worker: Worker) -> None:
    for command in (["no-such-command-anywhere"], ["/no/such/command"], ["./no"]):
        with refusal(errno.ENOENT, "posix_spawn(", named(worker), "No such program"):
            await worker.run_process(command, env={"PATH": "/usr/bin:/bin"})
    with pytest.raises(FileNotFoundError, match="/no/such/command"):
        await worker.open_process(["/no/such/command"])


async def test_a_directory_that_does_not_exist(worker: Worker, tmp_path: Path) -> None:
    with refusal(errno.ENOENT, "", named(worker), "working directory"):
        await worker.run_process(["true"], cwd=tmp_path / "none")


async def test_a_file_that_is_no_program(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="file"):
        await worker.run_process([tmp_path / "file"])
    with pytest.raises(NotADirectoryError):
        await worker.run_process(["true"], cwd=tmp_path / "file")


async def test_a_script_whose_interpreter_does_not_exist(worker: Worker, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with refusal(errno.ENOENT, "posix_spawn(", named(worker), "interpreter"):
        await worker.run_process([script])


async def test_arguments_that_are_too_long(worker: Worker) -> None:
    with pytest.raises(OSError, match="Argument list too long"):
        await worker.run_process(["/bin/true", "a" * 200_000])


@pytest.mark.needs("time_namespaces")
async def test_a_clock_that_is_fixed(inside: Worker) -> None:
    async with inside.fork() as fork:
        await fork.unshare(Namespace.TIME)
        await fork.run_process(["true"])
        with refusal(errno.EACCES, "write(", named(fork), "started in the time namespace"):
            await fork.set_clock_offset(Clock.MONOTONIC, 1)


@pytest.mark.root
async def test_a_clock_without_a_time_namespace(worker: Worker) -> None:
    with refusal(errno.EACCES, "write(", named(worker), "no time namespace was unshared"):
        await worker.set_clock_offset(Clock.BOOTTIME, 1)


@pytest.mark.plain_user
async def test_a_clock_of_the_host(worker: Worker) -> None:
    with refusal(errno.EPERM, "write(", named(worker), "CAP_SYS_TIME"):
        await worker.set_clock_offset(Clock.BOOTTIME, 1)


@pytest.mark.needs("time_namespaces")
async def test_a_clock_that_would_stand_below_zero(inside: Worker) -> None:
    async with inside.fork() as fork:
        await fork.unshare(Namespace.TIME)
        with refusal(errno.ERANGE, "write(", named(fork)):
            await fork.set_clock_offset(Clock.MONOTONIC, -4_000_000_000)
        await fork.set_clock_offset(Clock.MONOTONIC, 1)


@contextmanager
def no_room_for_descriptors() -> Iterator[None]:
    """Have this process's table of descriptors full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        try:
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


async def test_an_app_without_room_for_descriptors(worker: Worker) -> None:
    with no_room_for_descriptors():
        with refusal(errno.EMFILE, "", named(worker), "RLIMIT_NOFILE"):
            await worker.socket()
        with pytest.raises(OSError, match="Too many open files"):
            await worker.run_process(["true"])
        assert str(await worker.get_namespace_id(None, "net")) == await name_of_worker(worker, Namespace.NETWORK)


async def test_a_worker_without_room_for_descriptors(worker: Worker) -> None:
    await worker.run_sync(called.leave_room_for_two_descriptors)
    limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    for act in (lambda: worker.run_process(["true"]), lambda: worker.run_sync(os.getpid, cancellable=True)):
        with refusal(errno.EMFILE, "", named(worker), "RLIMIT_NOFILE"):
            await act()
    await worker.unshare(Namespace.USER)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (limits[1], limits[1]))


@pytest.mark.plain_user
async def test_a_user_without_room_for_processes() -> None:
    async with open_worker() as worker:
        await worker.run_sync(resource.setrlimit, resource.RLIMIT_NPROC, (1, 1))
        with refusal(errno.EAGAIN, "", named(worker), "RLIMIT_NPROC"):
            async with worker.fork():
                raise AssertionError
        with refusal(errno.EAGAIN, "posix_spawn(", named(worker), "RLIMIT_NPROC"):
            await worker.run_process(["true"])
        await worker.unshare(Namespace.USER)
