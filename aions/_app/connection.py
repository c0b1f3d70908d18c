"""A worker or the forkserver at the other end of a client, with errors that say which; and how it is asked to fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable
from typing import TypeVar

import anyio

from aions._app.child import Child, Lifeline
from aions._app.client import Client, Disconnected, Refused
from aions._app.event_loop import check_loop, running_loop
from aions._app.explain import explain, refusal
from aions._errors import WorkerDied
from aions._wire.messages import Fork, Reply, Request, Started

T = TypeVar("T")
R = TypeVar("R", bound=Reply)


class Connection:
    """Where requests go. It belongs to the process and the event loop that made it: no others may speak on it."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = client.name = name
        self._app = os.getpid()
        self._loop = running_loop()

    async def call(
        self, request: Request, expected: type[R], explain_as: Request | None = None, on_behalf_of: Connection | None = None
    ) -> R:
        """Have a request answered.

        Args:
            request: what is asked.
            expected: the reply.
            explain_as: another request, if a refusal of that says better what this one is about.
            on_behalf_of: another worker, if a refusal is to name that.

        Raises:
            OSError: the kernel's refusal, explained.
            WorkerDied, ProtocolError, anyio.ClosedResourceError
        """
        self.check_owner()
        name = None if on_behalf_of is None else on_behalf_of.name
        return await self.explained(explain_as or request, self.client.call(request, expected), name)

    async def explained(self, request: Request, answer: Awaitable[T], name: str | None = None) -> T:
        """Await an answer; make what comes instead an error for the user, about this worker or one of another name."""
        name = name or self.name
        try:
            return await answer
        except Disconnected:
            raise await self.died() from None
        except anyio.ClosedResourceError:
            if not self.client.lost:
                raise
            raise await self.died() from None
        except Refused as refused:
            failed = refused.failed
        except OSError as error:
            raise explain(error, request, "", name) from error.__cause__
        raise explain(refusal(failed.errno, failed.path), request, failed.call, name, failed.hint)

    def drop(self) -> None:
        """Close a connection to what is gone, or is to go: calls that wait, and later ones, learn that it has ended."""
        self.client.lost = True
        self.client.close()

    async def died(self) -> Exception:
        """Make the error that says that the other side is gone."""
        return WorkerDied(f"{self.name} has ended")

    @property
    def is_owner(self) -> bool:
        """Whether this process made the connection; otherwise it is a fork of the one that did."""
        return os.getpid() == self._app

    def check_owner(self) -> None:
        """Refuse to work in a fork of the app, or in another event loop."""
        if not self.is_owner:
            raise RuntimeError(
                f"{self.name} belongs to process {self._app}; this is a fork of it, and needs workers of its own"
            )
        check_loop(self._loop, self.name)


class Birth:
    """A fork that is under way: asked of one process, to serve the app over a connection of its own."""

    def __init__(self, parent: Connection, request: Fork, request_id: int, ours: socket.socket, lifeline: Lifeline) -> None:
        self.parent = parent
        self._request = request
        self._request_id = request_id
        self._ours = ours
        self._lifeline = lifeline

    @classmethod
    async def begin(cls, parent: Connection, in_advance: bool = False) -> Birth:
        """Ask for a fork, without waiting for it; `in_advance`, if nobody will for a while."""
        parent.check_owner()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                lifeline = Lifeline()
            except BaseException:
                ours.close()
                raise
            try:
                request = Fork(in_advance, os.getpgrp(), os.getsid(0), theirs.fileno(), lifeline.theirs.fileno())
                request_id = await parent.explained(request, parent.client.begin(request))
            except BaseException:
                ours.close()
                lifeline.close()
                raise
            lifeline.theirs.close()
        return cls(parent, request, request_id, ours, lifeline)

    async def finish(self) -> tuple[Client, Child]:
        """Wait for it. Cancelled, it leaves nothing behind: without the app's ends the new worker ends too."""
        try:
            answer = self.parent.client.finish(self._request_id, Started)
            started = await self.parent.explained(self._request, answer)
        except BaseException:
            self._close()
            raise
        return Client(self._ours), Child(started.pid, started.pidfd, self._lifeline.ours)

    def abandon(self) -> None:
        """Let it go."""
        self.parent.client.abandon(self._request_id)
        self._close()

    def _close(self) -> None:
        self._ours.close()
        self._lifeline.close()
