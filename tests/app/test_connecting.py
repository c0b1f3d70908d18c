"""What becomes of a connection that the peer resets before anybody has it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from aions._app import connecting


@pytest.fixture
def reset() -> Iterator[socket.socket]:
    """A socket that was connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        accepted, _address = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        yield sock


async def test_it_is_a_failure_to_connect_and_leaves_no_socket(reset: socket.socket) -> None:
    with pytest.raises(OSError, match=r"^All connection attempts failed$") as caught:
        await connecting._stream(reset)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert reset.fileno() == -1
