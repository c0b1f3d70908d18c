"""What makes no sense is refused before anything is sent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aions import Clock, GroupMapping, Namespace, UserMapping, Worker, open_worker
from tests.kernel.explained import works
from tests.kernel.targets import names_of_worker, on_one_loop

pytestmark = on_one_loop

Act = Callable[[Worker], Awaitable[Any]]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker where the app is, which has to work when the test is over."""
    async with open_worker() as worker:
        yield worker
        assert await works(worker)


BAD_VALUES: dict[str, tuple[str, Act]] = {
    "unshare nothing": ("no namespaces", lambda worker: worker.unshare(())),
    "unshare the empty flag": ("no namespaces", lambda worker: worker.unshare(Namespace(0))),
    "unshare an empty name": ("'' is no namespace", lambda worker: worker.unshare("")),
    "unshare an unknown name": ("'network' is no namespace; .* mnt, net,", lambda worker: worker.unshare("network")),
    "unshare one unknown name of two": ("'mount' is no namespace", lambda worker: worker.unshare(["net", "mount"])),
    "enter nothing": ("no namespaces", lambda worker: worker.enter_namespace(os.getpid(), [])),
    "enter an unknown name": ("'netz' is no namespace", lambda worker: worker.enter_namespace(os.getpid(), "netz")),
    "enter pid 0": ("0 is not the pid", lambda worker: worker.enter_namespace(0, "net")),
    "enter a negative pid": ("-1 is not the pid", lambda worker: worker.enter_namespace(-1, "net")),
    "set nothing": ("no namespaces", lambda worker: worker.set_namespace(0, ())),
    "identify two": ("not one namespace", lambda worker: worker.get_namespace_id(None, Namespace.NETWORK | Namespace.USER)),
    "identify an unknown name": ("'netz' is no namespace", lambda worker: worker.get_namespace_id(None, "netz")),
    "no mapping": ("at least one", lambda worker: worker.write_user_mappings(None, [])),
    "a mapping of no ids": ("count must be", lambda worker: worker.write_user_mappings(None, [UserMapping(0, 0, 0)])),
    "a negative id": ("inside ids must", lambda worker: worker.write_user_mappings(None, [UserMapping(-1, 0, 1)])),
    "an id that would be cut to 0": (
        "outside ids",
        lambda worker: worker.write_user_mappings(None, [UserMapping(0, 2**32, 1)]),
    ),
    "a group that would be": ("outside ids", lambda worker: worker.write_group_mappings(None, [GroupMapping(0, 2**32, 1)])),
    "overlap inside": (
        "overlap inside",
        lambda worker: worker.write_user_mappings(None, [UserMapping(0, 0, 2), UserMapping(1, 9, 1)]),
    ),
    "overlap outside": (
        "overlap outside",
        lambda worker: worker.write_group_mappings(None, [GroupMapping(0, 5, 1), GroupMapping(7, 0, 6)]),
    ),
    "the same twice": ("overlap", lambda worker: worker.write_user_mappings(None, [UserMapping(0, 0, 1)] * 2)),
    "341 mappings": (
        r"341 mappings of .* beyond the kernel's 340 lines",
        lambda worker: worker.write_user_mappings(None, [UserMapping(number, number, 1) for number in range(341)]),
    ),
    "over 4095 bytes": (
        r"200 mappings of 4800 bytes: .* 4095 bytes",
        lambda worker: worker.write_user_mappings(None, [UserMapping(10**9 + i, 10**9 + i, 1) for i in range(200)]),
    ),
    "a negative nanosecond": ("nanoseconds must be", lambda worker: worker.set_clock_offset(Clock.MONOTONIC, 0, -1)),
    "a second of nanoseconds": ("nanoseconds must be", lambda worker: worker.set_clock_offset(Clock.MONOTONIC, 0, 10**9)),
    "too many seconds": ("more than the kernel counts", lambda worker: worker.set_clock_offset(Clock.BOOTTIME, 2**63)),
    "no command": ("the command is empty", lambda worker: worker.run_process([])),
    "a NUL in a command": ("null byte|NUL", lambda worker: worker.run_process(["true", "a\0b"])),
    "a NUL in a directory": ("null byte|NUL", lambda worker: worker.run_process(["true"], cwd="/\0")),
    "a NUL in the environment": ("null byte|NUL", lambda worker: worker.run_process(["true"], env={"A": "\0"})),
    "an = in a name": ("environment variable name", lambda worker: worker.run_process(["true"], env={"A=B": "C"})),
    "a negative user": ("-5", lambda worker: worker.run_process(["true"], user=-5)),
    "groups in a string": ("string", lambda worker: worker.run_process(["true"], extra_groups="root")),
    "too many groups": ("65537", lambda worker: worker.run_process(["true"], extra_groups=range(65537))),
    "a negative descriptor": ("negative", lambda worker: worker.run_process(["true"], pass_fds=[-1])),
    "input and stdin": ("only one", lambda worker: worker.run_process(["cat"], input=b"a", stdin=subprocess.DEVNULL)),
    "something of Windows": ("Windows", lambda worker: worker.run_process(["true"], creationflags=1)),
}


@pytest.mark.parametrize(("said", "act"), BAD_VALUES.values(), ids=BAD_VALUES)
async def test_bad_values_are_value_errors(worker: Worker, said: str, act: Act) -> None:
    before = await names_of_worker(worker)
    with pytest.raises(ValueError, match=said):
        await act(worker)
    assert await names_of_worker(worker) == before


BAD_TYPES: dict[str, Act] = {
    "a number for a namespace": lambda worker: worker.unshare(Namespace.NETWORK.value),  # type: ignore[arg-type]
    "numbers for namespaces": lambda worker: worker.unshare([Namespace.NETWORK.value]),  # type: ignore[list-item]
    "None for a namespace": lambda worker: worker.unshare(None),  # type: ignore[arg-type]
    "a name for a pid": lambda worker: worker.enter_namespace("1", "net"),  # type: ignore[arg-type]
    "a name for a pid to identify": lambda worker: worker.get_namespace_id("self", "net"),  # type: ignore[arg-type]
    "a number for a command": lambda worker: worker.run_process(7),  # type: ignore[arg-type]
    "a number in a command": lambda worker: worker.run_process(["echo", 7]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("act", BAD_TYPES.values(), ids=BAD_TYPES)
async def test_bad_types_are_type_errors(worker: Worker, act: Act) -> None:
    with pytest.raises(TypeError):
        await act(worker)


async def test_a_umask_that_is_out_of_range(worker: Worker) -> None:
    with pytest.raises(OverflowError):
        await worker.run_process(["true"], umask=2**40)
