"""A child as the app holds it: its status comes through the lifeline, its end through the pidfd."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import anyio
import pytest

from aions._app.child import Child, Lifeline
from tests.app.waiting import outcome
from tests.kept_statuses import are_kept

KEPT = pytest.mark.skipif(not are_kept(), reason="the kernel keeps no exit statuses for pidfds")


class Held:
    """A child, and the end of its lifeline that its parent has."""

    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE)
        lifeline = Lifeline()
        self.theirs = lifeline.theirs
        self.child = Child(self._process.pid, os.pidfd_open(self._process.pid), lifeline.ours)

    def report(self, text: bytes) -> None:
        """Say how the child ended, as its parent does."""
        os.write(self.theirs.fileno(), text)
        self.theirs.close()

    def end(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.child.close()
        self.theirs.close()
        self._process.kill()
        self._process.communicate()

    def collect(self) -> None:
        """Collect the child, once it has ended, without a word about it to the app."""
        self.theirs.close()
        self._process.wait()

    def status(self) -> int:
        return self._process.wait()


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held("read forever")
    yield held
    held.close()


async def test_a_child_that_runs_has_no_status(held: Held) -> None:
    assert held.child.poll() is None
    assert not held.child.has_ended


@pytest.mark.parametrize(("text", "status"), [(b"0", 0), (b"255", 255), (b"-9", -9)])
async def test_the_status_comes_through_the_lifeline(held: Held, text: bytes, status: int) -> None:
    assert await outcome(held.child.wait, partial(held.report, text)) == status
    assert held.child.poll() == status
    assert held.child.has_ended
    assert await held.child.wait() == status


async def test_polling_is_enough_to_see_the_status(held: Held) -> None:
    held.report(b"3")
    assert held.child.poll() == 3


async def test_a_lifeline_that_is_let_go_without_a_status_means_that_there_is_none(held: Held) -> None:
    held.theirs.close()
    assert held.child.poll() is None
    assert held.child.has_ended
    assert held.child.is_orphan


@pytest.mark.parametrize("text", [b"abc", b"\xff"])
async def test_a_status_that_is_none_counts_as_none(held: Held, text: bytes) -> None:
    held.report(text)  # a worker in somebody else's namespaces may write what it likes
    assert held.child.poll() is None
    assert held.child.has_ended
    assert not held.child.is_orphan


@KEPT
async def test_the_kernel_tells_the_status_that_its_parent_does_not(held: Held) -> None:
    held.end()
    held.collect()
    assert await held.child.wait() == -signal.SIGKILL
    assert held.child.is_orphan
    assert held.child.poll() == -signal.SIGKILL


@KEPT
async def test_whoever_has_collected_it() -> None:
    held = Held("exit 3")
    held.collect()
    assert await held.child.wait() == 3
    held.close()


async def test_where_the_kernel_tells_nothing_there_is_no_status(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aions._app.child._PIDFD_GET_INFO", 0xC040FFFF)
    held.end()
    held.collect()
    assert await held.child.wait() is None
    assert await held.child.wait() is None


async def test_an_orphan_is_ended_whether_or_not_anybody_collects_it(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aions._app.child._REAPING", 0.01)
    held.theirs.close()
    with anyio.fail_after(1):
        assert await held.child.wait() is None
    assert held.status() == -signal.SIGKILL


async def test_several_tasks_may_wait_for_the_status(held: Held) -> None:
    statuses: list[int | None] = []

    async def wait() -> None:
        statuses.append(await held.child.wait())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        held.report(b"5")
    assert statuses == [5, 5, 5]


async def test_a_wait_that_is_cancelled_lets_another_wait(held: Held) -> None:
    with anyio.move_on_after(0.01):
        await held.child.wait()
    assert await outcome(held.child.wait, partial(held.report, b"5")) == 5


async def test_several_tasks_may_wait_for_the_end(held: Held) -> None:
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(held.child.wait_ended)
            await anyio.wait_all_tasks_blocked()
            held.end()


async def test_the_end_is_seen_whether_or_not_there_is_a_status(held: Held) -> None:
    await outcome(held.child.wait_ended, held.end)
    assert not held.child.has_ended


async def test_a_wait_for_the_status_is_ended_by_closing(held: Held) -> None:
    error = await outcome(held.child.wait, held.child.close)
    assert type(error) is anyio.ClosedResourceError
    held.child.close()


async def test_there_is_no_waiting_for_the_status_of_a_closed_child(held: Held) -> None:
    held.child.close()
    assert held.child.poll() is None
    with pytest.raises(anyio.ClosedResourceError):
        await held.child.wait()


async def test_the_status_outlives_closing(held: Held) -> None:
    held.report(b"5")
    assert await held.child.wait() == 5
    held.child.close()
    assert await held.child.wait() == held.child.poll() == 5


async def test_a_signal_reaches_the_child(held: Held) -> None:
    held.child.signal(signal.SIGTERM)
    assert held.status() == -signal.SIGTERM


async def test_a_signal_to_a_child_that_has_ended_does_nothing(held: Held) -> None:
    held.end()
    held.status()
    held.child.signal(signal.SIGTERM)


def test_a_lifeline_does_not_block_and_is_not_inherited() -> None:
    lifeline = Lifeline()
    assert not os.get_blocking(lifeline.ours.fileno())
    assert not os.get_inheritable(lifeline.ours.fileno())
    assert not os.get_inheritable(lifeline.theirs.fileno())
    lifeline.close()
    lifeline.close()
