"""Whatever the kernel refuses, the caller gets an error with its errno, and the worker goes on or is clearly closed.

The refusals are made by strace(1), in the worker, in the forkserver, or in all processes of a program; and by full tables.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest

from aions import Namespace, NamespaceFile, Worker, WorkerDied, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import Program, children, parent, wait_until
from tests.kernel.targets import let_look_into

strace = pytest.mark.needs("strace")

one_event_loop = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"], indirect=True)
"""Where it is the worker that meets with refusals, the app's event loop makes no difference."""


@asynccontextmanager
async def refusing(pid: int, calls: str, fault: str) -> AsyncIterator[None]:
    """Make system calls of a process fail, for the length of a block."""
    command = ["strace", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    async with await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as tracer:
        assert tracer.stderr is not None
        said = b""
        while b"attached" not in said:
            said += await tracer.stderr.receive()
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                tracer.send_signal(signal.SIGINT)


async def settled_descriptors(worker: Worker) -> int:
    """Count the descriptors of a worker once it has collected its children."""
    wait_until(lambda: not children(worker.pid), 1)
    assert children(worker.pid) == []
    await worker.get_namespace_id(None, "net")
    return len(os.listdir(f"/proc/{worker.pid}/fd"))


async def fork(worker: Worker) -> None:
    async with worker.fork() as fork:
        await fork.get_namespace_id(None, "net")


async def make_socket(worker: Worker) -> None:
    (await worker.socket()).close()


CALLS: dict[str, Callable[[Worker], Awaitable[object]]] = {
    "unshare": lambda worker: worker.unshare(Namespace.USER),
    "enter": lambda worker: worker.enter_namespace(os.getpid(), Namespace.UTS),
    "fork": fork,
    "command": lambda worker: worker.run_process(["true"]),
    "forked command": lambda worker: worker.run_process(["true"], user=os.geteuid()),
    "long command": lambda worker: worker.run_process(["sleep", "1000"]),
    "socket": make_socket,
    "identify": lambda worker: worker.get_namespace_id(None, "net"),
    "function": lambda worker: worker.run_sync(divmod, 7, 3),
    "long function": lambda worker: worker.run_sync(bytes, bytes(100_000)),
}

REFUSALS = [
    ("unshare", "unshare", "EPERM"),
    ("unshare", "unshare", "ENOSPC"),
    ("unshare", "unshare", "ENOMEM"),
    ("unshare", "prctl", "EPERM"),
    ("unshare", "sendmsg", "ENOBUFS"),
    ("enter", "setns", "EPERM"),
    ("enter", "setns", "ENOMEM"),
    ("fork", "clone,clone3,fork,vfork", "EAGAIN"),
    ("fork", "clone,clone3,fork,vfork", "ENOMEM"),
    ("fork", "pidfd_open", "EMFILE"),
    ("fork", "pidfd_open", "ENOMEM"),
    ("fork", "fcntl", "EMFILE"),
    ("fork", "sendmsg", "ENOMEM"),
    ("command", "clone,clone3,fork,vfork", "EAGAIN"),
    ("forked command", "pipe2", "EMFILE"),
    ("forked command", "clone,clone3,fork,vfork", "ENOMEM"),
    ("command", "clone,clone3,fork,vfork", "ENOMEM"),
    ("long command", "pidfd_open", "EMFILE"),
    ("long command", "sendmsg", "ENOBUFS"),
    ("long command", "fcntl", "EMFILE"),
    ("socket", "socket", "EMFILE"),
    ("socket", "socket", "ENFILE"),
    ("socket", "socket", "ENOBUFS"),
    ("socket", "sendmsg", "ENOMEM"),
    ("identify", "openat", "EMFILE"),
    ("identify", "openat", "ENOMEM"),
    ("long function", "memfd_create", "ENFILE"),
]


@strace
@one_event_loop
@pytest.mark.parametrize(("call", "refused", "name"), REFUSALS)
async def test_what_the_kernel_refuses_the_worker_is_an_error_with_its_errno(call: str, refused: str, name: str) -> None:
    async with open_worker() as worker:
        await CALLS["command"](worker)
        await let_look_into(worker)
        before = await settled_descriptors(worker)
        async with refusing(worker.pid, refused, f"error={name}:when=1"):
            with pytest.raises(OSError, match=r"\[Errno") as caught:
                await CALLS[call](worker)
        assert errno.errorcode[caught.value.errno or 0] == name
        assert caught.value.__notes__
        for usable in ("fork", "command", "socket", "function"):
            await CALLS[usable](worker)
        assert await settled_descriptors(worker) == before


@strace
@one_event_loop
async def test_an_interrupted_call_is_made_again() -> None:
    async with open_worker() as worker:
        await let_look_into(worker)
        calls = "recvmsg,sendmsg,poll"
        async with refusing(worker.pid, calls, "error=EINTR:when=1+2"):
            for call in ("identify", "fork", "command", "socket", "function"):
                await CALLS[call](worker)


@strace
@one_event_loop
async def test_a_reply_for_which_there_is_no_room_is_sent_later() -> None:
    async with open_worker() as worker:
        await let_look_into(worker)
        async with refusing(worker.pid, "sendmsg", "error=EAGAIN:when=1+2"):
            for call in ("identify", "fork", "command", "socket", "function"):
                await CALLS[call](worker)


@strace
@one_event_loop
async def test_a_kernel_without_namespace_ids_is_no_error() -> None:
    """NS_GET_ID came with Linux 6.18."""
    async with open_worker() as worker:
        await let_look_into(worker)
        async with refusing(worker.pid, "ioctl", "error=ENOTTY"):
            found = await worker.get_namespace_id(None, "net")
        assert found.id is None
        assert str(found) == os.readlink("/proc/self/ns/net")


@strace
@one_event_loop
async def test_a_worker_that_cannot_receive_is_closed() -> None:
    async with open_worker() as worker, open_worker() as other:
        await let_look_into(worker)
        async with refusing(worker.pid, "recvmsg", "error=ENOMEM:when=1"):
            with pytest.raises(WorkerDied):
                await worker.get_namespace_id(None, "net")
        assert await other.get_namespace_id(None, "net")


@strace
@pytest.mark.root
@one_event_loop
@pytest.mark.parametrize(
    ("refused", "name"),
    [
        ("clone,clone3,fork,vfork", "EAGAIN"),
        ("clone,clone3,fork,vfork", "ENOMEM"),
        ("pidfd_open", "EMFILE"),
        ("fcntl", "EMFILE"),
    ],
)
async def test_what_the_kernel_refuses_the_forkserver_is_an_error_with_its_errno(refused: str, name: str) -> None:
    async with open_worker() as worker:
        forkserver = parent(worker.pid)
        async with refusing(forkserver, refused, f"error={name}:when=1"):
            with pytest.raises(OSError, match=r"\[Errno") as caught:
                async with open_worker():
                    pass
        assert errno.errorcode[caught.value.errno or 0] == name
        async with open_worker() as worker:
            assert parent(worker.pid) == forkserver
        wait_until(lambda: len(children(forkserver)) == 2, 1)
        assert len(children(forkserver)) == 2  # the worker, and one in reserve


FAULTS = [
    # calls, errno, of which process's calls the first to fail
    ("socketpair", "EMFILE", 2),  # the first is asyncio's own
    ("pidfd_open", "EMFILE", 2),
    ("pipe2", "EMFILE", 2),
    ("clone,clone3,vfork,fork", "EAGAIN", 1),
    ("sendmsg", "ENOBUFS", 1),
    ("sendmsg", "EINTR", 1),
    ("recvmsg", "EINTR", 1),
    ("recvmsg", "ENOMEM", 2),
    ("unshare", "ENOSPC", 1),
    ("setns", "EPERM", 1),
    ("prctl", "EPERM", 3),
    ("socket", "ENFILE", 1),
    ("memfd_create", "EMFILE", 1),
]


@strace
@pytest.mark.parametrize(("calls", "name", "first"), FAULTS)
def test_whatever_fails_anywhere_is_an_error_and_leaves_nothing(calls: str, name: str, first: int) -> None:
    """In the app, the forkserver and every worker: the Nth such call of each of them fails."""
    for which in range(first, first + times("faults")):
        inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={name}:when={which}"]
        under = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", *inject]
        assert any(everything_was_tried(under, name) for _ in range(3))


def everything_was_tried(under: Sequence[str], name: str) -> bool:
    """Check what becomes of each attempt; return False where strace gave up, as it may when what it traces is killed."""
    with Program("asyncio", "faults", "tries_everything", under=under) as app:
        try:
            assert set(app.report().values()) <= {"ok", name, "WorkerDied"}
            assert app.report() == {"more_descriptors": 0}
            assert app.end() == 0
            assert app.left_after(1) == []
            assert "Warning" not in app.stderr()
        except AssertionError:
            if "strace: ptrace(" not in app.stderr():
                raise
            return False
    return True


@contextmanager
def full_table(spare: int) -> Iterator[None]:
    """Leave room for so many descriptors in this process, and no more."""
    with ExitStack() as stack:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        while (filler := os.dup(0)) < highest:
            stack.callback(os.close, filler)
        stack.callback(os.close, filler)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (filler + 1 + spare, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        yield


async def errno_of(call: Callable[[], Awaitable[object]]) -> str | None:
    try:
        await call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


async def errnos_as_room_shrinks(call: Callable[[], Awaitable[object]]) -> set[str | None]:
    found = set()
    for spare in range(20, -1, -1):
        with full_table(spare):
            found.add(await errno_of(call))
    return found


async def open_and_close() -> None:
    async with open_worker(unshare=[Namespace.USER, Namespace.PID]):
        pass


async def test_an_app_without_room_for_descriptors_gets_an_error_and_goes_on() -> None:
    async with open_worker() as worker:
        for call in ("fork", "command", "socket", "long function"):
            assert await errnos_as_room_shrinks(partial(CALLS[call], worker)) == {None, "EMFILE"}
            await CALLS[call](worker)
        assert await errnos_as_room_shrinks(open_and_close) == {None, "EMFILE"}
        await open_and_close()
        with full_table(0):
            assert await worker.get_namespace_id(None, "net")


async def test_the_first_use_without_room_for_descriptors_is_an_error_and_the_next_works() -> None:
    assert await errnos_as_room_shrinks(open_and_close) == {None, "EMFILE"}
    with full_table(0):
        assert await errno_of(open_and_close) == "EMFILE"
    await open_and_close()


@contextmanager
def limited(pid: int, spare: int) -> Iterator[None]:
    """Leave room for so many descriptors in another process."""
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    limit = next(itertools.islice((number for number in itertools.count() if number not in used), spare, None))
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@one_event_loop
async def test_a_worker_without_room_for_descriptors_says_so_and_goes_on() -> None:
    async with open_worker() as worker:
        await CALLS["command"](worker)
        await let_look_into(worker)
        before = await settled_descriptors(worker)
        for call in ("fork", "command", "socket", "identify", "long function"):
            errnos = set()
            for spare in range(12):
                with limited(worker.pid, spare):
                    errnos.add(await errno_of(partial(CALLS[call], worker)))
                assert await settled_descriptors(worker) == before
            assert errnos == {None, "EMFILE"}


@one_event_loop
async def test_a_worker_without_room_to_import_says_so_and_goes_on() -> None:
    """The first worker is forked before its forkserver has imported what functions need."""
    async with open_worker() as worker:
        await CALLS["identify"](worker)  # it has closed what it had of the forkserver's then
        with limited(worker.pid, 0):
            assert await errno_of(partial(CALLS["function"], worker)) == "EMFILE"
        await CALLS["function"](worker)


@asynccontextmanager
async def inside() -> AsyncIterator[tuple[Worker, NamespaceFile]]:
    """A worker in a network of its own, and another network; in both somebody listens."""
    async with (
        open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True) as worker,
        await worker.new_namespace("net", loopback=True) as file,
        await worker.create_tcp_listener(local_port=80),
        await worker.create_tcp_listener(local_port=80, namespace=file),
        await worker.create_unix_listener("\0listener"),
    ):
        yield worker, file


OPENINGS: dict[str, Callable[[Worker, NamespaceFile], Awaitable[Any]]] = {
    "socket elsewhere": lambda worker, file: worker.socket(namespace=file),
    "sockets": lambda worker, file: worker.sockets([file] * 3),
    "TCP stream": lambda worker, file: worker.connect_tcp("127.0.0.1", 80),
    "TCP stream elsewhere": lambda worker, file: worker.connect_tcp("127.0.0.1", 80, namespace=file),
    "TCP listener": lambda worker, file: worker.create_tcp_listener(),
    "UDP socket": lambda worker, file: worker.create_udp_socket(socket.AF_INET),
    "connected UDP socket": lambda worker, file: worker.create_connected_udp_socket("127.0.0.1", 9),
    "unix stream": lambda worker, file: worker.connect_unix("\0listener"),
    "unix listener": lambda worker, file: worker.create_unix_listener("\0other"),
    "unix datagram socket": lambda worker, file: worker.create_unix_datagram_socket(),
    "look-up": lambda worker, file: worker.getaddrinfo("localhost", 80),
    "look-up elsewhere": lambda worker, file: worker.getaddrinfo("localhost", 80, namespace=file),
    "file": lambda worker, file: worker.open_file("/etc/hosts"),
    "new network": lambda worker, file: worker.new_namespace("net", loopback=True),
    "own namespace": lambda worker, file: worker.open_namespace("net"),
}


async def open_and_let_go(opening: Awaitable[Any]) -> None:
    """Close what is opened, and raise the cause where all attempts to connect have failed."""
    try:
        opened = await opening
    except OSError as error:
        raise (error.__cause__ if error.errno is None and error.__cause__ is not None else error) from None
    for each in opened if isinstance(opened, list) else [opened]:
        if isinstance(each, socket.socket):
            each.close()
        elif not isinstance(each, tuple):
            await each.aclose()


@one_event_loop
@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
async def test_what_finds_no_room_is_an_error_and_stays_nowhere(
    opening: Callable[[Worker, NamespaceFile], Awaitable[Any]],
) -> None:
    """In the app, and in the worker, which goes nowhere either."""
    async with inside() as (worker, file):
        await let_look_into(worker)
        where = await worker.get_namespace_id(None, "net")

        async def attempt() -> None:
            await open_and_let_go(opening(worker, file))

        await attempt()
        assert await errnos_as_room_shrinks(attempt) == {None, "EMFILE"}
        before = await settled_descriptors(worker)
        errnos = set()
        for spare in range(12):
            with limited(worker.pid, spare):
                errnos.add(await errno_of(attempt))
            assert await settled_descriptors(worker) == before
        assert errnos == {None, "EMFILE"}
        assert await worker.get_namespace_id(None, "net") == where


@one_event_loop
async def test_a_forkserver_without_room_for_descriptors_says_so_and_goes_on() -> None:
    async with open_worker() as worker:
        forkserver = parent(worker.pid)
        errnos = set()
        for spare in range(2, 8):
            async with open_worker():
                pass  # it may have been forked under the limit below, and have inherited it
            wait_until(lambda: len(children(forkserver)) == 2, 1)  # the worker, and one in reserve
            assert await worker.get_namespace_id(os.getpid(), "net")
            with limited(forkserver, spare), anyio.fail_after(5):
                async with open_worker():  # from the reserve
                    errnos.add(await errno_of(open_and_close))
        assert errnos == {None, "EMFILE"}
        async with open_worker() as worker:
            assert parent(worker.pid) == forkserver
