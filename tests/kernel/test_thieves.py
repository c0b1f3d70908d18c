"""Whoever stands where workers are gets nothing of them: no descriptor, no memory, no root, no environment."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest

from aions import Capability, Identity, Namespace, Process, Worker, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.targets import on_one_loop

THIEF = [sys.executable, "-I", "-S", "-c", (Path(__file__).parent / "programs" / "thief.py").read_text()]
EVERYTHING = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.NETWORK
UNSEALED = ["tests.kernel.programs.unsealed"]


class Thief:
    """A command that tries to get into processes of aions."""

    def __init__(self, process: Process | anyio.abc.Process) -> None:
        self._process = process

    async def _lines(self, until: str) -> list[str]:
        """Read lines up to one that begins so."""
        assert self._process.stdout is not None
        text = ""
        while until not in text:
            text += (await self._process.stdout.receive()).decode()
        return text.splitlines()

    async def taken(self) -> tuple[list[str], int]:
        """Have it stop; return what it has taken, and how often it has looked at a process."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        *lines, last = await self._lines("looked ")
        await self._process.wait()
        return [line for line in lines if line.startswith("taken")], int(last.split()[1])


@asynccontextmanager
async def thief(worker: Worker, capabilities: Capability | None = None) -> AsyncIterator[Thief]:
    """Have one among the commands of a worker."""
    async with await worker.open_process(THIEF, stdin=PIPE, stderr=None, capabilities=capabilities) as process:
        found = Thief(process)
        await found._lines("ready")
        yield found


async def come_and_go(worker: Worker) -> None:
    """Have workers, forks and commands, of every kind that there is, begin and end."""
    await worker.run_process(["true"])
    await worker.run_process(["true"], no_new_privs=True)  # by a fork that becomes the command
    await worker.run_process(["true"], capabilities=Capability(0))
    async with worker.fork() as fork:
        await fork.run_process(["true"])
        await fork.unshare(Namespace.MOUNT)
        await fork.enter(worker, Namespace.MOUNT)
        await fork.run_sync(len, "…")
    await worker.run_sync(len, "…", cancellable=True)
    await worker.getaddrinfo("localhost", 80)
    (await worker.new_namespace(Namespace.USER)).close()
    (await worker.new_namespace(Namespace.UTS)).close()


OWN = {
    "as root inside": Identity.root,
    "as the same user": Identity.current,
}


async def steal_in_own(identity: str, rounds: int, preload: list[str]) -> tuple[list[str], int]:
    """Have thieves in namespaces that aions has made; return what they took and how often they looked."""
    taken, looked = [], 0
    async with (
        open_worker(unshare=EVERYTHING, identity=OWN[identity], mount_proc=True, preload=preload) as worker,
        thief(worker) as able,
        thief(worker, Capability(0)) as other,
    ):
        for _ in range(rounds):
            await come_and_go(worker)
        for each in (able, other):
            lines, count = await each.taken()
            taken += lines
            looked += count
    return taken, looked


@pytest.mark.parametrize("identity", OWN)
async def test_commands_get_nothing_of_the_workers_beside_them(identity: str) -> None:
    rounds = times("rounds beside thieves")
    taken, looked = await steal_in_own(identity, rounds, [])
    assert (taken, looked > 10 * rounds) == ([], True)


@asynccontextmanager
async def thief_outside() -> AsyncIterator[tuple[Thief, int]]:
    """Have a thief, root of its namespaces, in some that aions has not made; yield also its pid."""
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--net", "--kill-child", *THIEF]
    async with await anyio.open_process(command, stdin=PIPE, stderr=None) as process:
        found = Thief(process)
        await found._lines("ready")
        yield found, int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


async def steal_from_who_enters(rounds: int, preload: list[str]) -> tuple[list[str], int]:
    """Enter the namespaces of a thief again and again; return what it took and how often it looked."""
    async with thief_outside() as (thief, pid):
        for _ in range(rounds):
            async with open_worker(enter=(pid, EVERYTHING), preload=preload) as worker:
                await come_and_go(worker)
            async with open_worker(preload=preload) as worker:
                await worker.enter_namespace(pid, Namespace.USER | Namespace.MOUNT)
                await come_and_go(worker)
                await worker.enter_namespace(pid, Namespace.PID | Namespace.NETWORK)
                await come_and_go(worker)
        return await thief.taken()


async def test_whoever_is_entered_gets_nothing_of_the_workers() -> None:
    rounds = times("entries among thieves")
    taken, looked = await steal_from_who_enters(rounds, [])
    assert (taken, looked > rounds) == ([], True)


@on_one_loop
async def test_without_their_seal_whoever_is_entered_would_get_something() -> None:
    taken, _looked = await steal_from_who_enters(3, UNSEALED)
    assert {"taken: a descriptor", "taken: memory", "taken: its environment"} <= set(taken)


@on_one_loop
async def test_without_their_seal_they_would_get_something() -> None:
    taken, _looked = await steal_in_own("as root inside", 3, UNSEALED)
    assert {"taken: a descriptor", "taken: memory", "taken: its root", "taken: its environment"} <= set(taken)
