"""Who a process is and what it may: set for a worker, read back for anybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aions._app.capabilities import Capabilities, Capability, mask
from aions._app.connection import Connection
from aions._app.link import Link
from aions._errors import ProtocolError
from aions._wire.messages import Contents, Done, ReadProcess, Restrict

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """Who a process is and what it may, as /proc/PID/status says it.

    The ids are those of the user namespace of whoever reads: the worker's own, or the app's. What has no number there is 65534.

    `users` and `groups` are real, effective, saved and of the file system. `extra_groups` are those that could not be dropped
    where `setgroups` is not allowed. `capabilities` are the effective ones.

    Kernel: credentials(7), capabilities(7), proc_pid_status(5).
    """

    users: tuple[int, ...]
    groups: tuple[int, ...]
    extra_groups: tuple[int, ...]
    setgroups: bool
    capabilities: Capability
    permitted: Capability
    inheritable: Capability
    bounding: Capability
    ambient: Capability
    no_new_privs: bool


def _credentials(status: str, setgroups: str) -> Credentials:
    lines = dict(line.split(":", 1) for line in status.splitlines())

    def ids(name: str) -> tuple[int, ...]:
        return tuple(map(int, lines[name].split()))

    def capabilities(name: str) -> Capability:
        return Capability(int(lines[name], 16))

    return Credentials(
        users=ids("Uid"),
        groups=ids("Gid"),
        extra_groups=ids("Groups"),
        setgroups=setgroups == "allow\n",
        capabilities=capabilities("CapEff"),
        permitted=capabilities("CapPrm"),
        inheritable=capabilities("CapInh"),
        bounding=capabilities("CapBnd"),
        ambient=capabilities("CapAmb"),
        no_new_privs=lines["NoNewPrivs"].strip() == "1",
    )


async def read(worker: Link, pid: int | None) -> Credentials:
    """Read who a process is: the worker itself, or, by the forkserver, any that the app sees."""
    status, setgroups = [await contents(worker, pid, file) for file in ("status", "setgroups")]
    return parsed(lambda: _credentials(status, setgroups))


async def contents(worker: Link, pid: int | None, file: str) -> str:
    """Read a file of /proc/PID: of the worker by itself, of any other process by the forkserver."""
    worker.check_open()
    at: Connection = worker if pid is None else worker.forkserver
    return (await at.call(ReadProcess(pid, file), Contents)).text


def parsed(parse: Callable[[], T]) -> T:
    """Make sense of what came. SECURITY: a worker in somebody else's namespaces may have sent anything."""
    try:
        return parse()
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"no such file in /proc: {error!r:.200}") from None


async def restrict(worker: Link, capabilities: Capabilities | None, keep_capabilities: bool, no_new_privs: bool) -> None:
    """Have the worker give up privileges."""
    await worker.call(Restrict(mask(capabilities), keep_capabilities, no_new_privs), Done)
