"""Who this process is, its ids and its groups; and what /proc says of others."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from aions._sys import libc, namespaces
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, call
from aions._wire.messages import (
    BecomeOwner,
    BecomeRoot,
    Contents,
    Done,
    GetOwnerUID,
    GetRelatedNamespace,
    Identified,
    ReadProcess,
    User,
)
from aions._worker import late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from aions._worker.loop import Handlers, Server

ROOT = (0, 0, 0)


def become_root(server: Server, request: BecomeRoot) -> Done:
    if request.user:
        late.load()  # whoever that is outside may not read where that is
    take_root(server, request.user, request.group)
    server.renew()
    return Done()


def become_owner(server: Server, request: BecomeOwner) -> Done:
    """Become who is to own a user namespace, and may not read the memory of this process, which root has started.

    It is not sealed by that: it has done nothing yet, and only root becomes another owner, who can write its maps all the same.
    """
    late.load()  # while it may still read where that is
    user, group = request.user, request.group
    call(lambda: "setgroups(0, [])", os.setgroups, ())
    call(lambda: f"setresgid({group}, {group}, {group})", os.setresgid, group, group, group)
    call(lambda: f"setresuid({user}, {user}, {user})", os.setresuid, user, user, user)
    libc.set_dumpable(0)
    server.renew()
    return Done()


def user_namespace(server: Server) -> str:
    """Return the name of the user namespace that this process is in."""
    return os.readlink("self/ns/user", dir_fd=server.home.proc)


def take_root(server: Server, user: bool = True, group: bool = True) -> None:
    """Become user and group 0, if they are mapped, without other groups, if that is allowed."""
    server.seal()
    drop_groups(server)
    if group and os.getresgid() != ROOT:
        _take("setresgid", os.setresgid)
    if user and os.getresuid() != ROOT:
        _take("setresuid", os.setresuid)


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


def hindrance(server: Server) -> str | None:
    """Say what about this process may be why it was refused a namespace."""
    proc = server.home.proc
    if not procfs.read(proc, "self/uid_map") or not procfs.read(proc, "self/gid_map"):
        return "The worker is in a user namespace whose uid or gid map is not written."
    if "\nSeccomp:\t2\n" in procfs.read(proc, "self/status"):
        return "A seccomp filter is in force in the worker."
    return None


def read_process(server: Server, request: ReadProcess) -> Contents:
    pid = "self" if request.pid is None else request.pid
    return Contents(procfs.read(server.home.proc, f"{pid}/{request.file}"))


def get_related_namespace(server: Server, request: GetRelatedNamespace) -> Identified:
    with _given_or_opened(server, request, request.namespace) as nsfd:
        return Identified(*namespaces.identify_related(nsfd, request.relation))


def get_owner_uid(server: Server, request: GetOwnerUID) -> User:
    with _given_or_opened(server, request, "user") as nsfd:
        return User(namespaces.owner_uid(nsfd))


def _given_or_opened(server: Server, request: GetRelatedNamespace | GetOwnerUID, name: str) -> procfs.Opened:
    if request.given:
        return procfs.Opened(server.home.proc, f"self/fd/{request.given[0]}", os.O_RDONLY)
    return procfs.Opened(server.home.proc, f"{request.pid}/ns/{name}", os.O_RDONLY)


HANDLERS: Handlers = {
    "BecomeOwner": become_owner,
    "BecomeRoot": become_root,
    "GetOwnerUID": get_owner_uid,
    "GetRelatedNamespace": get_related_namespace,
    "ReadProcess": read_process,
}
