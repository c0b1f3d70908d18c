"""run_process and open_process: anyio's, elsewhere."""

from __future__ import annotations

import fcntl
import grp
import inspect
import os
import pwd
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError
from typing import Any

import anyio
import pytest

from aions import Namespace, Worker, open_worker
from tests.kernel import called
from tests.kernel.pipes import open_pipe
from tests.kernel.programs import seccomp
from tests.kernel.scripts import run_script
from tests.kernel.targets import name_of_worker, on_one_loop, target, target_as_root


@pytest.fixture
async def at_home() -> AsyncIterator[Worker]:
    """A worker where the app is."""
    async with open_worker() as worker:
        yield worker


@pytest.fixture(params=["home", "inside"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    """A worker where the app is, and one that is as far from there as most uses need."""
    inside = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.NETWORK
    async with open_worker(unshare=inside if request.param == "inside" else ()) as worker:
        yield worker


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    with open_pipe() as pipe:
        yield pipe


SAME: dict[str, tuple[Any, dict[str, Any]]] = {
    "arguments": (["printf", "%s|", "a b", "", "$HOME", "*"], {}),
    "bytes": ([b"printf", b"%s", b"\xff\x00".rstrip(b"\x00")], {}),
    "surrogates": (["printf", "%s", "\udcff\udc80"], {}),
    "unicode": (["printf", "%s", "grüß 🐧"], {}),
    "paths": ([Path("/bin/sh"), "-c", "echo path"], {}),
    "a tuple": (("echo", "tuple"), {}),
    "a shell's command": ("echo $((6 * 7)); echo $0; exit 0", {}),
    "a shell's command in bytes": (b"printf '\xfe'", {}),
    "a path for a shell": (Path("/bin/pwd"), {"cwd": "/usr"}),
    "both outputs": ("echo out; echo err >&2", {}),
    "input": (["cat"], {"input": b"\x00\xff" * 500_000}),
    "empty input": (["cat"], {"input": b"", "stdin": None}),
    "no input": (["cat"], {"stdin": DEVNULL}),
    "a pipe for input": (["true"], {"stdin": PIPE}),
    "much output": ("head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2", {}),
    "no output": ("echo out; echo err >&2", {"stdout": DEVNULL, "stderr": DEVNULL}),
    "one output": ("echo out; echo err >&2", {"stderr": STDOUT}),
    "nothing for either": ("echo out; echo err >&2", {"stdout": DEVNULL, "stderr": STDOUT}),
    "a status": ("exit 7", {"check": False}),
    "a signal": ("kill -KILL $$", {"check": False}),
    "a signal with a core": ("ulimit -c 0; kill -ABRT $$", {"check": False}),
    "a real-time signal": ("kill -40 $$", {"check": False}),
    "a directory": (["pwd"], {"cwd": "/usr/lib"}),
    "a directory in bytes": (["pwd"], {"cwd": b"/usr/lib"}),
    "a directory as a path": (["pwd"], {"cwd": Path("/usr/lib")}),
    "an environment": (["env"], {"env": {"PATH": os.environ["PATH"], "A": "b=c d", "ÄÖ": "\udcff", "EMPTY": ""}}),
    "an empty environment": (["/usr/bin/env"], {"env": {}}),
    "a mask": ("umask", {"umask": 0o027}),
    "descriptors": (["ls", "/proc/self/fd"], {}),
    "limits": (["cat", "/proc/self/limits"], {}),
}


@on_one_loop
@pytest.mark.parametrize(("command", "options"), SAME.values(), ids=SAME)
async def test_it_is_what_anyio_does(worker: Worker, command: Any, options: dict[str, Any]) -> None:
    there = await worker.run_process(command, **options)
    here = await anyio.run_process(command, **options)
    assert there.args == here.args == command
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


@on_one_loop
async def test_a_command_runs_where_the_worker_is(worker: Worker) -> None:
    for kind in (Namespace.USER, Namespace.MOUNT, Namespace.PID, Namespace.NETWORK):
        inside = await worker.run_process(["readlink", f"/proc/self/ns/{kind.kernel_name}"])
        assert inside.stdout.decode().strip() == await name_of_worker(worker, kind)


@on_one_loop
async def test_a_status_other_than_zero_is_an_error(worker: Worker) -> None:
    with pytest.raises(CalledProcessError) as caught:
        await worker.run_process("echo out; echo err >&2; exit 9")
    error = caught.value
    assert (error.returncode, error.output, error.stderr) == (9, b"out\n", b"err\n")
    assert error.cmd == "echo out; echo err >&2; exit 9"


async def test_input_that_nobody_reads(worker: Worker) -> None:
    assert (await worker.run_process("echo done", input=b"a" * 1_000_000)).stdout == b"done\n"


@on_one_loop
async def test_input_and_outputs_can_be_files(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the file\n")
    with open(tmp_path / "in") as stdin, open(tmp_path / "out", "wb") as stdout, open(tmp_path / "err", "wb") as stderr:
        result = await worker.run_process("cat; echo error >&2", stdin=stdin, stdout=stdout, stderr=stderr.fileno())
    assert result.stdout is result.stderr is None
    assert (tmp_path / "out").read_text() == "from the file\n"
    assert (tmp_path / "err").read_text() == "error\n"


@on_one_loop
async def test_outputs_can_share_a_file(worker: Worker, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as stdout:
        await worker.run_process("echo one; echo two >&2; echo three", stdout=stdout, stderr=STDOUT)
    assert (tmp_path / "out").read_text() == "one\ntwo\nthree\n"


@on_one_loop
async def test_none_means_the_apps_own_streams(tmp_path: Path) -> None:
    program = """
        import anyio
        from aions import Namespace, open_worker
        async def main():
            async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
                result = await worker.run_process("cat; echo error >&2", stdout=None, stderr=None)
                assert (result.stdout, result.stderr) == (None, None)
        anyio.run(main)
        """
    assert run_script(tmp_path, program, under=["sh", "-c", 'echo typed | "$@" 2>&1', "sh"]) == ["typed", "error"]


@on_one_loop
async def test_the_environment_is_the_apps_of_that_moment(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("AIONS_TEST_CHANGING", value)
        assert (await worker.run_process("echo $AIONS_TEST_CHANGING")).stdout.decode().strip() == value


@on_one_loop
async def test_the_directory_is_looked_up_where_the_worker_is(tmp_path: Path) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.run_sync(called.mount_tmpfs, str(tmp_path))
        await worker.run_sync(os.mkdir, str(tmp_path / "inside"))
        assert (await worker.run_process(["pwd"], cwd=tmp_path / "inside")).stdout.decode().strip() == f"{tmp_path}/inside"
        assert not (tmp_path / "inside").exists()


async def test_commands_run_side_by_side(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    """Each of ten waits for the end of its input, which only comes once all of them run."""
    reader, writer = pipe
    statuses: list[int] = []

    async def run(number: int) -> None:
        command = ["bash", "-c", f"echo runs >&{writer.fileno()}; cat; exit {number}"]
        done = await worker.run_process(command, stdin=go_on.fileno(), pass_fds=[writer.fileno()], check=False)
        statuses.append(done.returncode)

    go_on, starter = socket.socketpair()
    with go_on, anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(run, number)
            started = b""
            while started.count(b"\n") < 10:
                await anyio.wait_readable(reader)
                started += reader.read(100)
            starter.close()
    assert sorted(statuses) == list(range(10))


@on_one_loop
async def test_a_command_has_its_streams_and_what_was_passed(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    inheritable, writer = pipe
    os.set_inheritable(inheritable.fileno(), True)
    number = os.dup2(writer.fileno(), 77)
    try:
        listed = await worker.run_process(["ls", "/proc/self/fd"], pass_fds=[number])
    finally:
        os.close(number)
    assert sorted(map(int, listed.stdout.split())) == [0, 1, 2, 3, 77]  # 3 is the directory that ls reads


@on_one_loop
@pytest.mark.parametrize("user", [None, 0])
async def test_what_a_function_has_left_open_is_not_inherited(user: int | None) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        number = await worker.run_sync(os.open, "/dev/null", os.O_RDONLY)
        await worker.run_sync(os.set_inheritable, number, True)
        listed = await worker.run_process(["ls", "/proc/self/fd"], user=user)
        assert sorted(map(int, listed.stdout.split())) == [0, 1, 2, 3]  # 3 is the directory that ls reads


@on_one_loop
async def test_passed_descriptors_keep_their_numbers(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    number = writer.fileno()
    await worker.run_process(["bash", "-c", f"echo through {number} >&{number}"], pass_fds=(number,))
    assert reader.read(100) == f"through {number}\n".encode()


@on_one_loop
async def test_passing_a_descriptor_leaves_it_as_it_was(worker: Worker, pipe: tuple[FileIO, FileIO]) -> None:
    numbers = [end.fileno() for end in pipe]
    await worker.run_process(["true"], pass_fds=numbers)
    assert not any(map(os.get_inheritable, numbers))


COLLIDING = """
    import os
    import anyio
    from aions import open_worker

    placeholders = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]

    async def main():
        async with open_worker() as worker:
            await worker.run_process(["true"])
            for number in placeholders:  # the app's numbers are above these, the worker's are among them
                os.close(number)
            read, write = os.pipe()
            os.set_blocking(read, False)
            numbers = [number for number in placeholders if number not in (read, write)]
            for number in numbers:
                os.dup2(write, number)
            try:
                {act}
            except FileNotFoundError:
                print("no such command")
            try:
                print("passed:", os.read(read, 1000).decode().split())
            except BlockingIOError:
                print("passed nothing")
            if await worker.run_sync(os.getpid) == worker.pid:
                print("the worker works")
            process = await worker.open_process(["sh", "-c", "exit 3"])
            with anyio.fail_after(10):
                async with process:
                    print("status", await process.wait())

    anyio.run(main)
    """


@on_one_loop
async def test_passed_descriptors_may_have_the_numbers_of_the_workers_own(tmp_path: Path) -> None:
    script = "for number; do echo $number >&$number; done"
    act = f"""await worker.run_process(["bash", "-c", "{script}", "-", *map(str, numbers)], pass_fds=numbers)"""
    passed, *rest = run_script(tmp_path, COLLIDING.replace("{act}", act))
    assert passed.count("'") == 2 * 18
    assert rest == ["the worker works", "status 3"]


@on_one_loop
async def test_no_signal_of_the_worker_gets_into_a_passed_pipe(tmp_path: Path) -> None:
    """A command that cannot be started ends, with a SIGCHLD, while its descriptors have the numbers of the worker's own."""
    act = """await worker.run_process(["/no/such/command"], pass_fds=numbers)"""
    expected = ["no such command", "passed nothing", "the worker works", "status 3"]
    assert run_script(tmp_path, COLLIDING.replace("{act}", act)) == expected


HOWS: dict[str, Callable[[Worker], Awaitable[object]]] = {
    "close_range": lambda worker: worker.get_namespace_id(None, "net"),
    "an older C library": lambda worker: worker.run_sync(called.be_where_the_c_library_cannot_close_ranges),
    "close_range is refused": lambda worker: worker.run_sync(seccomp.deny, "close_range"),
}
"""How a command's descriptors are closed."""

_OTHERS = ("socket:", "pipe:", "anon_inode:", "/memfd:")
"""What a worker has open. A command's own loader opens files."""


async def others_at_once(worker: Worker, **options: Any) -> set[str]:
    """Start a command, look at once what it has open besides what it is given, and end it."""
    process = await worker.open_process(["sleep", "600"], stdout=None, stderr=None, stdin=DEVNULL, **options)
    found = set()
    wanted = {"0", "1", "2", *map(str, options.get("pass_fds", ()))}
    assert wanted <= set(os.listdir(f"/proc/{process.pid}/fd"))
    for number in set(os.listdir(f"/proc/{process.pid}/fd")) - wanted:
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{process.pid}/fd/{number}"))
    process.kill()
    await process.aclose()
    return {each for each in found if each.startswith(_OTHERS) or each == "/proc"}


@pytest.fixture
def high_descriptor() -> Iterator[int]:
    """A descriptor of this process with a number that is higher than those of a worker."""
    with open("/dev/null") as null:
        descriptor = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 60)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
async def test_a_command_never_has_the_workers_descriptors(
    how: Callable[[Worker], Awaitable[object]], high_descriptor: int
) -> None:
    """Not even for the moment in which posix_spawn(3) has returned and execve(2) is not through."""
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await worker.run_sync(called.leave_inheritable_descriptors)
        await how(worker)
        await worker.mount("tmpfs", "/proc", "tmpfs")  # the C library must not need one
        for _ in range(20):
            assert await others_at_once(worker) == set()
            assert await others_at_once(worker, pass_fds=(high_descriptor,)) == set()
            assert await others_at_once(worker, no_new_privs=True) == set()


@pytest.mark.parametrize("number", [60, 63])
@on_one_loop
async def test_a_command_may_have_the_highest_descriptor_that_there_can_be(number: int) -> None:
    with open("/dev/null") as null:
        os.dup2(null.fileno(), number, inheritable=False)
        try:
            async with open_worker(rlimits={resource.RLIMIT_NOFILE: 64}) as worker:
                assert await others_at_once(worker, pass_fds=(number,)) == set()
        finally:
            os.close(number)


@on_one_loop
async def test_a_descriptor_may_be_passed_twice(tmp_path: Path) -> None:
    act = """await worker.run_process(["true"], pass_fds=numbers + numbers)"""
    assert run_script(tmp_path, COLLIDING.replace("{act}", act)) == ["passed nothing", "the worker works", "status 3"]


@on_one_loop
async def test_the_standard_streams_may_be_passed(worker: Worker) -> None:
    assert (await worker.run_process("echo out; echo err >&2", pass_fds=[0, 1, 2])).stdout == b"out\n"


IGNORED = """
    import ctypes
    import os
    import signal
    import anyio
    from aions import Namespace, open_worker
    from aions._sys import libc

    ignore = ctypes.create_string_buffer(b"\\1", 64)
    for number in (32, 33):  # the C library's own
        libc._syscall(libc._SYS_RT_SIGACTION, number, ctypes.addressof(ignore), 0, 8)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGRTMIN + 3):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGCHLD, signal.SIGALRM])

    async def main():
        for unshare in ((), Namespace.USER | Namespace.PID):
            async with open_worker(unshare=unshare) as worker:
                await worker.run_sync(signal.signal, signal.SIGUSR1, signal.SIG_IGN)
                await worker.run_sync(signal.pthread_sigmask, signal.SIG_BLOCK, [signal.SIGUSR2])
                for user in (None, 0 if unshare else os.geteuid()):
                    result = await worker.run_process(["sed", "-n", "/^Sig[BIC]/p", "/proc/self/status"], user=user)
                    print(*result.stdout.decode().split())
                status = (await worker.run_process("kill -TERM $$; echo survived", check=False)).returncode
                print(status)

    anyio.run(main)
    """


@on_one_loop
async def test_commands_have_default_signals_whatever_the_app_ignores_and_blocks(tmp_path: Path) -> None:
    nothing = " ".join(f"Sig{what}: {0:016}" for what in ("Blk", "Ign", "Cgt"))
    assert run_script(tmp_path, IGNORED) == [nothing, nothing, "-15"] * 2


@on_one_loop
async def test_a_command_is_in_the_apps_process_group_and_session(at_home: Worker) -> None:
    async with await at_home.open_process(["cat"]) as process:
        assert os.getpgid(process.pid) == os.getpgrp()
        assert os.getsid(process.pid) == os.getsid(0)


@on_one_loop
async def test_a_command_can_have_a_session_of_its_own(worker: Worker) -> None:
    for by_fork in (False, True):
        async with await worker.open_process(["cat"], start_new_session=True, no_new_privs=by_fork) as process:
            assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid


@on_one_loop
async def test_a_command_in_a_new_pid_namespace_is_in_the_apps_process_group_and_session_too() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as first, first.fork() as fork, open_worker() as outside:
        await outside.unshare(Namespace.USER | Namespace.PID)
        for worker, user in ((first, None), (first, 0), (fork, None), (fork, 0), (outside, None)):
            async with await worker.open_process(["cat"], user=user) as process:
                assert os.getpgid(process.pid) == os.getpgrp()
                assert os.getsid(process.pid) == os.getsid(0)
        assert os.getpgid(outside.pid) != os.getpgrp()


@on_one_loop
async def test_a_command_that_cannot_be_run_does_not_use_up_a_pid_namespace(tmp_path: Path) -> None:
    """The first process of a pid namespace is the one that it ends with."""
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "no-program").touch()
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(Namespace.PID)
        for command, directory in (
            ("no-such-program", None),
            ("./no-such-program", tmp_path),
            ("./no-program", tmp_path),
            ("true", tmp_path / "no-such-directory"),
            ("true", tmp_path / "no-program"),
        ):
            with pytest.raises(OSError, match=r"No such file|Permission denied|Not a directory"):
                await worker.run_process([command], cwd=directory)
        path = f"{tmp_path}/closed:{tmp_path}/no-program:{os.environ['PATH']}"
        assert (await worker.run_process(["sh", "-c", "echo $$"], env={"PATH": path})).stdout == b"1\n"


@on_one_loop
@pytest.mark.parametrize("user", [None, os.geteuid()])
async def test_directories_that_cannot_be_searched_are_passed_over(at_home: Worker, user: int | None) -> None:
    path = f"/{'a' * 300}:{os.environ['PATH']}"
    assert (await at_home.run_process(["true"], env={"PATH": path}, user=user)).returncode == 0
    with pytest.raises(OSError, match="File name too long"):
        await at_home.run_process(["no-such-program"], env={"PATH": path}, user=user)


@on_one_loop
async def test_a_command_in_entered_namespaces_has_a_session_of_its_own() -> None:
    with target(Namespace.USER | Namespace.PID) as pid:
        async with open_worker() as worker:
            await worker.enter_namespace(pid, Namespace.USER | Namespace.PID)
            for by_fork in (False, True):
                async with await worker.open_process(["cat"], stdout=None, no_new_privs=by_fork) as process:
                    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
            async with worker.fork() as fork, await fork.open_process(["cat"]) as other:
                assert os.getsid(other.pid) == other.pid


@on_one_loop
async def test_there_a_terminal_may_be_handed_over_on_purpose() -> None:
    keyboard, terminal = os.openpty()
    try:
        with target_as_root(Namespace.UTS) as pid:
            async with open_worker() as worker:
                await worker.enter_namespace(pid, Namespace.USER | Namespace.UTS)
                for options in (
                    {"stdin": terminal},
                    {"stdout": os.fdopen(terminal, "wb", closefd=False)},
                    {"stderr": terminal},
                ):
                    async with await worker.open_process(["sleep", "1000"], **options) as process:
                        assert os.getsid(process.pid) == os.getsid(0)
                        process.kill()
    finally:
        os.close(keyboard)
        os.close(terminal)


@pytest.mark.parametrize("namespaces", [Namespace.PID, Namespace.TIME, Namespace.PID | Namespace.NETWORK], ids=str)
@on_one_loop
async def test_commands_run_after_unshare_made_a_namespace_for_them(namespaces: Namespace) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        await worker.unshare(namespaces)
        assert (await worker.run_process("echo $PPID")).stdout == (
            b"0\n" if Namespace.PID in namespaces else b"%d\n" % worker.pid
        )


@pytest.mark.root
@on_one_loop
async def test_a_command_can_run_as_another_user(at_home: Worker) -> None:
    command = "id -u; id -g; id -G"
    by_number = await at_home.run_process(command, user=65534, group=12345, extra_groups=[7, 8])
    assert by_number.stdout.split() == [b"65534", b"12345", b"12345", b"7", b"8"]
    user, group = pwd.getpwall()[1], grp.getgrall()[2]
    by_name = await at_home.run_process(command, user=user.pw_name, group=group.gr_name, extra_groups=[group.gr_name])
    assert by_name.stdout.split() == [str(number).encode() for number in (user.pw_uid, group.gr_gid, group.gr_gid)]
    assert (await at_home.run_process(["id", "-u"])).stdout == b"0\n"


@pytest.mark.plain_user
@on_one_loop
async def test_a_plain_user_cannot_run_a_command_as_another(at_home: Worker) -> None:
    with pytest.raises(PermissionError):
        await at_home.run_process(["true"], user=0)
    assert (await at_home.run_process(["true"])).returncode == 0


@on_one_loop
async def test_unknown_names_of_users_are_refused_here(at_home: Worker) -> None:
    for names in ({"user": "no-such-user"}, {"group": "no-such-group"}, {"extra_groups": ["no-such-group"]}):
        with pytest.raises(KeyError, match="no-such"):
            await at_home.run_process(["true"], **names)


OURS = ["capabilities", "keep_capabilities", "no_new_privs"]
"""What a command can be given that anyio has no name for; after what it has."""


def test_the_parameters_are_anyios() -> None:
    for name in ("run_process", "open_process"):
        theirs = inspect.signature(getattr(anyio, name)).parameters
        ours = inspect.signature(getattr(Worker, name)).parameters
        assert list(ours)[1:] == [*theirs, *OURS]
        assert {each: ours[each].default for each in theirs} == {each: theirs[each].default for each in theirs}
