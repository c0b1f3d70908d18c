"""Importing modules once, in the forkserver, so that each worker has them from the start."""

from __future__ import annotations

import os
from collections.abc import Iterable

from aions._app import functions
from aions._app.home import Home
from aions._errors import AionsError


async def preload(home: Home, modules: Iterable[str]) -> None:
    """Import what is not there yet; whoever is forked from then on has it.

    Raises:
        AionsError: a module starts threads when it is imported, and a forkserver must have one.
        Whatever importing it raises.
    """
    if isinstance(modules, str):
        raise TypeError(f"preload takes the names of modules in an iterable, and {modules!r} is one string")
    names = tuple(modules)
    if not names:
        return
    async with home.preloading:
        missing = tuple(dict.fromkeys(name for name in names if name not in home.preloaded))
        if missing:
            await _try_out(home, missing)
            await home.preload(missing)


async def _try_out(home: Home, modules: tuple[str, ...]) -> None:
    """Import modules in a worker of their own first: what fails there has done no harm to the forkserver."""
    worker = await home.fork()
    try:
        for module in modules:
            await functions.call(worker, exec, ("__import__(name)", {"name": module}), cancellable=False, limiter=None)
            count = len(await functions.call(worker, os.listdir, ("/proc/self/task",), cancellable=False, limiter=None))
            if count > 1:
                raise AionsError(
                    f"importing {module} starts {count - 1} threads, which a fork would be without: it cannot be preloaded"
                )
    finally:
        await worker.aclose()
