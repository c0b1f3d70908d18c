"""Calling a function in a worker, as `anyio.to_process` calls one in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar, TypeVarTuple, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app.link import Link
from aions._app.pickling import main_file, pickled, unpickled
from aions._wire.fdsocket import from_memfd, to_memfd
from aions._wire.messages import Called, CallFunction

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
    memfd = to_memfd(payload)
    try:
        reply = await worker.call(CallFunction(tuple(sys.path), main_file(), memfd), Called)
    finally:
        os.close(memfd)
    try:
        outcome = from_memfd(reply.outcome, largest=None)
    finally:
        os.close(reply.outcome)
    return unpickled(outcome)
