"""`aions unshare`: new namespaces."""

from __future__ import annotations

import argparse
import signal

from aions import Clock, Identity, MountFlag, Namespace, Propagation, Worker, open_worker
from aions._cli import mapping
from aions._cli.command import run as run_command
from aions._cli.ending import Ended
from aions._cli.options import NAMESPACES, Options, chosen, clock_offsets, id_number, signal_number

WHAT = "run a command in new namespaces"
USAGE = "[options] [--] [COMMAND …]"
EPILOG = "With --pid the command is a child of process 1, which collects orphans. With --mount no mount shows outside."


def add_options(options: Options) -> None:
    """Declare the options."""
    for letter, word in NAMESPACES.values():
        options.flag(letter, word, help=f"new {word.removeprefix('--')} namespace")
    mapping.add_options(options)
    options.flag("--keep-caps", help="with --user, keep capabilities also if not root inside")
    options.flag("-f", "--fork", help="keep SIGINT and SIGTERM from the command; it is always a child")
    options.flag("--forward-signals", help="pass SIGINT and SIGTERM on although --fork is given")
    options.optional(
        "--kill-child",
        metavar="SIGNAL",
        const=signal.SIGKILL,
        type=signal_number,
        help="what the command gets when aions ends before it (implies --fork; SIGKILL)",
    )
    options.value("--propagation", metavar="MODE", help="of mounts: private (if not given), slave, shared, unchanged")
    options.optional("--mount-proc", metavar="DIR", const="/proc", help="mount a new /proc (implies --mount)")
    options.value("-R", "--root", metavar="DIR", help="the command's root directory")
    options.value("-w", "--wd", metavar="DIR", help="its working directory, in that root")
    for clock in Clock:
        options.value(
            f"--{clock.value}", metavar="SECONDS", type=int, help=f"have the {clock.value} clock ahead (takes --time)"
        )
    options.value("-S", "--setuid", metavar="UID", type=id_number, help="its user")
    options.value("-G", "--setgid", metavar="GID", type=id_number, help="its group; it has no others then")


async def run(options: argparse.Namespace) -> Ended:
    """Run a command in new namespaces. Unless the options say whom to map, a new user namespace has no mappings.

    SECURITY: capabilities are kept in a new user namespace only, as by unshare(1): elsewhere they are those of the machine.
    """
    identity = mapping.identity(options)
    namespaces = _namespaces(options) if identity is None else _namespaces(options) | Namespace.USER
    if Namespace.USER in namespaces and identity is None:
        identity = Identity()
    async with open_worker(
        unshare=namespaces,
        identity=identity or Identity.root,
        propagation=None if options.propagation == "unchanged" else options.propagation or Propagation.PRIVATE,
        clock_offsets=clock_offsets(options),
    ) as worker:
        await _prepare(worker, options)
        return await run_command(
            worker,
            options.command,
            kept_back=_kept_back(options),
            ending=options.ending,
            user=options.setuid,
            group=options.setgid,
            extra_groups=None if options.setgid is None else (),
            keep_capabilities=options.keep_caps and Namespace.USER in namespaces,
        )


def _namespaces(options: argparse.Namespace) -> Namespace:
    namespaces = Namespace(0)
    for kind in chosen(options):
        namespaces |= kind
    if options.mount_proc is not None:
        namespaces |= Namespace.MOUNT
    return namespaces


async def _prepare(worker: Worker, options: argparse.Namespace) -> None:
    """Change root and working directory, then mount /proc: in this order, so that --mount-proc=DIR is a path inside."""
    directory = options.wd
    if options.root is not None:
        await worker.chroot(options.root)
        directory = directory or "/"
    if directory is not None:
        await worker.chdir(directory)
    if options.mount_proc is not None:
        await worker.mount("proc", options.mount_proc, "proc", MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC)


def _kept_back(options: argparse.Namespace) -> tuple[int, ...]:
    """Return what unshare(1) ignores while its child runs. Without a child, it would be the command itself that gets it."""
    has_child = options.fork or options.kill_child is not None
    return (signal.SIGINT, signal.SIGTERM) if has_child and not options.forward_signals else ()
