"""Calling a function in a worker, as `anyio.to_process` calls one in a process of its own."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar, TypeVarTuple, cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from aions._app.link import Link
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
    payload = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
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
        reply = await worker.call(CallFunction(tuple(sys.path), _main_file(), memfd), Called)
    finally:
        os.close(memfd)
    try:
        outcome = from_memfd(reply.outcome, largest=None)
    finally:
        os.close(reply.outcome)
    returned, value = _Unpickler(io.BytesIO(outcome)).load()
    return bool(returned), value


class _Unpickler(pickle.Unpickler):
    """Knows that what a worker calls __mp_main__ (so that its guard keeps it from running) is our __main__."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class("__main__" if module == "__mp_main__" else module, name)


def _main_file() -> str | None:
    path = getattr(sys.modules["__main__"], "__file__", None)
    return os.path.abspath(path) if path and os.path.isfile(path) else None
