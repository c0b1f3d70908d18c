"""For programs of this directory: how they start, speak with the test, and run an event loop."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, TypeVarTuple

import anyio

T = TypeVar("T")
Args = TypeVarTuple("Args")

_DEBUG = False
"""asyncio's debug mode, which `-X dev` turns on, complains of whatever takes long: on a busy machine, everything."""


def start(scenarios: Mapping[str, Any]) -> None:
    """Call the scenario that the command line names, with the backend and whatever else stands there."""
    backend, name, *arguments = sys.argv[1:]
    scenarios[name](backend, *arguments)


def run(backend: str, function: Callable[[*Args], Awaitable[T]], *arguments: *Args) -> T:
    """Run an event loop."""
    if backend == "trio":
        return anyio.run(function, *arguments, backend="trio")
    options = {"use_uvloop": backend == "uvloop", "debug": _DEBUG}
    return anyio.run(function, *arguments, backend="asyncio", backend_options=options)


def new_loop(backend: str) -> asyncio.AbstractEventLoop:
    """Make an event loop to be driven by hand."""
    loop: asyncio.AbstractEventLoop
    if backend == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.set_debug(_DEBUG)
    return loop


def report(**facts: object) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def wait_for_the_test() -> None:
    """Block until the test says go on, or is gone."""
    sys.stdin.readline()
