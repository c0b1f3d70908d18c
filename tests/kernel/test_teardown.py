"""What a network leaves outside when it ends: nothing, once the block is left; and nobody waits for one that goes on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from aions import Namespace, NamespaceFile, Worker, open_worker
from tests.kernel.targets import on_one_loop

pytestmark = pytest.mark.needs("ip")

REUSES = 20


@pytest.fixture
async def outside() -> AsyncIterator[Worker]:
    """A worker in the network that the other ends of all cables are in."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        yield worker


@asynccontextmanager
async def plugged_in(outside: Worker) -> AsyncIterator[Worker]:
    """Have a fork of a worker in a network of its own, with a cable out of it."""
    async with outside.fork() as inside:
        await inside.unshare(Namespace.NETWORK)
        await plug(outside, inside)
        yield inside


async def plug(outside: Worker, inside: Worker, name: str = "cable") -> None:
    await outside.run_process(["ip", "link", "add", name, "type", "veth", "peer", "name", "cable", "netns", str(inside.pid)])


async def links(worker: Worker) -> set[str]:
    shown = (await worker.run_process(["ip", "-o", "link"])).stdout.decode()
    return {line.split(": ")[1].partition("@")[0] for line in shown.splitlines()}


async def test_a_name_is_free_when_the_block_is_left(outside: Worker) -> None:
    for _ in range(REUSES):
        async with plugged_in(outside):
            pass


@on_one_loop
@pytest.mark.parametrize("how", ["unshare", "enter"])
async def test_a_name_is_free_when_a_worker_has_left_its_network_for_another(outside: Worker, how: str) -> None:
    for _ in range(REUSES):
        async with plugged_in(outside) as inside:
            await (inside.unshare(Namespace.NETWORK) if how == "unshare" else inside.enter(outside, Namespace.NETWORK))
            assert await links(outside) == {"lo"}


@on_one_loop
async def test_a_name_is_free_after_a_network_with_a_pid_namespace(outside: Worker) -> None:
    for _ in range(REUSES):
        async with outside.fork() as inside:
            await inside.unshare(Namespace.NETWORK | Namespace.PID)
            async with inside.fork() as first:
                await plug(outside, first)


@on_one_loop
@pytest.mark.root
@pytest.mark.parametrize("later", [False, True], ids=["from the start", "later"])
async def test_a_name_in_the_apps_network_is_free(later: bool) -> None:
    command = ["ip", "link", "add", f"aions-{os.getpid()}", "type", "veth", "peer", "name", "eth0", "netns"]
    for _ in range(REUSES):
        async with open_worker(unshare=Namespace.PID if later else Namespace.NETWORK | Namespace.PID) as inside:
            if later:
                await inside.unshare(Namespace.NETWORK)
            await anyio.run_process([*command, str(inside.pid)])


@on_one_loop
async def test_names_are_free_after_commands_with_sockets(outside: Worker) -> None:
    """A daemon left behind, with a connection open and others in the works."""
    for _ in range(REUSES):
        async with plugged_in(outside) as inside:
            await inside.run_process("ip monitor >/dev/null 2>&1 &")
            sock = await inside.socket(type=socket.SOCK_DGRAM)
            sock.close()


@on_one_loop
async def test_names_of_many_networks_that_end_at_once(outside: Worker) -> None:
    async def plugged(number: int) -> None:
        async with outside.fork() as inside:
            await inside.unshare(Namespace.NETWORK)
            await plug(outside, inside, f"c{number}")
        assert f"c{number}" not in await links(outside)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(plugged, number)


HOLDERS = ["descriptor", "socket", "worker"]


@on_one_loop
@pytest.mark.parametrize("holder", HOLDERS)
async def test_what_somebody_else_holds_stays_and_is_not_waited_for(outside: Worker, holder: str) -> None:
    async with open_worker() as other:
        async with plugged_in(outside) as inside:
            held: NamespaceFile | socket.socket | Worker
            if holder == "descriptor":
                held = await inside.open_namespace("net")
            elif holder == "socket":
                held = await inside.socket(type=socket.SOCK_DGRAM)
            else:
                held = other
                await other.enter(inside, Namespace.USER | Namespace.NETWORK)
            started = time.monotonic()
        assert time.monotonic() - started < 1
        assert await links(outside) == {"lo", "cable"}
        if not isinstance(held, Worker):
            held.close()


@on_one_loop
async def test_a_network_without_interfaces_is_not_waited_for() -> None:
    """Its end takes as long as that of any, and a descriptor of it makes no difference."""
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK, loopback=True) as worker:
        network = await worker.open_namespace("net")
        started = time.monotonic()
        await worker.aclose()
        assert time.monotonic() - started < 0.09
    network.close()


@on_one_loop
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
async def test_a_worker_that_does_not_answer_is_closed_all_the_same(outside: Worker, number: int) -> None:
    with anyio.fail_after(3):
        async with plugged_in(outside) as inside:
            os.kill(inside.pid, number)
