"""Who this process is: its ids and its groups."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from aions._sys import libc
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, call
from aions._wire.messages import BecomeRoot, Done

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from aions._worker.loop import Handlers, Server

ROOT = (0, 0, 0)


def become_root(server: Server, _request: BecomeRoot) -> Done:
    dumpable = libc.is_dumpable()
    drop_groups(server)
    if os.getresgid() != ROOT:
        _take("setresgid", os.setresgid)
    if os.getresuid() != ROOT:
        _take("setresuid", os.setresuid)
    if libc.is_dumpable() != dumpable:
        libc.set_dumpable(dumpable)
    server.end_with_parent()
    return Done()


def drop_groups(server: Server) -> None:
    """Leave the supplementary groups. KERNEL: before a gid map is written, setgroups is refused as if it were denied."""
    if os.getgroups() and procfs.read(server.home.proc, "self/setgroups") == "allow\n":
        _unless(EPERM, lambda: call(lambda: "setgroups(0, [])", os.setgroups, ()))


def _take(name: str, change: Callable[[int, int, int], None]) -> None:
    """Become 0. EINVAL: it is not mapped, so nobody can be it."""
    _unless(EINVAL, lambda: call(lambda: f"{name}(0, 0, 0)", change, *ROOT))


def _unless(number: int, function: Callable[[], None]) -> None:
    try:
        function()
    except KernelError as error:
        if error.errno != number:
            raise


HANDLERS: Handlers = {"BecomeRoot": become_root}
