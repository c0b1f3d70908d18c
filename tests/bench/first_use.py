"""A fresh program: print the seconds from before its first use of aions until that is done. Run as a script, with a backend."""

from __future__ import annotations

import sys
import time

import anyio

import aions


async def first_use() -> float:
    await anyio.sleep(0)  # whatever a loop does first is not ours
    start = time.perf_counter()
    await aions.unshare(aions.Namespace.USER)
    return time.perf_counter() - start


if __name__ == "__main__":
    backend, options = sys.argv[1], {"use_uvloop": True} if sys.argv[2:] else {}
    sys.stdout.write(str(anyio.run(first_use, backend=backend, backend_options=options)))
