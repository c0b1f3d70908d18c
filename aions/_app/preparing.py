"""What a worker is given besides namespaces, as steps of one request each for before, and for after, it is inside."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence

from aions._app import apart
from aions._app.explain import explain, refusal
from aions._app.link import Link
from aions._app.membership import clock_offset
from aions._app.mount_values import Bind, Mount, Proc, Propagation
from aions._app.text import StrOrBytesPath, absolute, text
from aions._types import Clock, Namespace
from aions._wire import codec
from aions._wire.messages import JoinCgroup, Prepare, Prepared, Request, SetHostName, SetLimit, SetPropagation

Limits = Mapping[int, int | tuple[int, int]]
"""What the `resource` module calls limits: of RLIMIT_* both, or soft and hard."""

_BESIDE_A_NEW_ROOT = (Propagation.PRIVATE, Propagation.SLAVE)


async def prepare(worker: Link, steps: Sequence[Request]) -> None:
    """Have a worker take some steps, in one round trip.

    Raises:
        OSError: one was refused; those before it are done. A note says which.
    """
    if steps:
        _check(await worker.call(Prepare(codec.encode_steps(steps)), Prepared), steps, worker)


def _check(prepared: Prepared, steps: Sequence[Request], worker: Link) -> None:
    """Warn of what a worker has done in its own way, and raise what it could not do."""
    for note in prepared.notes:
        warnings.warn(note, RuntimeWarning, stacklevel=5)  # this, prepare, open_worker, Scope, and who opens it
    if prepared.errno:
        step = steps[min(prepared.step, len(steps) - 1)]
        error = refusal(prepared.errno, prepared.path)
        error = explain(error, step, prepared.call, worker.name, prepared.hint)
        if len(steps) > 1:
            error.add_note(f"It was step {prepared.step + 1} of {len(steps)}: {step!r:.300}")
        raise error


def limits_and_cgroups(rlimits: Limits, cgroup: StrOrBytesPath | Iterable[StrOrBytesPath]) -> list[Request]:
    """Make the steps that take what the app may, before the worker is in a user namespace."""
    cgroups = [cgroup] if isinstance(cgroup, str | bytes | os.PathLike) else cgroup
    return [
        *(JoinCgroup(absolute(directory)) for directory in cgroups),
        *(_limit(limit, *(both if isinstance(both, tuple) else (both, both))) for limit, both in rlimits.items()),
    ]


def _limit(limit: int, soft: int, hard: int) -> SetLimit:
    for number in (soft, hard):
        if not -1 <= number < 2**63:
            raise ValueError(f"a limit is 0 … {2**63 - 1}, or -1 for none, not {number}")
    return SetLimit(limit, soft, hard)


def clocks(kinds: Namespace, offsets: Mapping[Clock, float]) -> list[Request]:
    """Make the steps between the time namespace and the first process in it."""
    if offsets and Namespace.TIME not in kinds:
        raise ValueError("clock offsets are for a new time namespace: add Namespace.TIME to unshare")
    if not all(map(math.isfinite, offsets.values())):
        raise ValueError("a clock can be ahead by a finite number of seconds only")
    return [clock_offset(clock, *divmod(round(offset * 10**9), 10**9)) for clock, offset in offsets.items()]


def furnishing(
    kinds: Namespace,
    hostname: str | None,
    propagation: Propagation | str | None,
    root: StrOrBytesPath | None,
    mount_proc: bool | StrOrBytesPath,
    mounts: Iterable[Mount],
) -> list[Request]:
    """Make the steps of a worker that is inside."""
    if hostname is not None and Namespace.UTS not in kinds:
        raise ValueError("a host name is for a new UTS namespace: add Namespace.UTS to unshare")
    spread = None if propagation is None else Propagation(propagation)
    wanted = list(_in_order(root, mount_proc, mounts))
    if wanted and Namespace.MOUNT not in kinds:
        raise ValueError("a root and mounts are for a new mount namespace: add Namespace.MOUNT to unshare")
    attached = [mount._attach(kinds) for mount in wanted]
    roots = [step for step in attached if step.target == "/"]
    if roots and roots != attached[:1]:
        raise ValueError('what is mounted at "/" becomes the root: it must be the first, and the only one')
    if roots and spread not in _BESIDE_A_NEW_ROOT:
        raise ValueError("with a new root propagation must be private or slave: else the host would lose its own")
    return [
        *([SetHostName(text(hostname))] if hostname is not None else []),
        *([SetPropagation(spread.flag)] if spread is not None and Namespace.MOUNT in kinds else []),
        *attached,
    ]


def _in_order(root: StrOrBytesPath | None, mount_proc: bool | StrOrBytesPath, mounts: Iterable[Mount]) -> Iterable[Mount]:
    """Yield the root, then proc, then the others."""
    mounts = list(mounts)
    if root is not None:
        yield Bind(root, "/")
    elif mounts and mounts[0]._attach().target == "/":
        yield mounts.pop(0)
    if mount_proc is not False:
        yield Proc("/proc" if mount_proc is True else mount_proc, fallback=True)
    yield from mounts


async def bind_mount(worker: Link, bind: Bind) -> None:
    """Bind in a worker that is inside already: sources are its own, and its root stays."""
    if not text(bind.source).startswith("/"):
        raise ValueError(f"{bind.source!r} is no absolute path")
    step = bind._attach()
    if step.target == "/":
        raise ValueError('a mount at "/" becomes the root only in open_worker; see Worker.pivot_root')
    steps = codec.encode_steps([step])
    _check(await apart.call(worker, lambda may_wait: Prepare(steps, may_wait), Prepared), [step], worker)
