"""The race of connection attempts, and what becomes of a connection that the peer resets before anybody has it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Any

import anyio
import pytest

from aions._app import connecting
from aions._app.names import Address

TARGETS: list[tuple[AddressFamily, Address]] = [(AF_INET6, ("::1", 1, 0, 0)), (AF_INET, ("127.0.0.1", 1))]


def test_one_of_each_family_comes_first_and_ipv6_before_ipv4() -> None:
    four, five, six, seven = (AF_INET, ("4", 1)), (AF_INET, ("5", 1)), (AF_INET6, ("6", 1)), (AF_INET6, ("7", 1))
    assert connecting._in_order([four, five, six, seven]) == [six, four, five, seven]


async def test_the_next_attempt_begins_after_the_delay_or_a_failure() -> None:
    async def connect(family: AddressFamily, _address: Address) -> socket.socket:
        began[family] = time.monotonic()
        if family == AF_INET:
            return socket.socket()
        if fails:
            raise ConnectionRefusedError
        await anyio.sleep_forever()
        raise AssertionError

    for fails, delay in ((False, 0.05), (True, 10)):
        began: dict[AddressFamily, float] = {}
        with anyio.fail_after(5):
            (await connecting._Race(connect, delay).run(TARGETS)).close()
        assert (began[AF_INET] - began[AF_INET6] > delay / 2) is not fails


@pytest.mark.parametrize("cancelled", [False, True])
async def test_who_comes_too_late_is_closed_and_so_is_a_winner_that_nobody_wants(cancelled: bool) -> None:
    """The later attempt does not mind that it is cancelled."""
    made: list[socket.socket] = []
    won, go_on = anyio.Event(), anyio.Event()

    async def connect(family: AddressFamily, _address: Address) -> socket.socket:
        with anyio.CancelScope(shield=True):
            if family == AF_INET6:
                await go_on.wait()
            else:
                won.set()
            made.append(socket.socket(family))
        return made[-1]

    results: list[Any] = []
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                results.append(await connecting._Race(connect, 0).run(TARGETS))

            tasks.start_soon(run)
            await won.wait()
            await anyio.wait_all_tasks_blocked()
            if cancelled:
                scope.cancel()
            go_on.set()
    assert results == made[:1] or (cancelled and not results)
    assert all(sock.fileno() < 0 for sock in made if sock not in results)
    for sock in results:
        sock.close()


@pytest.fixture
def reset() -> Iterator[socket.socket]:
    """A socket that was connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        accepted, _address = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        yield sock


async def test_a_reset_is_a_failure_to_connect_and_leaves_no_socket(reset: socket.socket) -> None:
    with pytest.raises(OSError, match=r"^All connection attempts failed$") as caught:
        await connecting._stream(reset)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert reset.fileno() == -1
