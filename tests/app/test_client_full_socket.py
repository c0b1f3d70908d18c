"""A worker that does not read or answer: calls wait until they may be sent, in their order, and read meanwhile."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial

import anyio
import pytest

from aions._app import client as client_module
from aions._app.client import MAX_UNANSWERED, Disconnected
from aions._wire import codec, fdsocket
from aions._wire.messages import (
    Done,
    Fork,
    GetNamespaceID,
    Identified,
    Opened,
    Rejected,
    Request,
    SetClockOffset,
    SetNamespace,
    Unshare,
)
from tests.app.fake_worker import Calls, FakeWorker, Wire, answer, ask, open_file, taken
from tests.wire.full_table import room_for

MORE_THAN_FIT = 500

LONG = SetClockOffset("x" * 8000)
"""A request of which the socket takes fewer than may be unanswered."""


def answer_all_there_is(worker: FakeWorker) -> list[int]:
    """Answer the requests that have come, and return their ids."""
    ids: list[int] = []
    while True:
        try:
            request_id, request = worker.take_now()
        except BlockingIOError:
            return ids
        ids.append(request_id)
        assert isinstance(request, GetNamespaceID)
        worker.answer(request_id, Identified(0, request.pid or 0, None))


async def answer_until(worker: FakeWorker, count: int) -> list[int]:
    ids: list[int] = []
    with anyio.fail_after(5):
        while len(ids) < count:
            await anyio.wait_readable(worker.socket)
            ids += answer_all_there_is(worker)
    return ids


async def fill(wire: Wire, request: Request = LONG) -> list[int]:
    """Send requests until no more may be, and return their ids: without a task that would wait."""
    client, _worker = wire
    ids = []
    while True:
        with anyio.CancelScope() as scope:
            scope.cancel()
            ids.append(await client.begin(request))
        if scope.cancelled_caught:
            return ids


async def test_senders_wait_and_get_through_in_their_order(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(*range(MORE_THAN_FIT))
        await anyio.wait_all_tasks_blocked()  # would not return if a sender blocked the loop
        ids = await answer_until(worker, MORE_THAN_FIT)
    assert ids == list(range(1, MORE_THAN_FIT + 1))
    assert calls.outcomes == {number: number for number in range(MORE_THAN_FIT)}


async def test_a_newcomer_does_not_overtake_those_who_wait(wire: Wire) -> None:
    client, worker = wire
    sent = await fill(wire)
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(0)
        await anyio.wait_all_tasks_blocked()
        for _ in sent:
            worker.take_now()
        await client.begin(Unshare(2))
        assert [(await worker.take())[1] for _ in range(2)] == [GetNamespaceID(0, "net"), Unshare(2)]
        tasks.cancel_scope.cancel()


async def test_the_tests_fill_the_socket(wire: Wire) -> None:
    ids = await fill(wire)
    assert 10 < len(ids) < MAX_UNANSWERED
    with pytest.raises(BlockingIOError):
        wire[0]._connection.send(b"x", socket.MSG_DONTWAIT)


async def test_replies_are_read_while_senders_wait(wire: Wire) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(0)
            request_id, _request = await worker.take()
            await fill(wire)
            calls.start(1)
            await anyio.wait_all_tasks_blocked()
            worker.answer(request_id, Identified(0, 0, None))
            await calls.end_of(0)
            assert calls.outcomes == {0: 0}
            tasks.cancel_scope.cancel()


async def test_a_sender_that_is_cancelled_sends_nothing_and_lets_the_next_one_send(wire: Wire) -> None:
    client, worker = wire
    sent = await fill(wire)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(0)
            await anyio.wait_all_tasks_blocked()
            calls.start(1)
            await anyio.wait_all_tasks_blocked()
            calls.start(2)
            await anyio.wait_all_tasks_blocked()
            await calls.cancel(1)
            await calls.cancel(0)
            for request_id in sent:
                assert worker.take_now()[0] == request_id
            request_id, request = await worker.take()
            assert request == GetNamespaceID(2, "net")
            worker.answer(request_id, Identified(0, 2, None))
    assert calls.outcomes == {2: 2}


async def test_a_sender_that_is_cancelled_leaves_a_connection_that_works(wire: Wire) -> None:
    _client, worker = wire
    for request_id in await fill(wire):  # which cancels its last one
        assert worker.take_now()[0] == request_id
    await ask(wire)


async def test_closing_ends_all_senders_that_wait(wire: Wire) -> None:
    client, _worker = wire
    await fill(wire)
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(3))
            await anyio.wait_all_tasks_blocked()
            client.close()
    assert calls.outcomes == dict.fromkeys(range(3), anyio.ClosedResourceError)


@pytest.mark.parametrize("closer_waits_first", [True, False])
async def test_closing_just_as_a_sender_may_send_ends_it_as_well(wire: Wire, closer_waits_first: bool) -> None:
    client, worker = wire
    sent = await fill(wire)
    same_socket = os.dup(client._connection.fileno())

    async def close_once_there_is_room() -> None:
        await anyio.wait_writable(same_socket)
        client.close()

    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            begin: list[Callable[[], object]] = [
                partial(tasks.start_soon, close_once_there_is_room),
                partial(calls.start, *range(3)),
            ]
            for waiter in begin if closer_waits_first else reversed(begin):
                waiter()
                await anyio.wait_all_tasks_blocked()
            for _ in sent:
                worker.take_now()
    os.close(same_socket)
    assert calls.outcomes == dict.fromkeys(range(3), anyio.ClosedResourceError)


async def test_the_end_of_the_worker_ends_all_senders_that_wait(wire: Wire) -> None:
    client, worker = wire
    await fill(wire)
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(3))
            await anyio.wait_all_tasks_blocked()
            worker.die()
    assert calls.outcomes == dict.fromkeys(range(3), Disconnected)


async def test_descriptors_of_requests_that_wait_are_sent_with_them(wire: Wire) -> None:
    client, worker = wire
    file = os.memfd_create("test")
    os.lseek(file, 99, os.SEEK_SET)
    sent = await fill(wire)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.begin, Fork(False, 0, 0, file, file))
        await anyio.wait_all_tasks_blocked()
        for _ in sent:
            worker.take_now()
        await anyio.wait_readable(worker.socket)
    _data, descriptors, _flags, _address = socket.recv_fds(worker.socket, 1000, 10)
    assert [os.lseek(descriptor, 0, os.SEEK_CUR) for descriptor in descriptors] == [99, 99]
    for descriptor in (file, *descriptors):
        os.close(descriptor)


async def test_a_request_that_waits_keeps_the_files_that_it_was_made_with(wire: Wire) -> None:
    """Not their numbers, which others may get meanwhile."""
    client, worker = wire
    file, other = os.memfd_create("file"), os.memfd_create("other")
    sent = await fill(wire)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.begin, SetNamespace(0, False, file))
        await anyio.wait_all_tasks_blocked()
        os.dup2(other, file)
        for _ in sent:
            worker.take_now()
        await anyio.wait_readable(worker.socket)
    _data, (descriptor,), _flags, _address = socket.recv_fds(worker.socket, 1000, 10)
    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:file")
    for number in (file, other, descriptor):
        os.close(number)


async def test_a_request_that_waits_and_finds_no_room_to_keep_its_files_is_refused(wire: Wire) -> None:
    client, _worker = wire
    await fill(wire)
    with room_for(1), anyio.fail_after(2), pytest.raises(OSError, match="Too many open files"):
        await client.begin(Fork(False, 0, 0, 0, 1))


async def test_too_many_descriptors_under_way_are_an_error_when_nobody_takes_them_out(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _worker = wire

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ETOOMANYREFS, "too many")

    with monkeypatch.context() as patch:
        patch.setattr(fdsocket, "send", refuse)
        patch.setattr(client_module, "_PATIENCE", 0.05)
        with anyio.fail_after(5), pytest.raises(OSError, match="Too many") as caught:
            await client.call(GetNamespaceID(None, "net"), Identified)
        assert caught.value.errno == errno.ETOOMANYREFS
    await ask(wire)


@pytest.mark.parametrize("request_", [Unshare(1), LONG], ids=["bound", "room"])
async def test_whatever_a_sender_waits_for_it_waits_in_its_turn(wire: Wire, request_: Request) -> None:
    client, worker = wire
    sent = await fill(wire, request_)
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        for number in range(3):
            calls.start(number)
            await anyio.wait_all_tasks_blocked()
        for request_id in sent:
            assert worker.take_now() == (request_id, request_)
            worker.answer(request_id, Done())
        answer(worker, await taken(worker, 3), 2, 1, 0)
    assert calls.outcomes == {number: number for number in range(3)}


async def test_no_more_requests_are_unanswered_than_the_rules_say(wire: Wire) -> None:
    """Also where all their calls were cancelled."""
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(*range(MAX_UNANSWERED))
        await anyio.wait_all_tasks_blocked()
        calls.start(MAX_UNANSWERED)
        await anyio.wait_all_tasks_blocked()
        ids = await taken(worker, MAX_UNANSWERED)
        with pytest.raises(BlockingIOError):
            worker.take_now()
        await calls.cancel(*range(MAX_UNANSWERED))
        with pytest.raises(BlockingIOError):
            worker.take_now()
        answer(worker, ids, 17)
        answer(worker, await taken(worker, 1), MAX_UNANSWERED)
        await calls.end_of(MAX_UNANSWERED)
        calls.start(*range(100, 102))
        await anyio.wait_all_tasks_blocked()
        await taken(worker, 1)
        with pytest.raises(BlockingIOError):
            worker.take_now()
        tasks.cancel_scope.cancel()


async def test_a_sender_has_its_turn_while_another_call_still_waits_and_reads(wire: Wire) -> None:
    client, worker = wire
    async with anyio.create_task_group() as tasks:
        calls = Calls(tasks, client)
        calls.start(0)
        await anyio.wait_all_tasks_blocked()
        ids = await taken(worker, 1)
        for request_id in await fill(wire, Unshare(1)):
            worker.take_now()
            client.abandon(request_id)
        calls.start(1)
        await anyio.wait_all_tasks_blocked()
        worker.answer(request_id, Done())
        ids |= await taken(worker, 1)
        answer(worker, ids, 1)
        await calls.end_of(1)
        answer(worker, ids, 0)
    assert calls.outcomes == {0: 0, 1: 1}


async def test_what_a_worker_could_not_read_counts_as_answered(wire: Wire) -> None:
    """It cannot say which request that was."""
    client, worker = wire
    for _ in range(3):
        sent = await fill(wire, Unshare(1))
        assert len(sent) >= MAX_UNANSWERED
        for request_id in sent:
            client.abandon(request_id)
            worker.take_now()
            worker.answer(0, Rejected("it could not be read"))


async def test_replies_to_cancelled_calls_are_read_before_the_next_request_is_sent(wire: Wire) -> None:
    client, worker = wire
    for _ in range(20):
        file = open_file()
        for request_id in await fill(wire, Unshare(1)):
            worker.take_now()
            client.abandon(request_id)
            worker.say(codec.encode(request_id, Opened(file)), [file])  # fails where the socket is full
        os.close(file)


async def answer_at_length(worker: FakeWorker) -> None:
    """Answer one request after the other, as a worker does, and take none while there is no room for an answer."""
    while True:
        await anyio.wait_readable(worker.socket)
        request_id, request = worker.take_now()
        reply = Identified(0, request.pid or 0, None) if isinstance(request, GetNamespaceID) else Done()
        while True:
            try:
                worker.say(codec.encode(request_id, reply, ["x" * 60_000]))
                break
            except BlockingIOError:
                await anyio.wait_writable(worker.socket)


@pytest.mark.parametrize("request_", [Unshare(1), LONG], ids=["bound", "room"])
async def test_a_worker_that_waits_for_room_gets_it_from_whoever_waits_here(wire: Wire, request_: Request) -> None:
    """Few of its replies fit into the socket."""
    client, worker = wire
    for request_id in await fill(wire, request_):
        client.abandon(request_id)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as callers:
            tasks.start_soon(answer_at_length, worker)
            calls = Calls(callers, client)
            calls.start(*range(MORE_THAN_FIT))
            for number in range(MORE_THAN_FIT):
                await calls.end_of(number)
            tasks.cancel_scope.cancel()
    assert calls.outcomes == {number: number for number in range(MORE_THAN_FIT)}
