"""Closing what tasks wait for wakes them, and takes nothing from who waits for what comes next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import pytest

from aions._app.waiting import Awaited


@pytest.fixture
def pipe() -> Iterator[tuple[Awaited, int]]:
    reading, writing = os.pipe()
    awaited = Awaited(reading)
    yield awaited, writing
    awaited.close()
    os.close(writing)


async def wait(awaited: Awaited, outcomes: list[object]) -> None:
    try:
        await awaited.readable()
        outcomes.append(None)
    except anyio.ClosedResourceError as error:
        outcomes.append(type(error))


async def test_who_waits_is_woken(pipe: tuple[Awaited, int]) -> None:
    awaited, writing = pipe
    outcomes: list[object] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, awaited, outcomes)
            await anyio.wait_all_tasks_blocked()
            os.write(writing, b"x")
    assert outcomes == [None]
    os.fstat(awaited.fileno())


async def test_who_waits_for_what_is_closed_is_told(pipe: tuple[Awaited, int]) -> None:
    awaited, _writing = pipe
    outcomes: list[object] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, awaited, outcomes)
            await anyio.wait_all_tasks_blocked()
            number = awaited.fileno()
            awaited.close()
            assert awaited.fileno() == -1
            awaited.close()
    assert outcomes == [anyio.ClosedResourceError]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(anyio.ClosedResourceError):
        await awaited.readable()


async def test_what_is_opened_next_can_be_waited_for(pipe: tuple[Awaited, int]) -> None:
    """Also before the task has run that waited for what was closed: its number is not free yet."""
    awaited, _writing = pipe
    outcomes: list[object] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, awaited, outcomes)
            await anyio.wait_all_tasks_blocked()
            awaited.close()
            reading, writing = os.pipe()
            following = Awaited(reading)
            tasks.start_soon(write_later, writing)
            await following.readable()
    following.close()
    os.close(writing)
    assert outcomes == [anyio.ClosedResourceError]


async def write_later(descriptor: int) -> None:
    await anyio.wait_all_tasks_blocked()
    os.write(descriptor, b"x")


async def test_without_waiters_it_is_closed_at_once(pipe: tuple[Awaited, int]) -> None:
    awaited, _writing = pipe
    number = awaited.fileno()
    awaited.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_cancelled_waiters_are_none(pipe: tuple[Awaited, int]) -> None:
    awaited, _writing = pipe
    with anyio.move_on_after(0.01):
        await awaited.readable()
    number = awaited.fileno()
    awaited.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
