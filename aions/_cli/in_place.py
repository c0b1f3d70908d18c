"""`aions nsenter --no-fork`: this process itself enters, and becomes the command. No worker, no child: nobody is left to wait.

Where a pid namespace is entered the command thus stays outside of it, and only its children are inside. setns(2)
"""

from __future__ import annotations

import errno
import os
import signal
from typing import NoReturn

from aions import Namespace
from aions._cli.plan import Plan
from aions._sys import libc
from aions._sys.calls import KernelError


def execute(plan: Plan, command: list[str]) -> NoReturn:
    """Enter what is planned and become the command. This process must have one thread."""
    root, directory, followed = map(_opened, (plan.root, plan.wd, plan.followed))
    if plan.group is not None:
        _drop_groups(required=False)  # inside that may be forbidden
    libc.set_dumpable(0)  # SECURITY: whoever is there could take over what enters; exec undoes it
    try:
        _enter(plan)
    except KernelError as error:
        error.add_note(f"{error.call} was refused.")
        raise
    if followed is not None:
        plan = plan.following(os.fstat(followed))
    _change_to(root, directory, plan.wdns)
    _become(plan)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # which Python ignores
    environment = dict(os.environ) if plan.environment is None else plan.environment
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as error:
        error.filename = command[0]
        error.add_note(f"execve({command[0]!r}) was refused.")
        raise


def _opened(path: str | None) -> int | None:
    return None if path is None else os.open(path, os.O_PATH | os.O_DIRECTORY)


def _enter(plan: Plan) -> None:
    refused = [each for each in plan.others if not _entered(*each)]
    for descriptor, namespaces in (*plan.user_namespace, *refused):
        libc.setns(descriptor, namespaces.value)


def _entered(descriptor: int, namespaces: Namespace) -> bool:
    try:
        libc.setns(descriptor, namespaces.value)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        return False
    return True


def _change_to(root: int | None, directory: int | None, wdns: str | None) -> None:
    if root is not None:
        os.fchdir(root)
        os.chroot(".")
    if directory is not None:
        os.fchdir(directory)
    if wdns is not None:
        os.chdir(wdns)


def _become(plan: Plan) -> None:
    if plan.group is not None:
        _drop_groups(required=plan.group_was_named)
        os.setgid(plan.group)
    if plan.user is not None:
        os.setuid(plan.user)
    libc.set_dumpable(0)  # a change of credentials sets it to fs.suid_dumpable


def _drop_groups(required: bool) -> None:
    try:
        os.setgroups(())
    except PermissionError:
        if required and os.getgroups():
            raise
