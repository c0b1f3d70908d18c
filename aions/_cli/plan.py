"""What `aions nsenter` is to do, found out before anything is entered: afterwards the paths would mean something else."""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aions import Namespace
from aions._cli.options import FOLLOW, chosen

_NS_GET_USERNS = 0xB701

Joined = tuple[int, Namespace]
"""A descriptor, of one namespace or of a process, and the namespaces to join by it."""


@dataclass(frozen=True)
class Plan:
    """Where the command is to be, and as whom.

    As in nsenter(1) `others` are entered first, with one's own privileges, and then `user_namespace`; what was refused before
    that is tried again after it, with the privileges that it gives.
    """

    user_namespace: tuple[Joined, ...]
    others: tuple[Joined, ...]
    root: str | None
    wd: str | None
    wdns: str | None
    environment: dict[str, str] | None
    user: int | None
    group: int | None
    group_was_named: bool
    followed: str | None

    def following(self, status: os.stat_result) -> Plan:
        """Name the ids of who is followed. KERNEL: `status`, of `followed`, has them as they are where it was taken: inside."""
        return replace(
            self,
            user=status.st_uid if self.user == FOLLOW else self.user,
            group=status.st_gid if self.group == FOLLOW else self.group,
        )

    def extra_groups(self, pid: int, held: list[int]) -> tuple[int, ...] | None:
        """Return the command's supplementary groups: none, if it can have none where process `pid`, which has some, is now."""
        if not held:
            return None
        may_be_set = self.group_was_named or Path(f"/proc/{pid}/setgroups").read_text().strip() == "allow"
        return () if self.group is not None and may_be_set else None


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Plan]:
    """Make the plan of what the options say. Its descriptors are open for the length of the `with` block."""
    with ExitStack() as stack:
        joined = tuple(_joined(options, stack))
        user_namespace = tuple(each for each in joined if Namespace.USER in each[1])
        as_root = 0 if user_namespace and not options.preserve_credentials else None
        yield Plan(
            user_namespace=user_namespace,
            others=tuple(each for each in joined if each not in user_namespace),
            root=_directory(options, options.root, "root"),
            wd=_directory(options, options.wd, "cwd"),
            wdns=options.wdns,
            environment=_environment(_target(options)) if options.env else None,
            user=as_root if options.setuid is None else options.setuid,
            group=as_root if options.setgid is None else options.setgid,
            group_was_named=options.setgid is not None,
            followed=f"/proc/{_target(options)}" if FOLLOW in (options.setuid, options.setgid) else None,
        )


def _joined(options: argparse.Namespace, stack: ExitStack) -> Iterator[Joined]:
    kinds = chosen(options)
    if options.all:
        kinds |= {kind: True for kind in Namespace if kind not in kinds and not _is_own(_target(options), kind)}
    if options.user_parent:
        if not kinds:
            raise ValueError("no namespace was named whose owner --user-parent could mean")
        yield _owner_of(next(iter(kinds.items())), options, stack), Namespace.USER
        kinds.pop(Namespace.USER, None)
    of_target = Namespace(0)
    for kind, path in kinds.items():
        if path is True:
            of_target |= kind
        else:
            yield _kept(os.open(path, os.O_RDONLY | os.O_CLOEXEC), stack), kind
    if of_target:
        pidfd = _kept(_pidfd(_target(options)), stack)
        for part in (of_target & Namespace.USER, of_target & ~Namespace.USER):
            if part:
                yield pidfd, part


def _owner_of(chosen: tuple[Namespace, str | bool], options: argparse.Namespace, stack: ExitStack) -> int:
    """Open the user namespace that owns another namespace; a user namespace is owned by its parent."""
    kind, path = chosen
    file = f"/proc/{_target(options)}/ns/{kind.kernel_name}" if path is True else str(path)
    with open(file) as nsfd:
        return _kept(fcntl.ioctl(nsfd, _NS_GET_USERNS), stack)


def _kept(descriptor: int, stack: ExitStack) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _target(options: argparse.Namespace) -> int:
    if options.target is None:
        raise ValueError("no process was named: --target PID")
    target: int = options.target
    return target


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        error.add_note(f"pidfd_open({pid}) was refused.")
        raise


def _is_own(pid: int, kind: Namespace) -> bool:
    return os.path.samefile(f"/proc/{pid}/ns/{kind.kernel_name}", f"/proc/self/ns/{kind.kernel_name}")


def _directory(options: argparse.Namespace, given: str | bool | None, name: str) -> str | None:
    return f"/proc/{_target(options)}/{name}" if given is True else given or None


def _environment(pid: int) -> dict[str, str]:
    """Read the environment that a process was started with."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(each).split("=", 1) for each in variables if b"=" in each)
