"""What may have to wait for somebody who never answers: done in a fork of the worker, so that no other call waits, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aions._app.link import Link
from aions._app.unwanted import close_unwanted
from aions._errors import ProtocolError
from aions._wire.messages import Reply, Request, WouldWait

R = TypeVar("R", bound=Reply)

_PATIENCE = 0.1
"""Seconds to wait for a fork that was sent SIGKILL. KERNEL: while a FUSE server has its request, it cannot end."""


async def call(worker: Link, request: Callable[[bool], Request], expected: type[R]) -> R:
    """Have the worker do what it can do at once; else have a fork of it do that, which ends when the call is cancelled.

    Args:
        worker: who is asked.
        request: makes the request, for somebody who may wait or who may not.
        expected: the reply.

    Where a fork would be the first process of a pid namespace, and so end that, the worker does it.
    """
    answer = await at_once(worker, request(False), expected)
    if answer is not None:
        return answer
    if worker.next_child_is_first:
        return await worker.call(request(True), expected)
    fork = await worker.fork()
    fork.patience = _PATIENCE
    try:
        answer = await fork.call(request(True), expected, on_behalf_of=worker)
    except BaseException:
        await fork.aclose()
        raise
    try:
        await fork.aclose()
    except BaseException:  # asyncio cancels also where anyio shields
        close_unwanted(answer.descriptors())
        raise
    return answer


async def at_once(worker: Link, request: Request, expected: type[R]) -> R | None:
    """Have a request answered; None where the worker would have to wait for somebody, and has not begun."""
    answer = await worker.call(request, Reply)
    if isinstance(answer, expected):
        return answer
    close_unwanted(answer.descriptors())
    if not isinstance(answer, WouldWait):
        raise ProtocolError(f"{type(answer).__name__} is no answer to what was asked")
    return None
