"""Trying what this machine allows, in throw-away workers."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Awaitable, Callable
from errno import ENOSPC, EPERM
from subprocess import CalledProcessError
from typing import Any

from anyio import to_thread

from aions._app.findings import Finding, limited, missing, ok, refused
from aions._app.identity import Identity, IdentityLike
from aions._app.newidmap import PROGRAMS
from aions._app.opening import open_worker
from aions._app.switches import why_no_user_namespace
from aions._app.worker import Worker
from aions._errors import AionsError
from aions._types import GroupMapping, Namespace, UserMapping

_USES: dict[Namespace, dict[str, Any]] = {Namespace.NETWORK: {"loopback": True}, Namespace.UTS: {"hostname": "aions"}}
"""What takes capabilities inside: a security module may allow the namespaces, and not these. MOUNT has its propagation."""

_PIDFD_GET_NET_NAMESPACE = 0xFF04
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_SIZE = 64


async def all_findings() -> list[Finding]:
    """Try everything."""
    found = [await _namespace(kind) for kind in Namespace]
    if not await _is_refused(Namespace.USER):
        found += [await _tried(subject, trial) for subject, trial in _TRIALS.items()]
    async with open_worker() as worker:
        found += [await _namespace_ids(worker), _pidfd_namespaces(worker), _pidfd_info(worker)]
    return found


async def _is_refused(unshare: Namespace, identity: IdentityLike = Identity.root, **options: Any) -> Exception | None:
    """Open a worker and close it; return why that could not be."""
    try:
        async with open_worker(unshare=unshare, identity=identity, **options):
            return None
    except (OSError, AionsError, ValueError) as error:
        return error


async def _namespace(kind: Namespace) -> Finding:
    subject = f"{kind.kernel_name} namespace"
    uses = _USES.get(kind, {})
    alone = await _is_refused(kind, **uses)
    if alone is None:
        return ok(subject, "works")
    if kind is Namespace.USER:
        return _refused_by_a_switch(subject, alone)
    inside = await _is_refused(kind | Namespace.USER, **uses)
    if inside is None:
        return ok(subject, "works together with a user namespace")
    return _refused_by_a_switch(subject, inside)


def _refused_by_a_switch(subject: str, error: Exception) -> Finding:
    """Make a finding of why a namespace is refused; switches and quotas have these two errors."""
    return refused(subject, error, why_no_user_namespace() if getattr(error, "errno", None) in (EPERM, ENOSPC) else None)


async def _tried(subject: str, trial: Callable[[str], Awaitable[Finding]]) -> Finding:
    try:
        return await trial(subject)
    except (OSError, AionsError, ValueError) as error:
        return refused(subject, error)


async def _nesting(subject: str) -> Finding:
    levels = 1
    async with open_worker(unshare=Namespace.USER) as worker:
        try:
            while True:
                await worker.unshare(Namespace.USER)
                await worker.write_user_mappings(None, [UserMapping(0, 0, 1)])
                await worker.write_group_mappings(None, [GroupMapping(0, 0, 1)], deny_setgroups=True)
                levels += 1
        except OSError as error:
            if levels == 1:
                return refused(subject, error)
            return ok(subject, f"{levels} user namespaces inside each other, counted from here")


async def _fresh_proc(subject: str) -> Finding:
    async with open_worker(unshare=Namespace.USER | Namespace.PID | Namespace.MOUNT) as worker:
        try:
            await worker.run_process(["mount", "-t", "proc", "proc", "/proc"])
        except CalledProcessError as error:
            why = f"{error.stderr.decode(errors='replace').strip()} (parts of /proc are masked, as in containers)"
            return limited(subject, why, "in Docker or Podman: --security-opt systempaths=unconfined")
        except FileNotFoundError:
            return limited(subject, "not tried: there is no mount(8)", "apt install mount")
    return ok(subject, "can be mounted in a new pid namespace")


async def _ids(subject: str) -> Finding:
    """Try to have more ids inside than one's own."""
    if os.geteuid() == 0:
        error = await _is_refused(Namespace.USER, Identity.whole)
        return ok(subject, "root maps all that there are") if error is None else refused(subject, error)
    absent = [program for program in PROGRAMS.values() if await to_thread.run_sync(shutil.which, program) is None]
    if absent:
        return missing(subject, f"only your own: {' and '.join(absent)} not found", "apt install uidmap")
    error = await _is_refused(Namespace.USER, Identity.subordinate)
    if error is None:
        identity = await to_thread.run_sync(Identity.subordinate)
        count = sum(mapping.count for mapping in identity.user_mappings)
        return ok(subject, f"{count} users: your own and your subordinate ones, by newuidmap")
    return refused(subject, error)


async def _joining(subject: str) -> Finding:
    kinds = Namespace.USER | Namespace.UTS
    async with open_worker(unshare=kinds) as there, open_worker() as here:
        await here.enter_namespace(there.pid, kinds)
    return ok(subject, "several namespaces are joined at once")


_TRIALS = {"nesting": _nesting, "fresh /proc": _fresh_proc, "ids inside": _ids, "setns(pidfd)": _joining}


async def _namespace_ids(worker: Worker) -> Finding:
    found = await worker.get_namespace_id(None, Namespace.NETWORK)
    if found.id is None:
        return limited("NS_GET_ID", "a namespace is known by its inode only, which may be used again", "Linux 6.18 or later")
    return ok("NS_GET_ID", "namespaces have ids that are never used again")


def _pidfd_namespaces(worker: Worker) -> Finding:
    subject = "PIDFD_GET_*_NAMESPACE"
    try:
        os.close(fcntl.ioctl(worker.pidfd, _PIDFD_GET_NET_NAMESPACE))
    except OSError as error:
        return limited(subject, f"{error}; /proc/PID/ns is used instead", "Linux 6.11 or later")
    return ok(subject, "namespaces are found by pidfd")


def _pidfd_info(worker: Worker) -> Finding:
    subject = "PIDFD_GET_INFO"
    try:
        fcntl.ioctl(worker.pidfd, _PIDFD_GET_INFO, bytes(_PIDFD_INFO_SIZE))
    except OSError as error:
        return limited(subject, f"{error}; /proc/self/fdinfo is used instead", "Linux 6.13 or later")
    return ok(subject, "pids are found by pidfd")
