"""The cases: what aions does, what it is measured against, and how much longer it may take."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute

import aions
from aions import Namespace, NamespaceFile, Worker
from aions._wire import codec
from aions._wire.messages import Done, Unshare
from tests.bench import peers

Measure = Callable[[], Awaitable[float]]
"""Measures once, in seconds."""

SETTLING = 0.005
"""Seconds in which what was begun in the background ends: the fork of a worker in reserve, the end of a namespace."""

IN_A_ROW = 5
"""So many workers are opened, or networks made, one after the other: each has to wait for what the one before it left to do."""

NETWORKS = 100
"""So many network namespaces are held, and a socket made in each."""

STREAMED = 4 * 1024 * 1024
"""Bytes that go through a stream."""

FIRST_USE = Path(__file__).with_name("first_use.py")


@dataclass(frozen=True)
class Backend:
    name: str

    @property
    def for_anyio(self) -> str:
        return "asyncio" if self.name == "uvloop" else self.name

    @property
    def options(self) -> dict[str, bool]:
        return {"use_uvloop": True} if self.name == "uvloop" else {}


@dataclass(frozen=True)
class Case:
    """`repeats` is how often both sides are measured, in turn, in each round; `left_out` says why they are not."""

    name: str
    ours: Measure
    peer_name: str
    peer: Measure
    aim: float | None = None
    repeats: int = 3
    left_out: str | None = None


def timed(action: Callable[[], Awaitable[object]]) -> Measure:
    async def measure() -> float:
        start = time.perf_counter()
        await action()
        return time.perf_counter() - start

    return measure


def blocking(measure: Callable[[], float]) -> Measure:
    """Measure what does not need the event loop, which has nothing else to do meanwhile."""

    async def measure_here() -> float:
        return measure()

    return measure_here


def settling(measure: Measure) -> Measure:
    """Keep what goes on in the background out of what is measured next."""

    async def measure_and_settle() -> float:
        seconds = await measure()
        await anyio.sleep(SETTLING)
        return seconds

    return measure_and_settle


async def run_anyio_process(*command: str) -> None:
    await anyio.run_process(command)


async def cycle() -> float:
    start = time.perf_counter()
    for _ in range(IN_A_ROW):
        async with aions.open_worker():
            pass
    return (time.perf_counter() - start) / IN_A_ROW


async def opening() -> float:
    start = time.perf_counter()
    async with aions.open_worker():
        return time.perf_counter() - start


async def run_in_new_namespaces() -> None:
    async with aions.open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        await worker.run_process(["true"])


async def call_in_new_worker() -> float:
    async with aions.open_worker() as worker:
        start = time.perf_counter()
        await worker.run_sync(os.getpid)
        return time.perf_counter() - start


async def close_socket_of(worker: Worker) -> None:
    (await worker.socket()).close()


def first_use(backend: Backend) -> float:
    """Measure inside a fresh program."""
    command = [sys.executable, str(FIRST_USE), backend.for_anyio, *backend.options]
    environment = os.environ | {"PYTHONPATH": str(Path(aions.__file__).parent.parent)}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)


def unavailable(*programs: str) -> str | None:
    missing = [program for program in programs if shutil.which(program) is None]
    return f"there is no {' and no '.join(missing)}" if missing else None


@asynccontextmanager
async def all_cases(backend: Backend) -> AsyncIterator[list[Case]]:
    """Have the cases, with one worker in a network namespace of its own and the peers that need a process."""
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(aions.open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True))
        echo = stack.enter_context(peers.small_python("echo"))
        forker = stack.enter_context(peers.small_python("fork"))
        there = os.open(f"/proc/{worker.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, there)
        back = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, back)
        networks = [await worker.new_namespace("net", loopback=True) for _ in range(NETWORKS)]
        for network in networks:
            stack.callback(network.close)
        yield [
            *light_cases(worker, echo, there, back),
            *opening_cases(forker),
            *running_cases(worker),
            *starting_cases(backend),
            *furnishing_cases(),
            *network_cases(worker, networks, back),
            *stream_cases(await stack.enter_async_context(echoing(worker)), await stack.enter_async_context(echoing(None))),
        ]


def light_cases(worker: Worker, echo: socket.socket, there: int, back: int) -> list[Case]:
    """What a worker answers at once. unshare(0) does nothing: with it, a request is all there is to measure."""
    request, reply = Unshare(0), Done()
    sizes = len(codec.encode(1000, request)), len(codec.encode(1000, reply))

    async def socket_by_thread() -> None:
        (await anyio.to_thread.run_sync(peers.socket_by_setns, there, back)).close()

    return [
        Case(
            "round trip",
            timed(lambda: worker._link.call(request, Done)),
            "bare socketpair",
            blocking(partial(peers.round_trip, echo, *sizes)),
            aim=4,
            repeats=50,
        ),
        Case(
            "worker.socket()",
            timed(partial(close_socket_of, worker)),
            "thread: setns there and back",
            timed(socket_by_thread),
            aim=0.5,
            repeats=20,
            left_out=None if os.geteuid() == 0 else "only root may setns without a user namespace",
        ),
        Case(
            "run_sync(os.getpid), warm",
            timed(lambda: worker.run_sync(os.getpid)),
            "anyio.to_process",
            timed(lambda: anyio.to_process.run_sync(os.getpid)),
            aim=0.3,
            repeats=10,
        ),
    ]


def opening_cases(forker: socket.socket) -> list[Case]:
    fork = blocking(partial(peers.fork_and_wait, forker))
    return [
        Case("async with open_worker(): pass", settling(cycle), "fork, exit, wait", fork, aim=1.5),
        Case("the opening alone, one in reserve", settling(opening), "fork, exit, wait", fork),
    ]


def running_cases(worker: Worker) -> list[Case]:
    ours = timed(lambda: worker.run_process(["true"]))
    nsenter = ("nsenter", "--target", str(worker.pid), "--user", "--net", "--preserve-credentials", "true")
    return [
        Case('run_process(["true"])', ours, "anyio.run_process", timed(partial(run_anyio_process, "true")), aim=1),
        Case(
            'run_process(["true"])',
            ours,
            "nsenter in anyio.run_process",
            timed(partial(run_anyio_process, *nsenter)),
            aim=0.5,
            left_out=unavailable("nsenter"),
        ),
    ]


def starting_cases(backend: Backend) -> list[Case]:
    first = settling(blocking(partial(first_use, backend)))
    start = blocking(peers.start_python)
    python = "python -I -S -c pass"
    unshare = ("unshare", "--user", "--map-root-user", "--net", "true")
    return [
        Case("first use in a fresh program", first, python, start, aim=4, repeats=1),
        Case("run_sync(os.getpid), first in a worker", settling(call_in_new_worker), python, start, repeats=1),
        Case(
            "new user and network namespace, run true",
            settling(timed(run_in_new_namespaces)),
            "unshare -Urn true",
            timed(partial(run_anyio_process, *unshare)),
            aim=0.6,
            left_out=unavailable("unshare"),
        ),
    ]


BUBBLEWRAP = (
    *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--hostname", "inside"),
    *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
)
"""What `aions run` does without options."""


def furnishing_cases() -> list[Case]:
    """A command by itself, with a root, proc, dev and tmp of its own. Where bubblewrap knows overlays both have one as well."""
    overlay: tuple[str, ...] = ("--overlay-src", "/etc", "--tmp-overlay", "/etc")
    if subprocess.run([*BUBBLEWRAP, *overlay, "true"], capture_output=True, check=False).returncode:
        overlay = ()
    run = (sys.executable, "-m", "aions", "run", "true")
    left_out = unavailable("bwrap")
    with_overlay = ", overlay" if overlay else ""
    return [
        Case(
            f"run true with root{with_overlay}, proc, dev, tmp",
            settling(timed(partial(run_furnished, bool(overlay)))),
            "bwrap true",
            timed(partial(run_anyio_process, *BUBBLEWRAP, *overlay, "true")),
            aim=0.6,
            left_out=left_out,
        ),
        Case(
            "aions run true, as a command line",
            settling(timed(partial(run_anyio_process, *run))),
            "bwrap true, as a command line",
            timed(partial(run_anyio_process, *BUBBLEWRAP, "true")),
            repeats=1,
            left_out=left_out,
        ),
    ]


async def run_furnished(with_overlay: bool) -> None:
    kinds = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.IPC | Namespace.UTS | Namespace.NETWORK
    overlay = [aions.Overlay("/etc", ["/etc"])] if with_overlay else []
    mounts = [aions.Bind("/", "/", read_only=True), aions.Proc(), aions.Dev(), aions.Tmpfs("/tmp"), *overlay]
    async with aions.open_worker(unshare=kinds, hostname="inside", mounts=mounts) as worker:
        await worker.run_process(["true"])


def network_cases(worker: Worker, networks: list[NamespaceFile], back: int) -> list[Case]:
    """One worker and many network namespaces, against a thread that makes them and goes to them."""
    no_root = None if os.geteuid() == 0 else "only root may setns without a user namespace"
    return [
        Case(
            "new_namespace(NETWORK)",
            settling(partial(make_networks, worker)),
            "thread: unshare, open, setns back",
            settling(blocking(partial(peers.new_networks, back, IN_A_ROW))),
            aim=1.2,
            left_out=no_root,
        ),
        Case(
            f"sockets() in {NETWORKS} networks",
            timed(partial(sockets_in_each, worker, networks)),
            "thread: setns, socket, setns back",
            blocking(partial(peers.sockets_by_setns, [network.fileno() for network in networks], back)),
            aim=3,
            left_out=no_root,
        ),
        Case(
            f"socket(namespace=), {NETWORKS} times",
            timed(partial(socket_in_each, worker, networks)),
            "thread: setns, socket, setns back",
            blocking(partial(peers.sockets_by_setns, [network.fileno() for network in networks], back)),
            left_out=no_root,
        ),
    ]


async def make_networks(worker: Worker) -> float:
    start = time.perf_counter()
    made = [await worker.new_namespace("net") for _ in range(IN_A_ROW)]
    seconds = (time.perf_counter() - start) / IN_A_ROW
    for network in made:
        network.close()
    return seconds


async def socket_in_each(worker: Worker, networks: list[NamespaceFile]) -> None:
    for network in networks:
        (await worker.socket(namespace=network)).close()


async def sockets_in_each(worker: Worker, networks: list[NamespaceFile]) -> None:
    for sock in await worker.sockets(networks):
        sock.close()


@asynccontextmanager
async def echoing(worker: Worker | None) -> AsyncIterator[ByteStream]:
    """Have a TCP stream to something that sends all back: where a worker is, or by anyio alone."""
    there = worker or anyio
    async with await there.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, send_back)
        async with await there.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port)) as stream:
            yield stream
        tasks.cancel_scope.cancel()


async def send_back(stream: ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def stream_through(stream: ByteStream) -> None:
    data = bytes(65536)
    for _ in range(STREAMED // len(data)):
        await stream.send(data)
        left = len(data)
        while left:
            left -= len(await stream.receive())


async def ping(stream: ByteStream) -> None:
    await stream.send(b"!")
    await stream.receive()


def stream_cases(ours: ByteStream, theirs: ByteStream) -> list[Case]:
    return [
        Case(
            "4 MiB there and back by TCP",
            timed(partial(stream_through, ours)),
            "anyio without namespaces",
            timed(partial(stream_through, theirs)),
            aim=1.1,
        ),
        Case(
            "a byte there and back by TCP",
            timed(partial(ping, ours)),
            "anyio without namespaces",
            timed(partial(ping, theirs)),
            aim=1.1,
            repeats=50,
        ),
    ]
