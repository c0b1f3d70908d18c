"""Users, groups and subordinate ids may come from a directory service that takes its time: the event loop goes on meanwhile."""

from __future__ import annotations

import grp
import os
import pwd
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from aions import Identity, Namespace, Worker, open_worker
from aions._app import subordinate, trials


class Service:
    """A look-up that answers once the event loop has come round to letting it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def answer(self, function: Callable[..., Any], *arguments: object) -> Any:
        self.asked.set()
        assert self.may_answer.wait(5), "the event loop stands still"
        return function(*arguments)

    async def let(self) -> None:
        while not self.asked.is_set():
            await anyio.sleep(0.001)
        self.may_answer.set()


async def open_with(identity: Callable[[], Identity]) -> None:
    async with open_worker(unshare=Namespace.USER, identity=identity):
        pass


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with open_worker(unshare=Namespace.USER) as worker:
        yield worker


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr(pwd, "getpwnam", partial(service.answer, lambda _name: pwd.getpwuid(os.geteuid())))
    monkeypatch.setattr(grp, "getgrnam", partial(service.answer, lambda _name: grp.getgrgid(os.getegid())))
    monkeypatch.setattr(subordinate, "ranges", partial(service.answer, lambda _kind: [range(100_000, 165_536)]))
    return service


LOOK_UPS: dict[str, Callable[[Worker, Service], Awaitable[object]]] = {
    "subordinate ids": lambda _worker, _service: open_with(Identity.subordinate),
    "an identity of one's own making": lambda _worker, service: open_with(partial(service.answer, Identity.root)),
    "a user": lambda worker, _service: worker.run_process(["true"], user="somebody"),
    "a group": lambda worker, _service: worker.run_process(["true"], group="some"),
    "other groups": lambda worker, _service: worker.run_process(["true"], extra_groups=["some"]),
}


async def ignoring_refusals(look_up: Awaitable[object]) -> None:
    """Await what may be more than this user may do; that it was looked up is what counts."""
    try:
        await look_up
    except OSError:
        pass


@pytest.mark.parametrize("what", LOOK_UPS)
async def test_the_loop_goes_on_while_a_name_is_looked_up(worker: Worker, service: Service, what: str) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.let)
            await ignoring_refusals(LOOK_UPS[what](worker, service))


@pytest.mark.parametrize("what", LOOK_UPS)
async def test_who_is_cancelled_does_not_wait_for_a_look_up(worker: Worker, service: Service, what: str) -> None:
    async def cancel() -> None:
        while not service.asked.is_set():
            await anyio.sleep(0.001)
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with anyio.fail_after(4), anyio.CancelScope() as scope:
            await LOOK_UPS[what](worker, service)
        assert scope.cancelled_caught
    service.may_answer.set()


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
async def test_the_loop_goes_on_while_the_doctor_asks(service: Service) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.let)
            assert (await trials._ids("ids inside")).subject == "ids inside"
