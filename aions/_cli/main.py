"""What `aions` takes, and where it leads."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import anyio

from aions import AionsError
from aions._cli import doctor, nsenter, run, terminal, unshare
from aions._cli.ending import Ended, survive
from aions._cli.options import Options
from aions._version import __version__

_SUBCOMMANDS = {"run": run, "unshare": unshare, "nsenter": nsenter, "doctor": doctor}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and leave as the command that it ran has left."""
    name, options = _parsed(sys.argv[1:] if arguments is None else arguments)
    options.command = options.command or [os.environ.get("SHELL", "/bin/sh")]
    options.ending = None
    if options.kill_child not in (None, signal.SIGKILL):
        options.ending = survive(options.kill_child)
    try:
        with terminal.given_back():
            ended: Ended = anyio.run(_SUBCOMMANDS[name].run, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, AionsError, ValueError) as error:
        sys.exit(_complaint(name, error))
    ended.leave_likewise()


def _parsed(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="aions", description="Run a command in Linux namespaces.")
    parser.add_argument("--version", action="version", version=f"aions {__version__}")
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="{run,unshare,nsenter,doctor}")
    subcommands: dict[str, Options] = {}
    for name, module in _SUBCOMMANDS.items():
        what = module.WHAT
        subparser = subparsers.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            usage=f"aions {name} {module.USAGE}",
            epilog=module.EPILOG,
            allow_abbrev=False,
        )
        subparser.set_defaults(kill_child=None)
        module.add_options(subcommands.setdefault(name, Options(subparser)))
    if arguments and arguments[0] in subcommands:
        return arguments[0], subcommands[arguments[0]].parse(arguments[1:])
    parser.parse_args(arguments)  # --help, --version, or a complaint
    raise AssertionError


def _complaint(name: str, error: Exception) -> int:
    """Tell on stderr why it did not work; return the exit status, which for a command that cannot be run is the shell's."""
    notes = getattr(error, "__notes__", ())
    lines = [f"aions {name}: {error}", *(f"  {note}" for note in notes)]
    sys.stderr.write("\n".join(lines) + "\n")
    if isinstance(error, OSError) and any(note.startswith(("execve", "posix_spawn")) for note in notes):
        return 127 if isinstance(error, FileNotFoundError) else 126
    return 1
