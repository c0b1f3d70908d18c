"""The app's ends of pipes, on every event loop."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from functools import partial

import anyio
import pytest

from aions._app.pipes import PipeReceiveStream, PipeSendStream
from tests.app.waiting import outcome

Sending = tuple[PipeSendStream, int]
Receiving = tuple[PipeReceiveStream, int]


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    """A stream to send into, and the descriptor at the other end, which the test closes."""
    reading, writing = os.pipe()
    stream = PipeSendStream(writing)
    yield stream, reading
    await stream.aclose()


@pytest.fixture
async def receiving() -> AsyncIterator[Receiving]:
    reading, writing = os.pipe()
    stream = PipeReceiveStream(reading)
    yield stream, writing
    await stream.aclose()


async def test_what_is_written_is_received(receiving: Receiving) -> None:
    stream, writing = receiving
    os.write(writing, b"hello")
    assert await stream.receive() == b"hello"
    os.close(writing)


async def test_receiving_waits_for_data(receiving: Receiving) -> None:
    stream, writing = receiving
    assert await outcome(stream.receive, partial(os.write, writing, b"late")) == b"late"
    os.close(writing)


async def test_no_more_is_received_than_was_asked_for(receiving: Receiving) -> None:
    stream, writing = receiving
    os.write(writing, b"0123456789")
    assert [await stream.receive(4) for _ in range(3)] == [b"0123", b"4567", b"89"]
    os.close(writing)


async def test_what_was_written_before_the_end_is_received_and_then_the_end(receiving: Receiving) -> None:
    stream, writing = receiving
    os.write(writing, b"last")
    os.close(writing)
    assert await stream.receive() == b"last"
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_iterating_ends_with_the_stream(receiving: Receiving) -> None:
    stream, writing = receiving
    os.write(writing, b"all")
    os.close(writing)
    assert [chunk async for chunk in stream] == [b"all"]


async def test_more_than_a_pipe_holds_is_sent_whole() -> None:
    reading, writing = os.pipe()
    data = random.Random(1).randbytes(2**20 + 17)
    received = bytearray()
    async with PipeSendStream(writing) as sender, PipeReceiveStream(reading) as receiver, anyio.create_task_group() as tasks:

        async def receive() -> None:
            async for chunk in receiver:
                received.extend(chunk)

        tasks.start_soon(receive)
        await sender.send(data)
        await sender.aclose()
    assert received == data


async def test_sending_waits_where_nobody_reads(sending: Sending) -> None:
    stream, reading = sending
    with anyio.move_on_after(0.01) as scope:
        await stream.send(bytes(2**20))
    assert scope.cancelled_caught
    os.close(reading)


async def test_sending_nothing_to_a_full_pipe_does_not_wait(sending: Sending) -> None:
    stream, reading = sending
    with anyio.move_on_after(0.01):
        await stream.send(bytes(2**20))
    with anyio.fail_after(1):
        await stream.send(b"")
    os.close(reading)


async def test_sending_where_nobody_can_read_is_a_broken_resource(sending: Sending) -> None:
    stream, reading = sending
    os.close(reading)
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"x")


async def test_a_reader_that_goes_away_ends_a_send_that_waits(sending: Sending) -> None:
    stream, reading = sending
    error = await outcome(partial(stream.send, bytes(2**20)), partial(os.close, reading))
    assert type(error) is anyio.BrokenResourceError


async def test_closing_ends_a_send_that_waits(sending: Sending) -> None:
    stream, reading = sending
    error = await outcome(partial(stream.send, bytes(2**20)), stream.close)
    assert type(error) is anyio.ClosedResourceError
    os.close(reading)


async def test_closing_ends_a_receive_that_waits(receiving: Receiving) -> None:
    stream, writing = receiving
    error = await outcome(stream.receive, stream.close)
    assert type(error) is anyio.ClosedResourceError
    os.close(writing)


async def test_a_closed_stream_neither_sends_nor_receives(sending: Sending, receiving: Receiving) -> None:
    for stream, other in (sending, receiving):
        await stream.aclose()
        await stream.aclose()
        os.close(other)
        assert stream.fileno() == -1
    with pytest.raises(anyio.ClosedResourceError):
        await sending[0].send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await receiving[0].receive()


async def test_closing_is_seen_at_the_other_end(sending: Sending, receiving: Receiving) -> None:
    await sending[0].aclose()
    assert os.read(sending[1], 1) == b""
    await receiving[0].aclose()
    with pytest.raises(BrokenPipeError):
        os.write(receiving[1], b"x")
    os.close(sending[1])
    os.close(receiving[1])


async def test_two_tasks_cannot_receive_at_once(receiving: Receiving) -> None:
    stream, writing = receiving
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        os.write(writing, b"for the first")
    os.close(writing)


async def test_two_tasks_cannot_send_at_once(sending: Sending) -> None:
    stream, reading = sending
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, bytes(2**20))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.send(b"x")
        tasks.cancel_scope.cancel()
    os.close(reading)


async def test_a_cancelled_receive_loses_nothing(receiving: Receiving) -> None:
    stream, writing = receiving
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    os.write(writing, b"still there")
    assert await stream.receive() == b"still there"
    os.close(writing)


async def test_at_least_one_byte_is_asked_for(receiving: Receiving) -> None:
    stream, writing = receiving
    os.write(writing, b"hello")
    with pytest.raises(ValueError, match="positive"):
        await stream.receive(0)
    assert await stream.receive() == b"hello"
    os.close(writing)


async def test_a_closed_stream_takes_not_even_nothing(sending: Sending) -> None:
    stream, reading = sending
    stream.close()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send(b"")
    os.close(reading)
