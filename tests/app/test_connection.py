"""What comes instead of an answer is an error that a user understands."""

from __future__ import annotations

import errno
import os
import socket

import anyio
import pytest

from aions import AionsError, WorkerDied
from aions._app.client import Client
from aions._app.connection import Birth, Connection
from aions._wire.messages import CallFunction, Done, Failed, Reply, Started, Unshare
from tests.app.fake_worker import FakeWorker, Wire, open_file


async def answered(wire: Wire, reply: Reply) -> None:
    """Make a call that gets this answer."""
    client, worker = wire

    async def serve() -> None:
        request_id, _request = await worker.take()
        worker.answer(request_id, reply)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            await Connection(client, "worker 7").call(Unshare(0x40000000), Done)
        except Exception as error:
            failure = error
        else:
            return
    raise failure


async def test_an_answer_is_returned(wire: Wire) -> None:
    await answered(wire, Done())


async def test_a_refusal_is_raised_as_python_would_with_what_is_known_about_it(wire: Wire) -> None:
    with pytest.raises(PermissionError) as caught:
        await answered(wire, Failed(errno.EPERM, "unshare(CLONE_NEWNET)", "/some/path", "A hint."))
    assert caught.value.filename == "/some/path"
    assert caught.value.__notes__[:2] == ["unshare(CLONE_NEWNET) was refused in worker 7.", "A hint."]
    assert any("Namespace.USER" in note for note in caught.value.__notes__)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("number", [0, -1, 2**40])
async def test_an_errno_that_is_none_is_an_error_all_the_same(wire: Wire, number: int) -> None:
    with pytest.raises((OSError, AionsError)):  # a worker in somebody else's namespaces may send what it likes
        await answered(wire, Failed(number, "", None, None))


async def test_a_descriptor_that_cannot_be_sent_is_explained_as_well(wire: Wire) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await Connection(wire[0], "worker 7").call(CallFunction((), None, "", (-1,)), Done)
    assert caught.value.__notes__ == ["CallFunction was refused in worker 7."]


async def test_a_worker_that_has_ended_is_named(wire: Wire) -> None:
    client, worker = wire
    worker.die()
    with pytest.raises(WorkerDied, match="the forkserver has ended"):
        await Connection(client, "the forkserver").call(Unshare(1), Done)


async def test_a_closed_connection_is_a_closed_resource(wire: Wire) -> None:
    wire[0].close()
    with pytest.raises(anyio.ClosedResourceError):
        await Connection(wire[0], "worker 7").call(Unshare(1), Done)


async def receive_fork(worker: FakeWorker) -> tuple[int, socket.socket, int]:
    """Take a request to fork: its id, the socket to serve, the lifeline."""
    await anyio.wait_readable(worker.socket)
    data, descriptors, _flags, _address = socket.recv_fds(worker.socket, 1000, 2)
    numbers = f'{{"in_advance":false,"process_group":{os.getpgrp()},"session":{os.getsid(0)}}}'
    assert data.decode() == f'["Fork",1,{numbers}]'
    return 1, socket.socket(fileno=descriptors[0]), descriptors[1]


async def test_a_fork_gets_a_connection_and_a_lifeline(wire: Wire) -> None:
    client, worker = wire
    birth = await Birth.begin(Connection(client, "worker 7"))
    request_id, theirs, lifeline = await receive_fork(worker)
    worker.answer(request_id, Started(4711, open_file()))
    new_client, child = await birth.finish()
    request_id = await new_client.begin(Unshare(1))
    with theirs:
        assert await FakeWorker(theirs).take() == (request_id, Unshare(1))
    os.write(lifeline, b"3")
    os.close(lifeline)
    assert (child.pid, await child.wait()) == (4711, 3)
    new_client.close()
    child.close()


async def test_a_fork_that_is_refused_leaves_nothing_behind(wire: Wire) -> None:
    client, worker = wire
    birth = await Birth.begin(Connection(client, "worker 7"))
    request_id, _request = await worker.take()
    worker.answer(request_id, Failed(errno.ENOMEM, "fork", None, None))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        await birth.finish()


async def test_a_fork_that_is_cancelled_leaves_nothing_behind(wire: Wire) -> None:
    client, worker = wire
    birth = await Birth.begin(Connection(client, "worker 7"))
    request_id, theirs, lifeline = await receive_fork(worker)
    with anyio.move_on_after(0.01):
        await birth.finish()
    with theirs:
        assert theirs.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        os.write(lifeline, b"0")
    os.close(lifeline)
    worker.answer(request_id, Started(4711, open_file()))
    with pytest.raises(WorkerDied):
        await _last_call(client, worker)


async def test_a_fork_that_is_given_up_leaves_nothing_behind(wire: Wire) -> None:
    client, worker = wire
    birth = await Birth.begin(Connection(client, "worker 7"))
    request_id, _request = await worker.take()
    birth.abandon()
    worker.answer(request_id, Started(4711, open_file()))
    with pytest.raises(WorkerDied):
        await _last_call(client, worker)


async def test_a_fork_that_cannot_be_asked_for_leaves_nothing_behind(wire: Wire) -> None:
    client, worker = wire
    worker.die()
    with pytest.raises(WorkerDied):
        await Birth.begin(Connection(client, "worker 7"))


async def _last_call(client: Client, worker: FakeWorker) -> None:
    """Read what the worker has sent, and then its end."""
    request_id = await client.begin(Unshare(1))
    await worker.take()
    worker.die()
    await Connection(client, "worker 7").explained(Unshare(1), client.finish(request_id, Done))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # other tests leave idle threads
def test_a_fork_of_the_app_must_not_speak() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        connection = Connection(Client(ours), "worker 7")
        connection.check_owner()
        pid = os.fork()
        if pid == 0:
            try:
                connection.check_owner()
            except RuntimeError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
