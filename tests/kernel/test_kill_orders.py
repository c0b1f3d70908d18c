"""The processes of a pid namespace, ended in any order, from inside, outside and by closing: nothing hangs, nothing stays."""

from __future__ import annotations

import itertools
import os
import random
import signal
from contextlib import AsyncExitStack, suppress

import anyio
import pytest

from aions import Namespace, Process, Worker, WorkerDied, open_worker
from tests.kernel.programs.counts import times
from tests.kernel.targets import is_gone

VICTIMS = ("outside", "init", "sibling", "command of outside", "command of init")

ORDERS = list(itertools.permutations(VICTIMS, 3))


class Family:
    """A worker outside of a new pid namespace, its init, a fork of that, and commands of both."""

    def __init__(self) -> None:
        self.members: dict[str, Worker | Process] = {}

    async def gather(self, stack: AsyncExitStack) -> None:
        outside = await stack.enter_async_context(open_worker())
        await outside.unshare(Namespace.USER | Namespace.PID)
        init = await stack.enter_async_context(outside.fork())
        self.members = {
            "outside": outside,
            "init": init,
            "sibling": await stack.enter_async_context(init.fork()),
            "command of outside": await outside.open_process("sleep 1000 & wait"),
            "command of init": await init.open_process("(setsid sleep 1000 &) ; exec sleep 1000"),
        }

    async def end(self, name: str, how: str) -> None:
        member = self.members[name]
        if how == "killed":
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(member.pidfd, signal.SIGKILL)
        elif isinstance(member, Process):
            member.kill()
            with suppress(WorkerDied):
                await member.wait()
        else:
            await member.aclose()

    def pids(self) -> list[int]:
        return [member.pid for member in self.members.values()]


@pytest.mark.parametrize("how", ["killed", "closed", "mixed"])
async def test_any_order_of_ends_is_a_clean_end(how: str) -> None:
    rng = random.Random(f"{how} {times('kill orders')}")
    for order in rng.sample(ORDERS, min(len(ORDERS), 5 * times("kill orders"))):
        ways = [rng.choice(["killed", "closed"]) if how == "mixed" else how for _ in order]
        family, pids = Family(), list[int]()
        with anyio.fail_after(20):
            async with AsyncExitStack() as stack:
                await family.gather(stack)
                pids = family.pids()
                for name, way in zip(order, ways, strict=True):
                    if family.members[name].pidfd >= 0:
                        await family.end(name, way)
                for member in family.members.values():
                    if isinstance(member, Process):
                        member.kill()
                        with suppress(WorkerDied):
                            await member.aclose()
        assert all(map(is_gone, pids)), (order, ways)
    assert os.getpid()
