"""Calling a function in a worker, as `anyio.to_process` calls one in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar, TypeVarTuple, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app.link import Link
from aions._app.pickling import main_file, pickled, unpickled
from aions._wire.fdsocket import close_all
from aions._wire.messages import Called, CallFunction
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
    payload = pickled((function, arguments))
    async with AsyncExitStack() as stack:
        if limiter is not None:
            await stack.enter_async_context(limiter)
        if cancellable:
            worker = await worker.fork()
            stack.push_async_callback(worker.aclose)
        with anyio.CancelScope(shield=not cancellable):
            returned, value = await _outcome(worker, payload)
    if returned:
        return cast(T, value)
    raise cast(BaseException, value)


async def _outcome(worker: Link, payload: bytes) -> tuple[bool, object]:
    worker.has_children = True
    call, memfds = packed(payload)
    try:
        reply = await worker.call(CallFunction(tuple(sys.path), main_file(), call, memfds), Called)
    finally:
        close_all(memfds)
    try:
        outcome = unpacked(reply.outcome, reply.long_outcome)
    finally:
        close_all(reply.long_outcome)
    return unpickled(outcome)
