"""What a worker says that it has called becomes lines of the logger, if somebody listens, and nothing worse."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import pytest

from aions._app.connection import Connection
from aions._wire import codec, fdsocket
from aions._wire.messages import REQUESTS, Done, Unshare
from tests.app.fake_worker import FakeWorker, Wire


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "aions"):
        yield caplog


async def answer_with_log(worker: FakeWorker, log: list[str] | None) -> list[str] | None:
    """Answer one request; return the log that came with it."""
    with anyio.fail_after(5):
        await anyio.wait_readable(worker.socket)
    packet = fdsocket.receive(worker.socket)
    assert packet is not None
    request_id, _ = codec.decode(packet, REQUESTS)
    worker.say(codec.encode(request_id, Done(), log))
    return packet.log


async def call(wire: Wire, log: list[str] | None) -> list[str] | None:
    client, worker = wire
    asked: list[list[str] | None] = []

    async def answer() -> None:
        asked.append(await answer_with_log(worker, log))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await Connection(client, "worker 7").call(Unshare(1), Done)
    return asked[0]


async def test_a_log_is_asked_for_and_written_where_somebody_listens(wire: Wire, heard: pytest.LogCaptureFixture) -> None:
    assert await call(wire, ["unshare(1) = 0", "prctl() = 0"]) == []
    assert [record.getMessage() for record in heard.records if record.name == "aions"] == [
        "worker 7: unshare(1) = 0",
        "worker 7: prctl() = 0",
    ]


async def test_nothing_is_asked_for_where_nobody_listens(wire: Wire) -> None:
    assert await call(wire, None) is None


async def test_a_worker_cannot_write_to_the_terminal_of_whoever_reads_the_log(
    wire: Wire, heard: pytest.LogCaptureFixture
) -> None:
    await call(wire, ["a\nforged line", "\x1b]0;title\x07", "\u202egnol", "%s%n"])
    assert [record.getMessage() for record in heard.records if record.name == "aions"] == [
        "worker 7: 'a\\nforged line'",
        "worker 7: '\\x1b]0;title\\x07'",
        "worker 7: '\\u202egnol'",
        "worker 7: %s%n",
    ]
