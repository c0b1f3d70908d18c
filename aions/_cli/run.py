"""`aions run`: the friendly front. A command by itself, with what bubblewrap's options let it have of this machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from aions import (
    Bind,
    Capability,
    Clock,
    Dev,
    Identity,
    Mount,
    Namespace,
    Overlay,
    Proc,
    Tmpfs,
    Worker,
    open_worker,
)
from aions._cli import job
from aions._cli.ending import Ended
from aions._cli.options import Options, clock_offsets

WHAT = "run a command by itself, with a read-only view of this machine"
USAGE = "[options] [--] [COMMAND …]"
EPILOG = ""

HELP = """\
usage: aions run [options] [--] [COMMAND …]

Run a command with a read-only view of this machine, a /tmp, /dev and /proc of
its own, no network, and no sight of other processes.

  --bind SRC DEST           SRC of this machine appears at DEST
  --ro-bind SRC DEST        ... and cannot be written to
  --tmpfs DEST              an empty directory, in memory
  --tmp-overlay DEST        DEST as it is; what is written to it vanishes
  --overlay UP WORK DEST    ... goes to the directory UP; WORK is an empty one
  --overlay-src SRC         SRC, not DEST, below the next overlay (repeatable)
  --proc DEST, --dev DEST   one more /proc, one more /dev
  --root DIR                DIR as / (read-only: --ro-bind DIR /)
  --wd DIR, --chdir DIR     start in DIR, not in the current directory
  --hostname NAME           what the machine is called inside
  --boottime S, --monotonic S   have a clock S seconds ahead
  --share-net               with the network of this machine
  -r, --map-root-user       be root inside; else you are yourself
  --cap-add CAP             with a capability inside, or ALL (repeatable)

  aions run make test
  aions run --bind . . --share-net git pull
  aions run --root ~/debian --hostname bookworm -r sh
"""

_FRESH = Namespace.USER | Namespace.PID | Namespace.MOUNT | Namespace.IPC | Namespace.UTS


def add_options(options: Options) -> None:
    """Declare the options. What is to be known of them is in HELP."""
    for names, values in _MOUNTS.items():
        options.values(names, metavar=values, dest="mounts", action=_AddMount)
    options.values("--overlay-src", metavar=("SRC",), dest="lower", action=_AddLower)
    options.value("--wd", "--chdir", metavar="DIR", help="")
    options.value("--hostname", metavar="NAME", help="")
    for clock in Clock:
        options.value(f"--{clock.value}", metavar="S", type=float, help="")
    options.flag("--share-net", help="")
    options.flag("-r", "--map-root-user", help="")
    options.repeatable("--cap-add", metavar="CAP", type=_capability, help="")
    options.explain(HELP)


_MOUNTS: dict[str, tuple[str, ...]] = {
    "--bind": ("SRC", "DEST"),
    "--ro-bind": ("SRC", "DEST"),
    "--tmpfs": ("DEST",),
    "--tmp-overlay": ("DEST",),
    "--overlay": ("UP", "WORK", "DEST"),
    "--proc": ("DEST",),
    "--dev": ("DEST",),
    "--root": ("DIR",),
}


class _AddMount(argparse.Action):
    """Adds a mount to those asked for: their order counts."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        paths = _absolute(self, values)
        options.mounts = (*options.mounts, _mount(str(option), paths, options.lower))
        if "overlay" in str(option):
            options.lower = ()


class _AddLower(argparse.Action):
    """Adds a directory to those below the next overlay."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        options.lower = (*options.lower, *_absolute(self, values))


def _absolute(option: argparse.Action, paths: Sequence[str]) -> list[str]:
    """Name paths from the root on. An empty one (of a variable that is not set, say) would be the working directory."""
    if "" in paths:
        raise argparse.ArgumentError(option, "an empty path")
    return list(map(os.path.abspath, paths))


def _capability(text: str) -> Capability:
    name = text.upper().removeprefix("CAP_")
    try:
        return ~Capability(0) if name == "ALL" else Capability[name]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is no capability") from None


def _mount(option: str, paths: Sequence[str], lower: Sequence[str]) -> Mount:
    """Make what an option asks for. The last directory below an overlay that was named is the topmost, as in bubblewrap."""
    *others, target = paths
    match option:
        case "--bind" | "--ro-bind":
            return Bind(others[0], target, read_only=option == "--ro-bind")
        case "--root":
            return Bind(target, "/")
        case "--tmp-overlay" | "--overlay":
            upper, work = others or (None, None)
            return Overlay(target, lower[::-1] or [target], upper=upper, work=work)
        case "--tmpfs":
            return Tmpfs(target)
    return Proc(target) if option == "--proc" else Dev(target)


async def run(options: argparse.Namespace) -> Ended:
    """Run a command in fresh namespaces, with the mounts that were asked for on top of those that it has anyway.

    SECURITY: with CAP_SYS_ADMIN it could make the view of this machine writable, so that nobody has any who does not ask.
    """
    if options.lower:
        raise ValueError("--overlay-src is for an overlay, and none follows it")
    unshare = _FRESH
    if not options.share_net:
        unshare |= Namespace.NETWORK
    clocks = clock_offsets(options)
    if clocks:
        unshare |= Namespace.TIME
    async with open_worker(
        unshare=unshare,
        identity=Identity.root if options.map_root_user else Identity.current,
        capabilities=options.cap_add,
        keep_capabilities=bool(options.cap_add),
        hostname=options.hostname,
        mounts=_all_mounts(options.mounts),
        clock_offsets=clocks,
        loopback=not options.share_net,
    ) as worker:
        await _start_in(worker, options.wd)
        return await job.run(worker, options.command)


def _all_mounts(asked_for: Sequence[Mount]) -> list[Mount]:
    """Begin with the root: one that was asked for, else this machine, read-only."""
    roots = [mount for mount in asked_for if mount.target == "/"]
    others = [mount for mount in asked_for if mount.target != "/"]
    if len(roots) > 1:
        raise ValueError("there can be one root")
    return [*(roots or [Bind("/", "/", read_only=True)]), Proc(fallback=True), Dev(), Tmpfs("/tmp"), *others]  # noqa: S108


async def _start_in(worker: Worker, directory: str | None) -> None:
    """Go to a directory; where none was asked for, to the current one, or tell who sits there that it has none."""
    if directory is not None:
        await worker.chdir(directory)
        return
    try:
        await worker.chdir(os.getcwd())
    except OSError:
        if sys.stderr.isatty():
            sys.stderr.write(f"aions run: {os.getcwd()} is not there inside, so it starts in /. To have it: --bind . .\n")
