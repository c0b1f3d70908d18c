"""A call that is cancelled returns at once and leaves nothing: no reply for another caller, no descriptor, no process."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import AsyncResource, TaskGroup
from anyio.lowlevel import checkpoint

from aions import Dev, Namespace, NamespaceFile, NamespaceID, Worker, current_worker, get_namespace_id, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.programs.running import children, parent, state, wait_until
from tests.kernel.scripts import run_script
from tests.kernel.targets import let_look_into

SOCKETS = [
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_INET6, socket.SOCK_STREAM),
    (socket.AF_INET6, socket.SOCK_DGRAM),
    (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_UNIX, socket.SOCK_DGRAM),
    (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    (socket.AF_NETLINK, socket.SOCK_RAW),
]
"""One kind for each task, so that a reply that went astray shows."""


def descriptors(pid: int) -> list[str]:
    """Return what kinds of descriptors a process has: their numbers change, and so do inodes."""
    kinds = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            kinds.append(re.sub(r"\d+", "…", os.readlink(f"/proc/{pid}/fd/{number}")))
    return sorted(kinds)


@dataclass
class Known:
    """A worker in namespaces of its own, other processes in theirs, and what each call is to return."""

    worker: Worker
    own: NamespaceID
    others: dict[int, NamespaceID]


@asynccontextmanager
async def known() -> AsyncIterator[Known]:
    fresh = [Namespace.USER, Namespace.NETWORK]
    async with open_worker(unshare=fresh) as first, open_worker(unshare=fresh) as second, open_worker(unshare=fresh) as worker:
        await worker.run_process(["true"])  # which leaves it with what it needs for children
        await let_look_into(worker)
        others = {each.pid: await each.get_namespace_id(None, "net") for each in (first, second)}
        yield Known(worker, await worker.get_namespace_id(None, "net"), others)


@dataclass
class Caller:
    """One of several tasks that use a worker, each with replies that only it can expect."""

    number: int
    known: Known
    random: random.Random
    cancelled: int = 0
    answered: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def calls(self) -> list[Callable[[], Coroutine[object, object, None]]]:
        return [self.own_id] * 8 + [self.other_id] * 8 + [self.socket] * 8 + [self.function, self.command, self.fork]

    async def own_id(self) -> None:
        assert await self.known.worker.get_namespace_id(None, "net") == self.known.own

    async def other_id(self) -> None:
        pid, expected = self.random.choice(list(self.known.others.items()))
        assert await self.known.worker.get_namespace_id(pid, "net") == expected

    async def socket(self) -> None:
        family, type_ = SOCKETS[self.number]
        with await self.known.worker.socket(family, type_) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == family
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == type_

    async def function(self) -> None:
        assert await self.known.worker.run_sync(divmod, self.number, 3) == divmod(self.number, 3)

    async def command(self) -> None:
        result = await self.known.worker.run_process(["echo", str(self.number)])
        assert result.stdout == f"{self.number}\n".encode()

    async def fork(self) -> None:
        async with self.known.worker.fork() as fork:
            assert parent(fork.pid) == self.known.worker.pid
            assert await fork.get_namespace_id(None, "net") == self.known.own

    async def call_until(self, enough: Callable[[], bool]) -> None:
        """Make calls, one after another, of which any may be cancelled."""
        while not enough():
            with anyio.CancelScope() as self.scope:
                await self.random.choice(self.calls())()
            self.cancelled += self.scope.cancelled_caught
            self.answered += not self.scope.cancelled_caught


async def cancel_at_random(callers: list[Caller], rng: random.Random, enough: Callable[[], bool]) -> None:
    while not enough():
        for _ in range(rng.randrange(10)):
            await checkpoint()
        for caller in rng.sample(callers, rng.choice([1, 1, 2, 3])):
            caller.scope.cancel()


async def settled_descriptors() -> list[str]:
    """Return the app's descriptors where there is a default worker and one in reserve, and nothing else is under way."""
    await current_worker()
    async with open_worker():
        pass
    await get_namespace_id(os.getpid(), "net")  # so that all that the forkserver has said before has been read
    return descriptors(os.getpid())


def seeded() -> random.Random:
    """Return a source of chance, which a failing test shows how to have again."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"{seed=}\n")
    return random.Random(seed)


async def test_every_reply_goes_to_its_caller_whatever_is_cancelled() -> None:
    rng = seeded()
    async with known() as facts:
        app_before, worker_before = await settled_descriptors(), descriptors(facts.worker.pid)
        callers = [Caller(number, facts, rng) for number in range(len(SOCKETS))]

        def enough() -> bool:
            return sum(caller.cancelled for caller in callers) >= times("cancellations")

        with anyio.fail_after(20 + times("cancellations") / 20):
            async with anyio.create_task_group() as tasks:
                for caller in callers:
                    tasks.start_soon(caller.call_until, enough)
                tasks.start_soon(cancel_at_random, callers, rng, enough)
        assert all(caller.answered for caller in callers)
        await check_unharmed(facts, worker_before)
        assert await settled_descriptors() == app_before


async def check_unharmed(facts: Known, worker_before: list[str]) -> None:
    """See that the worker is usable, and has no more than it had."""
    pid = facts.worker.pid
    with anyio.fail_after(5):
        assert await facts.worker.get_namespace_id(None, "net") == facts.own
    wait_until(lambda: not children(pid) and descriptors(pid) == worker_before, 1)
    assert children(pid) == []
    assert descriptors(pid) == worker_before


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"], indirect=True
)
async def test_asyncio_may_cancel_in_its_own_way(anyio_backend: object) -> None:
    """`Task.cancel()` strikes once, and no shield of anyio's holds it off."""
    rng = seeded()
    async with known() as facts:
        app_before, worker_before = await settled_descriptors(), descriptors(facts.worker.pid)
        cancelled = 0
        while cancelled < times("cancellations") / 4:
            callers = [Caller(number, facts, rng) for number in range(len(SOCKETS))]
            tasks = [asyncio.create_task(rng.choice(caller.calls())()) for caller in callers]
            for task in rng.sample(tasks, len(tasks)):
                for _ in range(rng.randrange(6)):
                    await checkpoint()
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
            cancelled += sum(outcome is not None for outcome in outcomes)
        await check_unharmed(facts, worker_before)
        assert await settled_descriptors() == app_before


async def test_when_the_call_that_reads_is_cancelled_another_reads() -> None:
    """Also when the one that would be next is cancelled in the same instant."""
    async with open_worker() as worker:
        for _ in range(times("handovers")):
            scopes = [anyio.CancelScope() for _ in range(3)]
            os.kill(worker.pid, signal.SIGSTOP)
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for scope in scopes:
                        tasks.start_soon(call_within, scope, worker)
                        await anyio.wait_all_tasks_blocked()
                    scopes[0].cancel()
                    scopes[1].cancel()
                    os.kill(worker.pid, signal.SIGCONT)
            assert [scope.cancelled_caught for scope in scopes] == [True, True, False]


async def call_within(scope: anyio.CancelScope, worker: Worker) -> None:
    with scope:
        await worker.get_namespace_id(None, "net")


OPENINGS: list[Callable[[], AbstractAsyncContextManager[Worker]]] = [
    open_worker,
    partial(open_worker, unshare=[Namespace.USER, Namespace.NETWORK]),
    partial(open_worker, unshare=[Namespace.USER, Namespace.PID, Namespace.MOUNT]),
    partial(open_worker, unshare=[Namespace.USER, Namespace.PID, Namespace.MOUNT], root="/", mount_proc=True, mounts=[Dev()]),
]


async def test_an_opening_that_is_cancelled_leaves_nothing() -> None:
    rng = seeded()
    app_before = await settled_descriptors()
    forkserver = parent((await current_worker()).pid)
    cancelled = 0
    while cancelled < times("cancelled openings"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_and_close, rng.choice(OPENINGS), rng.random() < 0.5)
            for _ in range(rng.choice([rng.randrange(10), rng.randrange(50)])):
                await checkpoint()
            cancelled += 1
            tasks.cancel_scope.cancel()
    assert await settled_descriptors() == app_before
    wait_until(lambda: len(children(forkserver)) == 2, 1)
    assert len(children(forkserver)) == 2  # the default worker, and one in reserve


async def open_and_close(opening: Callable[[], AbstractAsyncContextManager[Worker]], fork: bool) -> None:
    async with opening() as worker:
        if fork:
            async with worker.fork():
                await anyio.sleep_forever()
        await anyio.sleep_forever()


async def test_the_first_opening_of_an_event_loop_may_be_cancelled() -> None:
    """And with it the start of the forkserver. What is started with the next call is whole."""
    with anyio.move_on_after(0.001):
        await get_namespace_id(None, "net")
    assert await get_namespace_id(None, "net") == await get_namespace_id(os.getpid(), "net")


def block_opening_fifo(directory: Path) -> str:
    os.mkfifo(directory / "fifo")
    return f"import os\nos.open({str(directory / 'fifo')!r}, os.O_RDONLY)"


async def wedge(worker: Worker, how: str, directory: Path, tasks: TaskGroup) -> None:
    """Bring a worker where it serves no request."""
    if how == "stopped":
        os.kill(worker.pid, signal.SIGSTOP)
        return
    code = "while True: pass" if how == "busy" else block_opening_fifo(directory)
    begun = directory / "begun"
    tasks.start_soon(call_until_closed, partial(worker.run_sync, exec, f"open({str(begun)!r}, 'x').close()\n{code}"))
    while not begun.exists():
        await anyio.sleep(0.001)


async def call_until_closed(call: Callable[[], Coroutine[object, object, object]]) -> None:
    with pytest.raises(anyio.ClosedResourceError):
        await call()


@pytest.mark.parametrize("how", ["stopped", "busy", "opening a FIFO"])
async def test_a_call_of_a_wedged_worker_can_be_cancelled_and_the_worker_closed(how: str, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        async with open_worker(unshare=Namespace.USER) as worker:
            await wedge(worker, how, tmp_path, tasks)
            for call in (partial(worker.get_namespace_id, None, "net"), worker.socket, partial(worker.run_process, "true")):
                before = time.monotonic()
                with anyio.move_on_after(0.01) as scope:
                    await call()
                assert scope.cancelled_caught
                assert time.monotonic() - before < 0.2
            pid, before = worker.pid, time.monotonic()
        assert time.monotonic() - before < 1
        assert state(pid) in "XZ"


@pytest.mark.parametrize("how", ["stopped", "busy"])
async def test_a_worker_that_a_wedged_one_was_forked_from_goes_on(how: str, tmp_path: Path) -> None:
    async with open_worker() as worker, anyio.create_task_group() as tasks:
        async with worker.fork() as fork:
            await wedge(fork, how, tmp_path, tasks)
            assert await worker.get_namespace_id(None, "net")
        assert await worker.get_namespace_id(None, "net")


async def test_a_cancellable_function_is_killed() -> None:
    async with open_worker() as worker:
        before = time.monotonic()
        with anyio.move_on_after(0.05) as scope:
            await worker.run_sync(time.sleep, 1000, cancellable=True)
        assert scope.cancelled_caught
        assert time.monotonic() - before < 1
        wait_until(lambda: not children(worker.pid), 1)
        assert children(worker.pid) == []
        assert await worker.run_sync(divmod, 7, 3) == (2, 1)


async def test_a_cancelled_command_is_killed() -> None:
    async with open_worker() as worker:
        before = time.monotonic()
        with anyio.move_on_after(0.05) as scope:
            await worker.run_process(["sleep", "1000"])
        assert scope.cancelled_caught
        assert time.monotonic() - before < 1
        wait_until(lambda: not children(worker.pid), 1)
        assert children(worker.pid) == []


@pytest.mark.parametrize("what", ["command", "fork"])
async def test_what_starts_after_its_call_was_cancelled_is_ended(what: str) -> None:
    async with open_worker() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with anyio.move_on_after(0.01) as scope:
            await (worker.run_process(["sleep", "1000"]) if what == "command" else worker.fork().__aenter__())
        assert scope.cancelled_caught
        os.kill(worker.pid, signal.SIGCONT)
        assert await worker.get_namespace_id(None, "net")
        wait_until(lambda: not children(worker.pid), 1)
        assert children(worker.pid) == []


OPENED: dict[str, Callable[[Worker, NamespaceFile | None], Awaitable[socket.socket | AsyncResource]]] = {
    "socket": lambda worker, file: worker.socket(namespace=file),
    "TCP stream": lambda worker, file: worker.connect_tcp("127.0.0.1", 80, namespace=file),
    "TCP listener": lambda worker, file: worker.create_tcp_listener(namespace=file),
    "UDP socket": lambda worker, file: worker.create_udp_socket(socket.AF_INET, namespace=file),
    "connected UDP socket": lambda worker, file: worker.create_connected_udp_socket("127.0.0.1", 9, namespace=file),
    "unix stream": lambda worker, file: worker.connect_unix("\0listener", namespace=file),
    "unix datagram socket": lambda worker, file: worker.create_unix_datagram_socket(namespace=file),
}


@pytest.mark.parametrize("what", OPENED)
async def test_sockets_that_nobody_waits_for_any_more_are_closed(what: str) -> None:
    """R10, in the app and in the worker."""
    async with open_worker(unshare=[Namespace.USER, Namespace.NETWORK], loopback=True) as worker, AsyncExitStack() as stack:
        file = await stack.enter_async_context(await worker.new_namespace("net", loopback=True))
        for each in (None, file):
            tcp = await worker.create_tcp_listener(local_port=80, namespace=each)
            unix = await worker.create_unix_listener("\0listener", namespace=each)
            for listener in (tcp, unix):
                await stack.enter_async_context(listener)
        finished: list[str] = []
        await open_and_close_socket(partial(OPENED[what], worker, file), finished)
        await let_look_into(worker)
        app_before, worker_before = await settled_descriptors(), descriptors(worker.pid)
        rng = seeded()
        for _ in range(times("cancelled sockets")):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_and_close_socket, partial(OPENED[what], worker, rng.choice((file, None))), finished)
                for _ in range(rng.randrange(rng.choice((12, 50)))):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        assert len(finished) <= times("cancelled sockets"), "some are cut short"
        assert await worker.get_namespace_id(None, "net")
        assert await settled_descriptors() == app_before
        assert descriptors(worker.pid) == worker_before


async def open_and_close_socket(opening: Callable[[], Awaitable[socket.socket | AsyncResource]], finished: list[str]) -> None:
    opened = await opening()
    if isinstance(opened, socket.socket):
        opened.close()
    else:
        await anyio.aclose_forcefully(opened)
    finished.append(repr(opened))


async def test_a_stalled_worker_does_not_slow_down_others() -> None:
    """R16: requests pile up for one that serves none; what others take stays as it is."""
    async with open_worker() as stalled, open_worker() as other, anyio.create_task_group() as tasks:
        os.kill(stalled.pid, signal.SIGSTOP)
        for _ in range(times("requests in flight")):
            tasks.start_soon(stalled.get_namespace_id, None, "net")
        await anyio.wait_all_tasks_blocked()
        took = []
        for _ in range(100):
            before = time.monotonic()
            await other.get_namespace_id(None, "net")
            took.append(time.monotonic() - before)
        assert sorted(took)[98] < 0.05
        tasks.cancel_scope.cancel()
        os.kill(stalled.pid, signal.SIGCONT)


OTHER_USERS = """
    import os
    import sys
    import anyio
    from aions import open_worker

    async def main():
        async with open_worker() as worker:
            process = await worker.open_process(["sleep", "600"], stdin=-3)
            os.setresuid(65534, 65534, 0)  # as a plain user is to a program that has become root
            with anyio.CancelScope() as scope:
                async with process:
                    scope.cancel()
                    await anyio.sleep_forever()
            os.setresuid(0, 0, 0)
            print(scope.cancelled_caught, process.returncode)

    anyio.run(main, backend=sys.argv[1])
    """


@pytest.mark.root
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_does_not_wait_for_a_command_that_has_become_another_users(backend: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert run_script(tmp_path, OTHER_USERS, backend) == ["True None"]
    assert time.monotonic() - began < 5
