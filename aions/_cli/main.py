"""What `aions` takes, and where it leads."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

import anyio

from aions import AionsError, Namespace
from aions._cli import nsenter, unshare
from aions._cli.command import Ended
from aions._version import __version__

_OPTIONS = {
    Namespace.USER: ("-U", "--user"),
    Namespace.NETWORK: ("-n", "--net"),
    Namespace.MOUNT: ("-m", "--mount"),
    Namespace.PID: ("-p", "--pid"),
    Namespace.UTS: ("-u", "--uts"),
    Namespace.IPC: ("-i", "--ipc"),
    Namespace.CGROUP: ("-C", "--cgroup"),
    Namespace.TIME: ("-T", "--time"),
}
"""The letters and words of unshare(1) and nsenter(1)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and leave as the command that it ran has left."""
    options = _parser().parse_args(arguments)
    command: list[str] = options.command
    if command[:1] == ["--"]:
        del command[0]
    options.command = command or [os.environ.get("SHELL", "/bin/sh")]
    try:
        ended: Ended = anyio.run(options.coroutine, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, AionsError, ValueError) as error:
        sys.exit(_complaint(options.name, error))
    ended.leave_likewise()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aions", description="Run a command in Linux namespaces.")
    parser.add_argument("--version", action="version", version=f"aions {__version__}")
    subcommands = parser.add_subparsers(title="subcommands", required=True, metavar="{unshare,nsenter}")
    add = partial(_add_subcommand, subcommands)

    new = add("unshare", unshare.run, "run a command in new namespaces", "new {} namespace")
    new.add_argument("-r", "--map-root-user", action="store_true", help="be root in the user namespace (implies --user)")
    new.epilog = "With --pid the command is a child of process 1, which collects orphans. With --mount no mount shows outside."
    _add_command(new)

    enter = add("nsenter", nsenter.run, "run a command in the namespaces of a process", "enter its {} namespace")
    enter.add_argument("-t", "--target", type=int, required=True, metavar="PID", help="the process")
    enter.add_argument("-a", "--all", action="store_true", help="enter all namespaces that are not one's own already")
    _add_command(enter)
    return parser


def _add_subcommand(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, coroutine: object, what: str, each: str
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", allow_abbrev=False)
    parser.set_defaults(coroutine=coroutine, name=name, namespaces=Namespace(0))
    for namespace, (letter, word) in _OPTIONS.items():
        parser.add_argument(
            letter,
            word,
            dest="namespaces",
            action=_Collect,
            const=namespace,
            nargs=0,
            help=each.format(word.removeprefix("--")),
        )
    return parser


def _add_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …", help="what to run; else a shell ($SHELL)")


class _Collect(argparse.Action):
    """Adds a namespace to those asked for."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        _values: object,
        _option: str | None = None,
    ) -> None:
        options.namespaces |= self.const


def _complaint(name: str, error: Exception) -> int:
    """Tell on stderr why it did not work; return the exit status, which for a command that cannot be run is the shell's."""
    lines = [f"aions {name}: {error}", *(f"  {note}" for note in getattr(error, "__notes__", ()))]
    sys.stderr.write("\n".join(lines) + "\n")
    if isinstance(error, OSError) and any(
        note.startswith(("execve", "posix_spawn")) for note in getattr(error, "__notes__", ())
    ):
        return 127 if isinstance(error, FileNotFoundError) else 126
    return 1
