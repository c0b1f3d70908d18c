"""What a function returned comes out of a memfd whole, or there is an error; the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import pickle
import time

import anyio
import pytest

from aions._app import pickling
from aions._app.pickling import unpickled_from
from aions._errors import ProtocolError
from aions._wire.fdsocket import to_memfd
from aions._wire.payload import LARGEST_RESULT
from tests.app.waiting import attentive_loop

MIB = 2**20


def memfd_of(value: object, returned: bool = True) -> int:
    return to_memfd(pickle.dumps((returned, value), 5))


def sparse(size: int) -> int:
    memfd = os.memfd_create("sparse")
    os.ftruncate(memfd, size)
    return memfd


VALUES = {
    "short": list(range(10)),
    "many elements": [{"number": number, "text": str(number)} for number in range(300_000)],
    "long bytes": bytes(100 * MIB),
    "long text": "ä" * 20 * MIB,
}


@pytest.mark.parametrize("name", VALUES)
async def test_it_comes_whole_and_holds_up_nothing(name: str) -> None:
    memfd = memfd_of(VALUES[name])
    async with attentive_loop():
        outcome = await unpickled_from(memfd)
    assert outcome == (True, VALUES[name])


async def test_an_exception_is_told_from_a_result() -> None:
    returned, value = await unpickled_from(memfd_of(ValueError("x" * MIB), returned=False))
    assert (returned, str(value)) == (False, "x" * MIB)


@pytest.mark.parametrize("size", [LARGEST_RESULT + 1, 3 * 2**30, 2**40])
async def test_what_is_larger_than_the_limit_is_refused_at_once(size: int) -> None:
    async with attentive_loop(0.2):
        with pytest.raises(ProtocolError, match=str(LARGEST_RESULT)):
            await unpickled_from(sparse(size))


@pytest.mark.parametrize("size", [1, MIB, LARGEST_RESULT])
async def test_what_is_no_pickle_is_an_error(size: int) -> None:
    async with attentive_loop():
        with pytest.raises(pickle.UnpicklingError):
            await unpickled_from(sparse(size))


async def test_what_ends_too_early_is_an_error() -> None:
    memfd = memfd_of([str(number) for number in range(200_000)])
    os.ftruncate(memfd, os.fstat(memfd).st_size - 100)
    with pytest.raises(pickle.UnpicklingError):
        await unpickled_from(memfd)


async def test_what_gets_shorter_meanwhile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    memfd = memfd_of([str(number) for number in range(200_000)])
    size = os.fstat(memfd).st_size
    os.ftruncate(memfd, size // 2)
    monkeypatch.setattr(pickling, "memfd_size", lambda _memfd, _largest: size)
    with pytest.raises(ProtocolError, match="cut short"):
        await unpickled_from(memfd)


async def test_what_gets_longer_meanwhile_is_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that never ends, in a file that grows as fast as it is read."""
    monkeypatch.setattr(pickling, "LARGEST_RESULT", 10 * MIB)
    memfd = to_memfd(b"\x80\x05](" + b"K\x01" * 2 * MIB)
    growing = os.dup(memfd)
    ended = False

    async def grow() -> None:
        while not ended:
            os.pwrite(growing, b"K\x01" * MIB, os.fstat(growing).st_size)
            await anyio.sleep(0)
            if os.fstat(growing).st_size > 200 * MIB:
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(grow)
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            await unpickled_from(memfd)
        ended = True
    os.close(growing)


async def test_what_is_no_memfd_or_more_than_one_is_closed() -> None:
    """The leak check sees to that."""
    reading, writing = os.pipe()
    with pytest.raises(ProtocolError, match="no memfd"):
        await unpickled_from(reading, writing)


async def test_one_that_is_cancelled_is_closed() -> None:
    value = [(number,) for number in range(1_000_000)]
    for patience in (0, 0.001, 0.01):
        memfd = memfd_of(value)
        before = time.monotonic()
        with anyio.move_on_after(patience):
            await unpickled_from(memfd)
        assert time.monotonic() - before < 1


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
async def test_one_whose_task_asyncio_cancels_is_closed_by_its_thread() -> None:
    """And not by the task, after which its number would be another file's while the thread still reads."""
    value = [(number,) for number in range(300_000)]
    for turns in range(1, 20):  # without a turn it does not even begin
        task = asyncio.create_task(unpickled_from(memfd_of(value)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
