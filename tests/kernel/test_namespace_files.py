"""Namespaces as descriptors, and whatever stands for one."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
import sniffio
import trio
from anyio.abc import AsyncResource, SocketAttribute

import aions
from aions import FileDescriptor, Namespace, NamespaceFile, Worker, new_namespace, open_namespace, open_worker
from aions._app import targets
from tests.kernel import called
from tests.kernel.explained import works
from tests.kernel.programs.running import parent
from tests.kernel.targets import EVERY_KIND, KINDS, has_processes, name_of, name_of_worker, on_one_loop, target_as_root, until
from tests.kernel.test_sockets import cookie, network

PINNABLE = [kind for kind in KINDS if kind is not Namespace.PID]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker that may make network namespaces, enter them, and come back."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True) as worker:
        yield worker


@pytest.mark.parametrize("kind", PINNABLE, ids=lambda kind: kind.kernel_name)
@on_one_loop
async def test_a_namespace_lives_as_long_as_its_file(kind: Namespace) -> None:
    async with open_worker(unshare=Namespace.USER) as worker:
        before = await worker.get_namespace_id(None, kind)
        async with await new_namespace(kind) as file:
            assert file.type is kind
            assert file.id != before == await worker.get_namespace_id(None, kind)
            assert file.id.type is kind
            name = str(file.id)
            assert name == os.readlink(f"/proc/self/fd/{file.fileno()}")
            assert repr(file) == f"<aions.NamespaceFile {name}>"
            await until(lambda: not has_processes(name))
            assert not os.get_inheritable(file.fileno())
            async with worker.fork() as other:
                await other.enter(file)
                assert await name_of_worker(other, kind) == name
        assert file.fileno() == -1
        assert repr(file) == f"<aions.NamespaceFile {kind.kernel_name} closed>"


@on_one_loop
async def test_the_user_is_root_in_a_new_user_namespace() -> None:
    async with await new_namespace(Namespace.USER) as file, open_worker(enter=file) as worker:
        assert (await worker.run_process(["id", "-u"])).stdout == b"0\n"


@on_one_loop
async def test_no_pid_namespace_lives_without_a_process(worker: Worker) -> None:
    with pytest.raises(ValueError, match="ends with its first process"):
        await worker.new_namespace(Namespace.PID)
    with pytest.raises(ValueError, match="is not one namespace"):
        await worker.new_namespace(Namespace.UTS | Namespace.NETWORK)
    with pytest.raises(ValueError, match="only a network namespace has a loopback"):
        await worker.new_namespace("uts", loopback=True)


@pytest.mark.plain_user
@on_one_loop
async def test_a_refused_namespace_says_where_it_can_be_made() -> None:
    async with open_worker() as worker:
        with pytest.raises(PermissionError) as caught:
            await worker.new_namespace("uts")
    assert caught.value.__notes__[-1] == 'That is: open_worker(unshare=["user", "uts"]), and its new_namespace.'


@pytest.mark.parametrize("loopback", [True, False])
async def test_a_new_network_namespace(worker: Worker, loopback: bool) -> None:
    file = await worker.new_namespace("net", loopback=loopback)
    async with file, await worker.create_tcp_listener(local_host="127.0.0.1", namespace=file) as listener:
        address = listener.listeners[0].extra(SocketAttribute.local_address)
        if loopback:
            await (await worker.connect_tcp(*address, namespace=file)).aclose()
        else:
            with pytest.raises(OSError, match="All connection attempts failed"):
                await worker.connect_tcp(*address, namespace=file)
        with pytest.raises(OSError, match="All connection attempts failed"):
            await worker.connect_tcp(*address)


@on_one_loop
async def test_network_namespaces_from_where_there_is_no_way_back() -> None:
    """A plain user's worker may leave the host's network, and not come back; root's may, and this is the same for both."""
    async with open_worker(unshare=Namespace.USER) as worker:
        before = await name_of_worker(worker, Namespace.NETWORK)
        async with await worker.new_namespace("net", loopback=True) as file:
            assert await name_of_worker(worker, Namespace.NETWORK) == before
            with pytest.raises(PermissionError) as caught:
                await worker.socket(namespace=file)
            assert any("setns" in note for note in caught.value.__notes__)
            assert any("network namespace of its own" in note for note in caught.value.__notes__)
            assert await name_of_worker(worker, Namespace.NETWORK) == before
            assert await works(worker)


@on_one_loop
async def test_a_worker_opens_its_own_namespaces(worker: Worker) -> None:
    for kind in KINDS:
        async with await worker.open_namespace(kind) as file:
            assert file.id == await worker.get_namespace_id(None, kind)
    async with await open_namespace(worker, "net") as file:
        assert file.id == await worker.get_namespace_id(None, "net")
    with pytest.raises(ValueError, match="no namespaces were named"):
        await open_namespace(worker)


@on_one_loop
async def test_a_namespace_outlives_its_worker() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as first:
        user, net = await first.open_namespace("user"), await first.open_namespace("net")
    async with user, net, open_worker(enter=[user, net]) as second:
        assert await second.get_namespace_id(None, "net") == net.id
        assert (await second.run_process(["id", "-u"])).stdout == b"0\n"


@contextmanager
def named_by_iproute2(pid: int) -> Iterator[str]:
    """Give the network namespace of a process a name, as `ip netns attach` does; that would leave a mount behind, though."""
    directory, made = Path("/run/netns"), not Path("/run/netns").exists()
    directory.mkdir(exist_ok=True)
    path = directory / f"aions-{os.getpid()}"
    path.touch()
    subprocess.run(["mount", "--bind", f"/proc/{pid}/ns/net", path], check=True)
    try:
        yield path.name
    finally:
        subprocess.run(["umount", path], check=True)
        path.unlink()
        if made:
            directory.rmdir()


AS_TARGETS: dict[str, Callable[[int, int, int], object]] = {
    "pid": lambda pid, pidfd, nsfd: pid,
    "pidfd": lambda pid, pidfd, nsfd: FileDescriptor(pidfd),
    "nsfd": lambda pid, pidfd, nsfd: FileDescriptor(nsfd),
    "string": lambda pid, pidfd, nsfd: f"/proc/{pid}/ns/net",
    "path": lambda pid, pidfd, nsfd: Path(f"/proc/{pid}/ns/net"),
}


@pytest.mark.parametrize("form", AS_TARGETS)
@on_one_loop
async def test_forms_of_a_target(form: str) -> None:
    with target_as_root(Namespace.NETWORK) as pid:
        expected = name_of(pid, Namespace.NETWORK)
        pidfd, nsfd = os.pidfd_open(pid), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            target = AS_TARGETS[form](pid, pidfd, nsfd)
            async with await open_namespace(target, "net") as file:  # type: ignore[arg-type]
                assert str(file.id) == expected
            async with open_worker(enter=[(pid, "user"), (target, "net")]) as worker:  # type: ignore[list-item]
                assert await name_of_worker(worker, Namespace.NETWORK) == expected
                os.fstat(pidfd), os.fstat(nsfd)
        finally:
            os.close(pidfd)
            os.close(nsfd)


@on_one_loop
async def test_handles_are_targets(worker: Worker) -> None:
    expected = await worker.get_namespace_id(None, "net")
    async with await worker.open_process(["sleep", "600"]) as process:
        with await worker.socket() as sock:
            for target in (worker, process, sock):
                async with await open_namespace(target, "net") as file:
                    assert file.id == expected
                async with open_worker(enter=[(worker, "user"), (target, "net")]) as other:
                    assert await other.get_namespace_id(None, "net") == expected
        process.kill()
    async with open_worker() as other, await worker.open_namespace("net") as file:
        await other.enter(worker, Namespace.USER | Namespace.NETWORK)
        assert await other.get_namespace_id(None, "net") == expected
        await other.enter(file, Namespace.NETWORK)


@on_one_loop
async def test_a_process_of_the_standard_library_is_a_target() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        async with await open_namespace(process, "uts") as file:
            assert str(file.id) == name_of("self", Namespace.UTS)
        process.kill()


@pytest.mark.root
@on_one_loop
async def test_a_name_of_iproute2_is_a_target() -> None:
    with target_as_root(Namespace.NETWORK) as pid, named_by_iproute2(pid) as name:
        assert name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        async with await open_namespace(name) as file, open_worker(enter=name) as worker:
            assert str(file.id) == name_of(pid, Namespace.NETWORK) == await name_of_worker(worker, Namespace.NETWORK)
            assert file.name == name
            async with await worker.open_namespace("net") as own, await worker.open_namespace("uts") as other:
                assert (own.name, other.name) == (name, None)


@on_one_loop
async def test_a_mistyped_name_is_an_error_and_creates_nothing() -> None:
    async with open_worker() as worker:
        for call in (worker.enter, open_namespace):
            with pytest.raises(FileNotFoundError) as caught:
                await call("bleu")
            assert caught.value.filename == "/run/netns/bleu"
            assert any("no name that `ip netns list` shows" in note for note in caught.value.__notes__)
        for name in ("", ".", ".."):
            with pytest.raises(ValueError, match="is no name of a network namespace"):
                await worker.enter(name)
    assert not Path("/run/netns/bleu").exists()


@on_one_loop
async def test_what_is_no_namespace(worker: Worker, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in ("/dev/null", "/etc/passwd", fifo, tmp_path):
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EINVAL))) as caught:
            await open_namespace(path)
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == str(path)
    with open("/dev/null") as null, pytest.raises(OSError, match=re.escape(os.strerror(errno.EINVAL))):
        await worker.enter(null)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.EBADF))):
        await worker.enter(FileDescriptor(999_999))
    with pytest.raises(TypeError, match="stands for no namespace and for no process"):
        await worker.enter(None)  # type: ignore[arg-type]
    for pid in (0, -1):
        with pytest.raises(ValueError, match="is not the pid of a process"):
            await worker.enter(pid, "net")


@on_one_loop
async def test_the_kind_of_a_target_is_checked(worker: Worker) -> None:
    async with await worker.open_namespace("uts") as file:
        with pytest.raises(ValueError, match="the target is a uts namespace"):
            await worker.enter(file, Namespace.NETWORK)
        with pytest.raises(ValueError, match="is no network namespace"):
            await worker.socket(namespace=file)
    with pytest.raises(ValueError, match="name those that are meant"):
        await worker.enter(worker.pid)


@on_one_loop
async def test_a_process_that_is_gone(worker: Worker) -> None:
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
    gone = process.pid
    try:
        for call in (worker.enter, open_namespace):
            with pytest.raises(ProcessLookupError):
                await call(gone, "net")
            with pytest.raises(ProcessLookupError):
                await call(FileDescriptor(pidfd), "net")
    finally:
        os.close(pidfd)


@on_one_loop
async def test_a_process_whose_pid_another_has_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its namespaces are not taken for those of the process that is meant."""
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
    monkeypatch.setattr(targets, "pid_of", lambda _pidfd: os.getpid())
    try:
        with pytest.raises(ProcessLookupError):
            await open_namespace(FileDescriptor(pidfd), "net")
    finally:
        os.close(pidfd)


class Recycled:
    """A process object that has the pid of another process, as it has when the kernel has given that anew."""

    def __init__(self, process: object, pid: int) -> None:
        self._process = process
        self.pid = pid

    def __getattr__(self, name: str) -> object:
        return getattr(self._process, name)


class OfMultiprocessing:
    exitcode = 0


class OfPsutil:
    """What psutil has instead of a return code: a look at when the process began."""

    def is_running(self) -> bool:
        return False


async def ended_in_every_way() -> AsyncIterator[object]:
    """Yield objects of processes that have ended and were collected."""
    popen = subprocess.Popen(["true"])
    popen.wait()
    yield popen
    yield OfMultiprocessing()
    yield OfPsutil()
    async with await anyio.open_process(["true"], stdout=None, stderr=None) as process:
        await process.wait()
    yield process
    if sniffio.current_async_library() == "asyncio":
        of_asyncio = await asyncio.create_subprocess_exec("true")
        await of_asyncio.wait()
        yield of_asyncio
    else:
        of_trio = await trio.lowlevel.open_process(["true"])
        await of_trio.wait()
        yield of_trio


async def test_a_process_that_was_collected_is_not_taken_for_the_one_that_has_its_pid() -> None:
    with target_as_root(Namespace.NETWORK) as pid:
        async with open_worker() as worker:
            await refuse_all_that_were_collected(worker, pid)
            await worker.enter(pid, Namespace.USER | Namespace.NETWORK)


async def refuse_all_that_were_collected(worker: Worker, pid: int) -> None:
    async for process in ended_in_every_way():
        for call in (worker.enter, open_namespace):
            with pytest.raises(ProcessLookupError) as caught:
                await call(Recycled(process, pid), Namespace.USER | Namespace.NETWORK)
            assert caught.value.__notes__ == [
                f"The process has ended and was collected: {pid} may be the pid of another by now."
            ]


class EndsMeanwhile:
    """A process that has not ended yet when it is first asked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._codes = [None, 0]

    @property
    def returncode(self) -> int | None:
        return self._codes.pop(0)


@on_one_loop
async def test_a_process_that_is_collected_while_its_pidfd_is_opened(worker: Worker) -> None:
    with pytest.raises(ProcessLookupError):
        await worker.enter(EndsMeanwhile(os.getpid()), "uts")


async def test_a_process_that_the_event_loop_has_not_heard_of_yet(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was collected in a thread, so that the pid is no child's any more."""
    process = await anyio.open_process(["sleep", "600"], stdout=None, stderr=None)
    try:
        async with await open_namespace(process, "uts") as file:
            assert str(file.id) == name_of("self", Namespace.UTS)
        with monkeypatch.context() as patch:
            patch.setattr(type(process), "pid", parent(worker.pid))
            with pytest.raises(ProcessLookupError):
                await open_namespace(process, "uts")
    finally:
        process.kill()
        await process.aclose()


@on_one_loop
async def test_a_process_that_nobody_has_collected_yet_is_gone_as_well(worker: Worker) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        for call in (worker.enter, open_namespace):
            with pytest.raises(ProcessLookupError):
                await call(process, "net")


@on_one_loop
async def test_closed_handles(worker: Worker) -> None:
    file = await worker.open_namespace("net")
    await file.aclose()
    await file.aclose()
    async with open_worker() as other:
        pass
    for target in (file, other):
        with pytest.raises(anyio.ClosedResourceError):
            await worker.enter(target, "net")
    with pytest.raises(anyio.ClosedResourceError):
        await worker.socket(namespace=file)
    with pytest.raises(anyio.ClosedResourceError):
        await other.new_namespace("net")


@on_one_loop
async def test_a_file_that_nobody_closes_is_complained_about(worker: Worker) -> None:
    file = await worker.open_namespace("net")
    with pytest.warns(ResourceWarning, match="unclosed <aions.NamespaceFile net:"):
        del file


@on_one_loop
async def test_a_loopback_needs_a_new_network() -> None:
    with pytest.raises(ValueError, match=r"add Namespace\.NETWORK"):
        async with open_worker(unshare=Namespace.USER, loopback=True):
            raise AssertionError


@on_one_loop
async def test_opening_inside_everything_of_another_worker() -> None:
    everything = EVERY_KIND & ~Namespace.TIME
    async with open_worker(unshare=everything, loopback=True) as first, open_worker(enter=(first, everything)) as second:
        for kind in everything:
            assert await name_of_worker(second, kind) == await name_of_worker(first, kind)
        async with await first.create_tcp_listener(local_host="127.0.0.1") as listener:
            await (await second.connect_tcp(*listener.listeners[0].extra(SocketAttribute.local_address))).aclose()


@on_one_loop
async def test_a_refused_entering_leaves_nothing() -> None:
    with pytest.raises(FileNotFoundError):
        async with open_worker(enter="bleu", unshare=Namespace.USER):
            raise AssertionError


CALLS: list[Callable[[Worker, NamespaceFile], Awaitable[AsyncResource]]] = [
    lambda worker, file: worker.create_tcp_listener(namespace=file, local_port=80),
    lambda worker, file: worker.connect_tcp("127.0.0.1", 80, namespace=file),
    lambda worker, file: worker.create_udp_socket(socket.AF_INET, namespace=file),
    lambda worker, file: worker.create_connected_udp_socket("::1", 9, namespace=file),
    lambda worker, file: worker.create_unix_listener("\0name", namespace=file),
    lambda worker, file: worker.connect_unix("\0name", namespace=file),
    lambda worker, file: worker.create_unix_datagram_socket(local_path="\0other", namespace=file),
    lambda worker, file: worker.create_connected_unix_datagram_socket("\0other", namespace=file),
]


async def test_each_call_chooses_its_namespace(worker: Worker) -> None:
    own = await network(worker)
    files = [await worker.new_namespace("net", loopback=True) for _ in range(3)]
    for file in files:
        async with AsyncExitStack() as stack:
            stack.enter_context(sock := await worker.socket(namespace=file))
            assert cookie(sock) == file.id.id != own
            for call in CALLS:
                resource = await stack.enter_async_context(await call(worker, file))
                sock = getattr(resource, "listeners", [resource])[0].extra(SocketAttribute.raw_socket)
                assert cookie(sock) == file.id.id
    assert len({file.id for file in files}) == 3
    for file in files:
        file.close()
    with await worker.socket() as sock:
        assert cookie(sock) == own == await network(worker)


@on_one_loop
async def test_a_call_elsewhere_that_fails_leaves_the_worker_where_it_is(worker: Worker) -> None:
    before = await name_of_worker(worker, Namespace.NETWORK)
    async with await worker.new_namespace("net") as file:
        with pytest.raises(OSError, match="not supported"):
            await worker.socket(99, namespace=file)
        assert await name_of_worker(worker, Namespace.NETWORK) == before


@on_one_loop
async def test_the_functions_act_on_the_current_worker(worker: Worker) -> None:
    async with await aions.new_namespace("net") as file:
        await aions.enter(file)
        assert await aions.get_namespace_id(None, "net") == file.id


@on_one_loop
async def test_a_worker_that_cannot_come_back_ends(worker: Worker) -> None:
    """SECURITY: else it would do there what is meant for its own network."""
    async with await worker.new_namespace("net") as file, worker.fork() as lost:
        await lost.run_sync(called.lose_the_way_back)
        with pytest.raises(aions.WorkerDied):
            await lost.socket(namespace=file)
        with await worker.socket(namespace=file) as sock:
            assert cookie(sock) == file.id.id
