"""What every test has: the three event loops, and a check that it left nothing behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # last, so that `aions` is the one that is installed: workers import tests.*

from tests import marks

marks.bear_mark_of_run()

BACKENDS: list[Any] = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


def marked_processes() -> set[str]:
    """Return the processes, other than this one, that tests have started: workers and commands alike."""
    found = set()
    for pid in marks.marked():
        try:
            found.add(f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
        except OSError:
            pass
    return found


def without_other_runs(lines: list[str]) -> list[str]:
    """Leave out the names that another run of the tests gives to networks and interfaces meanwhile: each has that run's pid."""
    of_others = re.compile(rf"\baions-(?!{os.getpid()}\b)[0-9]+\b")
    return [line for line in lines if of_others.search(line) is None]


def own_state() -> dict[str, object]:
    """Return what a test must leave as it found it."""
    descriptors = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass  # the one that listdir itself used
    return {
        "descriptors": descriptors,
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        "processes": marked_processes(),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
        "mounts": without_other_runs(Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": without_other_runs(sorted(os.listdir("/sys/class/net"))),
        "directory": os.getcwd(),
    }


@pytest.fixture(scope="session", autouse=True)
def warm_up() -> None:
    """Let each event loop open what it keeps for good, and undo what a shell has its background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for backend in BACKENDS:
        name, options = backend.values[0]
        anyio.run(anyio.sleep, 0, backend=name, backend_options=options)


@pytest.fixture(autouse=True)
def leak_check() -> Iterator[None]:
    """Fail a test that leaves descriptors, processes, mounts or links behind, or that moved this process."""
    deadline = time.monotonic() + 2
    while marked_processes() and time.monotonic() < deadline:
        time.sleep(0.01)
    before = own_state()
    yield
    deadline = time.monotonic() + 2
    while (after := own_state()) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert after == before
