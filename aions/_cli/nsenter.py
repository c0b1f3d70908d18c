"""`aions nsenter`: the namespaces of a process, or those that files stand for."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress

from aions import Worker, open_worker
from aions._cli import in_place
from aions._cli.command import run as run_command
from aions._cli.ending import Ended
from aions._cli.options import NAMESPACES, Options, followed_id
from aions._cli.plan import Joined, Plan, opened

WHAT = "run a command in the namespaces of a process"
USAGE = "[options] [--] [COMMAND …]"
EPILOG = "Where the user namespace is entered, the command is root there, unless --setuid and --setgid say otherwise."


def add_options(options: Options) -> None:
    """Declare the options."""
    options.value("-t", "--target", metavar="PID", type=int, help="the process")
    options.flag("-a", "--all", help="enter all namespaces that are not one's own already")
    for letter, word in NAMESPACES.values():
        name = word.removeprefix("--")
        options.optional(letter, word, metavar="FILE", const=True, help=f"enter its {name} namespace, or that of a file")
    options.optional("-r", "--root", metavar="DIR", const=True, help="take its root directory, or this one of here")
    options.optional("-w", "--wd", metavar="DIR", const=True, help="take its working directory, or this one of here")
    options.value("-W", "--wdns", metavar="DIR", help="take this working directory of there")
    options.flag("-e", "--env", help="take its environment")
    options.value("-S", "--setuid", metavar="UID", type=followed_id, help="the command's user; follow: the target's")
    options.value("-G", "--setgid", metavar="GID", type=followed_id, help="its group, likewise; it has no others then")
    options.flag("--preserve-credentials", help="stay who you are in a user namespace that is entered")
    options.flag("--keep-caps", help="with --user, keep capabilities also if not root there")
    options.flag("--user-parent", help="enter the user namespace that owns what is entered, or the parent of that one")
    options.flag("-F", "--no-fork", help="execute the command in place of aions; with --pid only its children are inside")


async def run(options: argparse.Namespace) -> Ended:
    """Run a command in namespaces of a process: as root there, where its user namespace is entered, as nsenter(1) does.

    SECURITY: capabilities are kept in a user namespace that is entered only: elsewhere they are those of the machine.
    """
    with opened(options) as plan:
        if options.no_fork and options.keep_caps:
            raise ValueError("--keep-caps is for a command that is a child: leave --no-fork out")
        if options.no_fork:
            in_place.execute(plan, options.command)
        async with open_worker() as worker:
            root, directory, followed = [await _open(worker, path) for path in (plan.root, plan.wd, plan.followed)]
            if plan.group is not None:
                with suppress(PermissionError):
                    await worker.run_sync(os.setgroups, ())  # inside that may be forbidden
            await _enter(worker, plan)
            if followed is not None:
                plan = plan.following(await worker.run_sync(os.fstat, followed))
            await _change_to(worker, root, directory)
            return await run_command(
                worker,
                options.command,
                cwd=plan.wdns,
                env=plan.environment,
                user=plan.user,
                group=plan.group,
                extra_groups=plan.extra_groups(worker.pid, await worker.run_sync(os.getgroups)),
                keep_capabilities=options.keep_caps and bool(plan.user_namespace),
            )


async def _open(worker: Worker, path: str | None) -> int | None:
    """Open a directory where the worker is before it enters anything, for later."""
    return None if path is None else await worker.run_sync(os.open, path, os.O_PATH | os.O_DIRECTORY)


async def _enter(worker: Worker, plan: Plan) -> None:
    refused = [each for each in plan.others if not await _entered(worker, each)]
    for descriptor, namespaces in (*plan.user_namespace, *refused):
        await worker.set_namespace(descriptor, namespaces, preserve_credentials=True)


async def _entered(worker: Worker, joined: Joined) -> bool:
    try:
        await worker.set_namespace(*joined, preserve_credentials=True)
    except PermissionError:
        return False
    return True


async def _change_to(worker: Worker, root: int | None, directory: int | None) -> None:
    if root is not None:
        await worker.run_sync(os.fchdir, root)
        await worker.run_sync(os.chroot, ".")
    if directory is not None:
        await worker.run_sync(os.fchdir, directory)
