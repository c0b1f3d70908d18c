"""The client against a worker that the test plays: whose reply goes where, and how calls end."""

from __future__ import annotations

import asyncio
import os
import socket

import anyio
import pytest

from aions._app.client import Disconnected, Refused
from aions._errors import ProtocolError
from aions._wire import fdsocket
from aions._wire.codec import MAX_DESCRIPTORS
from aions._wire.fdsocket import INLINE_LIMIT
from aions._wire.messages import (
    CallFunction,
    Done,
    Failed,
    GetNamespaceID,
    Identified,
    Opened,
    OpenSocket,
    Rejected,
    SetClockOffset,
    Spawn,
    Unshare,
)
from tests.app.fake_worker import Calls, Wire, answer, ask, open_file, taken


async def test_replies_find_their_calls_in_any_order(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(*range(10))
        answer(worker, await taken(worker, 10), 3, 9, 0, 1, 8, 2, 7, 4, 6, 5)
    assert calls.outcomes == {number: number for number in range(10)}


async def test_a_reply_wakes_its_call_while_others_go_on_waiting(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(*range(3))
        ids = await taken(worker, 3)
        for number in (1, 0, 2):
            answer(worker, ids, number)
            await calls.end_of(number)
    assert list(calls.outcomes.items()) == [(1, 1), (0, 0), (2, 2)]


async def test_requests_carry_their_descriptors(wire: Wire) -> None:
    client, worker = wire
    file = os.memfd_create("test")
    os.lseek(file, 99, os.SEEK_SET)
    await client.begin(CallFunction((), None, "", (file,)))
    _data, descriptors, _flags, _address = socket.recv_fds(worker.socket, 1000, 10)
    assert [os.lseek(descriptor, 0, os.SEEK_CUR) for descriptor in descriptors] == [99]
    for descriptor in (file, *descriptors):
        os.close(descriptor)


async def test_the_descriptors_of_a_reply_are_the_callers(wire: Wire) -> None:
    client, worker = wire
    request_id = await client.begin(OpenSocket(1, 2, 0, ()))
    worker.answer(request_id, Opened(open_file()))
    reply = await client.finish(request_id, Opened)
    os.close(reply.descriptor)


async def test_the_late_reply_to_a_cancelled_call_is_dropped_with_its_descriptors(wire: Wire) -> None:
    client, worker = wire
    with anyio.move_on_after(0.01):
        await client.call(OpenSocket(1, 2, 0, ()), Opened)
    request_id, _request = await worker.take()
    worker.answer(request_id, Opened(open_file()))
    await ask(wire)


async def test_a_reply_that_is_there_when_its_call_is_cancelled_leaks_nothing(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.call, OpenSocket(1, 2, 0, ()), Opened)
        request_id, _request = await worker.take()
        worker.answer(request_id, Opened(open_file()))
        tasks.cancel_scope.cancel()
    await ask(wire)


async def test_a_call_that_is_cancelled_before_it_begins_sends_nothing(wire: Wire) -> None:
    client, worker = wire
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.call(Unshare(1), Done)
    with pytest.raises(BlockingIOError):
        worker.take_now()


async def test_a_request_that_was_begun_can_be_given_up_before_and_after_its_reply(wire: Wire) -> None:
    client, worker = wire
    early, late = [await client.begin(OpenSocket(1, 2, number, ())) for number in range(2)]
    client.abandon(early)
    for _ in range(2):
        request_id, _request = await worker.take()
        worker.answer(request_id, Opened(open_file()))
    await ask(wire)  # reads both replies
    client.abandon(late)


async def test_another_call_reads_when_the_one_that_read_is_cancelled(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            ids = await taken(worker, 5)
            await calls.cancel(0)
            answer(worker, ids, 0, 1, 2, 3, 4)
    assert calls.outcomes == {number: number for number in range(1, 5)}


async def test_reading_is_taken_over_again_and_again(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            ids = await taken(worker, 5)
            for number in range(4):
                await calls.cancel(number)
            answer(worker, ids, 4)
    assert calls.outcomes == {4: 4}


async def test_calls_that_do_not_read_may_be_cancelled_as_well(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            ids = await taken(worker, 5)
            for number in (3, 1):
                await calls.cancel(number)
            answer(worker, ids, *range(5))
    assert calls.outcomes == {number: number for number in (0, 2, 4)}


async def test_all_calls_cancelled_at_once_leave_a_connection_that_works(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(*range(20))
        ids = await taken(worker, 20)
        tasks.cancel_scope.cancel()
    answer(worker, ids, *range(20))
    await ask(wire)
    assert calls.outcomes == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_that_is_cancelled_just_as_it_takes_over_passes_the_reading_on(wire: Wire) -> None:
    """asyncio's own cancellation reaches also a task that was woken and has not run yet; anyio's and trio's do not."""
    client, worker = wire

    async def call(number: int) -> int:
        return (await client.call(GetNamespaceID(number, "net"), Identified)).inode

    async def call_and_cancel_the_next() -> None:
        await call(0)
        second.cancel()

    first = asyncio.create_task(call_and_cancel_the_next())
    second, third = asyncio.create_task(call(1)), asyncio.create_task(call(2))
    ids = await taken(worker, 3)
    answer(worker, ids, 0)
    await first
    answer(worker, ids, 2)
    async with asyncio.timeout(2):
        assert await third == 2
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_all_calls_learn_that_the_worker_has_ended(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            await taken(worker, 5)
            worker.die()
    assert calls.outcomes == dict.fromkeys(range(5), Disconnected)
    assert client.lost


async def test_all_calls_learn_that_the_worker_has_ended_without_reading_them(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            await anyio.wait_all_tasks_blocked()
            worker.die()  # with requests unread: ECONNRESET
    assert calls.outcomes == dict.fromkeys(range(5), Disconnected)


@pytest.mark.parametrize("unread", [False, True], ids=["EOF", "ECONNRESET"])
async def test_what_a_worker_answered_before_it_ended_arrives(wire: Wire, unread: bool) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(3))
            ids = await taken(worker, 2 if unread else 3)
            answered = list(ids)[1]
            answer(worker, ids, answered)
            worker.die()
    assert calls.outcomes == {**dict.fromkeys(range(3), Disconnected), answered: answered}


@pytest.mark.parametrize("knows", [False, True], ids=["not noticed yet", "noticed"])
async def test_a_call_to_a_worker_that_has_ended_learns_of_it(wire: Wire, knows: bool) -> None:
    client, worker = wire
    worker.die()
    for _ in range(2 if knows else 1):
        with pytest.raises(Disconnected):
            await client.call(Unshare(1), Done)


async def test_closing_ends_all_calls(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(5))
            await taken(worker, 5)
            client.close()
    assert calls.outcomes == dict.fromkeys(range(5), anyio.ClosedResourceError)


async def test_a_closed_client_takes_no_calls_and_may_be_closed_again(wire: Wire) -> None:
    client, _worker = wire
    client.close()
    client.close()
    with pytest.raises(anyio.ClosedResourceError):
        await client.call(Unshare(1), Done)


async def test_closing_ends_the_connection_for_the_worker(wire: Wire) -> None:
    client, worker = wire
    client.close()
    assert worker.socket.recv(1) == b""


async def test_the_kernels_refusal_comes_as_the_worker_put_it(wire: Wire) -> None:
    client, worker = wire
    failed = Failed(1, "unshare(CLONE_NEWNET)", None, "hint")
    request_id = await client.begin(Unshare(1))
    worker.answer(request_id, failed)
    with pytest.raises(Refused) as caught:
        await client.finish(request_id, Done)
    assert caught.value.failed == failed


async def test_a_request_that_made_no_sense_to_the_worker_is_a_protocol_error(wire: Wire) -> None:
    client, worker = wire
    request_id = await client.begin(Unshare(1))
    worker.answer(request_id, Rejected("it made no sense"))
    with pytest.raises(ProtocolError, match="it made no sense"):
        await client.finish(request_id, Done)


async def test_a_request_that_is_too_long_is_refused_and_the_connection_works(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _worker = wire
    monkeypatch.setattr(fdsocket, "LARGEST", 2 * INLINE_LIMIT)  # the real one takes a gigabyte
    with pytest.raises(ProtocolError, match="more than can be sent"):
        await client.call(SetClockOffset("x" * 2 * INLINE_LIMIT), Done)
    await ask(wire)


async def test_requests_and_replies_longer_than_a_packet_arrive(wire: Wire) -> None:
    client, worker = wire
    request_id = await client.begin(SetClockOffset("x" * 2**22))
    assert await worker.take() == (request_id, SetClockOffset("x" * 2**22))
    worker.answer(request_id, Rejected("y" * 2**19))
    with pytest.raises(ProtocolError, match=r"^y{524288}$"):
        await client.finish(request_id, Done)


async def test_a_request_with_too_many_descriptors_is_refused_and_the_connection_works(wire: Wire) -> None:
    client, _worker = wire
    with pytest.raises(ProtocolError, match="more than one message can carry"):
        await client.call(
            Spawn(
                arguments=(),
                environment=(),
                process_group=0,
                session=0,
                exit=0,
                stdin=0,
                stdout=0,
                stderr=0,
                passed=(0,) * MAX_DESCRIPTORS,
            ),
            Done,
        )
    await ask(wire)


async def test_a_request_with_a_closed_descriptor_is_refused_and_the_connection_works(wire: Wire) -> None:
    client, _worker = wire
    with pytest.raises(OSError, match="Bad file descriptor"):
        await client.call(CallFunction((), None, "", (-1,)), Done)
    await ask(wire)
