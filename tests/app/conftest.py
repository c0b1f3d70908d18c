"""A connection of which the test is the other end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from aions._app.client import Client
from tests.app.fake_worker import FakeWorker, Wire


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A client, and the worker at the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = Client(ours)
    with theirs:
        yield client, FakeWorker(theirs)
        client.close()
