"""Calling a function in a worker, as `anyio.to_process` calls one in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar, TypeVarTuple, cast

import anyio
import anyio.to_process
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app.link import Link
from aions._app.pickling import pickled, unpickled, unpickled_from
from aions._errors import AionsError
from aions._wire.fdsocket import close_all
from aions._wire.messages import Called, CallFunction, GetNamespaceID, Identified
from aions._wire.payload import packed, unpacked

T = TypeVar("T")
Args = TypeVarTuple("Args")


async def call(
    worker: Link,
    function: Callable[[*Args], T],
    arguments: tuple[*Args],
    cancellable: bool,
    limiter: anyio.CapacityLimiter | None,
) -> T:
    """Call a function in the worker; in a fork of it, which can be killed, where it is to be cancellable."""
    await checkpoint_if_cancelled()
    payload, main = pickled((function, arguments))
    async with AsyncExitStack() as stack:
        if cancellable and limiter is None:
            limiter = anyio.to_process.current_default_process_limiter()
        if limiter is not None:
            await stack.enter_async_context(limiter)
        if cancellable:
            await _check_that_a_fork_may_end(worker)
            worker = await worker.fork()
            stack.push_async_callback(worker.aclose)
        with anyio.CancelScope(shield=not cancellable):
            returned, value = await _outcome(worker, payload, main)
    if returned:
        return cast(T, value)
    raise cast(BaseException, value)


async def _check_that_a_fork_may_end(worker: Link) -> None:
    """Refuse to have a fork for one call be the first process of a pid namespace, which would end with it."""
    if worker.next_child_is_first:
        try:
            await worker.call(GetNamespaceID(None, "pid_for_children"), Identified)
        except FileNotFoundError:
            raise AionsError(
                "the worker has unshared its pid namespace, and nothing runs there yet: a cancellable call would be its first "
                "process, and the namespace would end with the call. Open a fork first, which stays (Worker.fork)."
            ) from None


async def _outcome(worker: Link, payload: bytes, main: str | None) -> tuple[bool, object]:
    worker.has_children = True
    call, memfds = packed(payload)
    try:
        reply = await worker.call(CallFunction(tuple(sys.path), main, call, memfds), Called)
    finally:
        close_all(memfds)
    if reply.long_outcome:
        return await unpickled_from(*reply.long_outcome)
    return unpickled(unpacked(reply.outcome, ()))
