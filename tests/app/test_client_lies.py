"""A worker that lies gets nowhere: its calls end with a `ProtocolError`, nothing leaks, and nobody else suffers."""

from __future__ import annotations

import array
import json
import os
import socket
from contextlib import suppress

import anyio
import pytest

from aions._app.client import Client, Disconnected
from aions._errors import ProtocolError
from aions._wire import codec
from aions._wire.fdsocket import INLINE_LIMIT, LARGEST_REPLY, to_memfd
from aions._wire.messages import Called, Done, Identified, Opened, OpenSocket, Started
from tests.app.fake_worker import Calls, FakeWorker, Wire, answer, ask, open_file, taken
from tests.app.waiting import attentive_loop
from tests.wire.full_table import room_for


def say(worker: FakeWorker, data: bytes, descriptors: int) -> None:
    """Send what a foreign program may send, with so many descriptors."""
    files = [open_file() for _ in range(descriptors)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    worker.socket.sendmsg([data], rights, socket.MSG_DONTWAIT)
    for file in files:
        os.close(file)


async def begin(client: Client) -> int:
    return await client.begin(OpenSocket(1, 2, 0, ()))


async def finish(client: Client, request_id: int) -> None:
    with anyio.fail_after(2):
        await client.finish(request_id, Opened)


LIES_ABOUT_A_REQUEST: dict[str, tuple[object, object]] = {
    "unknown message": ("Undone", {}),
    "a request": ("Unshare", {"namespaces": 1}),
    "field missing": ("Identified", {"device": 1, "inode": 1}),
    "field unknown": ("Done", {"more": 1}),
    "field of another type": ("Identified", {"device": "1", "inode": 1, "id": 1}),
    "name is no string": (["Done"], {}),
    "body is no object": ("Done", []),
    "a descriptor by its number": ("Opened", {"descriptor": 0}),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_A_REQUEST)
async def test_a_reply_that_is_no_message_ends_its_call_only(wire: Wire, lie: str) -> None:
    client, worker = wire
    other = await begin(client)
    name, body = LIES_ABOUT_A_REQUEST[lie]
    for descriptors in (0, 1, 100):
        request_id = await begin(client)
        say(worker, json.dumps([name, request_id, body]).encode(), descriptors)
        with pytest.raises(ProtocolError, match="no message"):
            await finish(client, request_id)
    worker.answer(other, Opened(open_file()))
    os.close((await client.finish(other, Opened)).descriptor)


async def test_a_reply_with_descriptors_too_many_or_too_few_ends_its_call(wire: Wire) -> None:
    client, worker = wire
    for name, count in (("Opened", 0), ("Opened", 2), ("Done", 1)):
        request_id = await begin(client)
        say(worker, json.dumps([name, request_id, {}]).encode(), count)
        with pytest.raises(ProtocolError, match="no message"):
            await finish(client, request_id)
        worker.take_now()
    await ask(wire)


async def test_a_reply_to_another_question_ends_its_call(wire: Wire) -> None:
    client, worker = wire
    for reply in (Done(), Identified(1, 1, 1), Started(1, open_file()), Called("", (open_file(),))):
        request_id = await begin(client)
        worker.answer(request_id, reply)
        with pytest.raises(ProtocolError, match=f"{type(reply).__name__} is no answer"):
            await finish(client, request_id)


NOBODYS: dict[str, bytes] = {
    "id 0": b'["Done",0,{}]',
    "id 0 with a descriptor": b'["Opened",0,{}]',
    "no id": b'["Done",null,{}]',
    "text for an id": b'["Done","1",{}]',
    "true for an id": b'["Done",true,{}]',
    "garbage": b"\x00\xff garbage",
    "deep": b"[" * 60_000,
    "said to be in a memfd": b"memfd",
    "too long": b"x" * (INLINE_LIMIT + 1),
}


@pytest.mark.parametrize("lie", NOBODYS)
@pytest.mark.parametrize("descriptors", [0, 100])
async def test_what_belongs_to_no_request_ends_all_calls(wire: Wire, lie: str, descriptors: int) -> None:
    client, worker = wire
    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            calls = Calls(tasks, client)
            calls.start(*range(3))
            ids = await taken(worker, 3)
            say(worker, NOBODYS[lie], descriptors)
    assert calls.outcomes == dict.fromkeys(range(3), ProtocolError)
    answer(worker, ids, *range(3))
    await ask(wire)


async def test_a_second_reply_is_dropped_with_its_descriptors(wire: Wire) -> None:
    client, worker = wire
    request_id = await begin(client)
    for _ in range(3):
        worker.answer(request_id, Opened(open_file()))
    os.close((await client.finish(request_id, Opened)).descriptor)
    worker.take_now()
    worker.answer(request_id, Opened(open_file()))
    await ask(wire)


async def test_a_reply_to_what_nobody_asked_is_dropped_with_its_descriptors(wire: Wire) -> None:
    _client, worker = wire
    for request_id in (-1, 99, 2**64 - 1, 10**100):
        worker.answer(request_id, Opened(open_file()))
    await ask(wire)


@pytest.mark.parametrize("descriptors", [0, 100])
async def test_an_empty_packet_counts_as_the_end(wire: Wire, descriptors: int) -> None:
    client, worker = wire
    request_id = await begin(client)
    say(worker, b"", descriptors)
    with pytest.raises(Disconnected):
        await finish(client, request_id)


async def test_a_memfd_that_would_keep_the_app_waiting_is_refused(wire: Wire) -> None:
    client, worker = wire
    request_id = await begin(client)
    reading, writing = os.pipe()
    worker.say(b"memfd", [reading])
    with pytest.raises(ProtocolError, match="no memfd"):
        await finish(client, request_id)
    os.close(reading)
    os.close(writing)


def packet_of(name: str, request_id: int, element: bytes) -> bytes:
    """Return a reply as long as one may be, of as many elements as possible."""
    head = f'["{name}",{request_id},{{"sockets":['.encode()
    return head + (element * (LARGEST_REPLY // len(element)))[: LARGEST_REPLY - len(head) - 100].rpartition(b",")[0] + b"]}]"


@pytest.mark.parametrize("size", [LARGEST_REPLY + 1, 3 * 2**30])
async def test_a_reply_that_is_too_long_ends_all_calls_and_is_not_read(wire: Wire, size: int) -> None:
    client, worker = wire
    async with attentive_loop(0.2):
        for _ in range(10):
            request_id = await begin(client)
            memfd = os.memfd_create("sparse")
            os.ftruncate(memfd, size)
            worker.say(b"memfd", [memfd])
            os.close(memfd)
            with pytest.raises(ProtocolError, match="more than is accepted"):
                await finish(client, request_id)


@pytest.mark.parametrize("element", [b"[],", b"{},", b"[[]],", b"0,", b'"",', b'{"a":0},', b"1.5,"])
@pytest.mark.parametrize("id_", [0, 1, 99], ids=["no request's", "the request's", "another's"])
async def test_replies_that_take_long_to_read_hold_up_nothing_else(wire: Wire, element: bytes, id_: int) -> None:
    client, worker = wire
    request_id = await begin(client)
    memfd = to_memfd(packet_of("OpenedInEach", id_, element))
    async with attentive_loop():
        for _ in range(20):
            worker.say(b"memfd", [memfd])
        worker.answer(request_id, Opened(open_file()))
        with suppress(ProtocolError), anyio.fail_after(20):
            os.close((await client.finish(request_id, Opened)).descriptor)
        with suppress(ProtocolError, Disconnected), anyio.fail_after(20):
            worker.die()
            await client.call(OpenSocket(1, 2, 0, ()), Opened)  # reads the rest
    os.close(memfd)


async def test_a_memfd_that_cannot_be_read_ends_all_calls(wire: Wire) -> None:
    client, worker = wire
    first, second = await begin(client), await begin(client)
    memfd = os.memfd_create("test")
    os.write(memfd, b"x")
    write_only = os.open(f"/proc/self/fd/{memfd}", os.O_WRONLY | os.O_CLOEXEC)
    worker.say(b"memfd", [write_only])
    for request_id in (first, second):
        with pytest.raises(ProtocolError):
            await finish(client, request_id)
    os.close(memfd)
    os.close(write_only)


async def test_an_app_without_room_for_the_descriptors_of_a_reply_is_told_so(wire: Wire) -> None:
    client, worker = wire
    request_id = await begin(client)
    file = open_file()
    with room_for(0):
        worker.say(codec.encode(request_id, Opened(file)), [file])
        with pytest.raises(OSError, match="Too many open files"):
            await finish(client, request_id)
    os.close(file)
    worker.take_now()
    await ask(wire)
