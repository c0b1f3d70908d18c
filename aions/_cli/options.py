"""The options of the command line, and telling them from the command that follows."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aions import Clock, Namespace

NAMESPACES = {
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

FOLLOW = -1
"""In place of the id of a user or group: that of the target."""


class Options:
    """The options of one subcommand. They stand before the command, which is all that is left, if it takes one."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser
        self._takes_command = True
        self._actions: dict[str, argparse.Action] = {}

    def flag(self, *names: str, help: str) -> None:
        """Take an option that is there or not."""
        self._add(names, action="store_true", help=help)

    def value(self, *names: str, metavar: str, help: str, type: Callable[[str], Any] = str) -> None:
        """Take an option that needs a value."""
        self._add(names, metavar=metavar, type=type, help=help)

    def repeatable(self, *names: str, metavar: str, help: str, type: Callable[[str], Any]) -> None:
        """Take an option that needs a value, and may be given again: its value is a list."""
        self._add(names, action="append", default=[], metavar=metavar, type=type, help=help)

    def optional(self, *names: str, metavar: str, help: str, const: object, type: Callable[[str], Any] = str) -> None:
        """Take an option that may have a value (`--word=VALUE`, `-lVALUE`), and is `const` without one."""
        self._add(names, nargs="?", const=const, metavar=f"={metavar}", type=type, help=help)

    def values(self, *names: str, metavar: tuple[str, ...], dest: str, action: type[argparse.Action]) -> None:
        """Take an option that needs several values, and may be given again: `action` adds to what `dest` has so far."""
        self._add(names, nargs=len(metavar), metavar=metavar, dest=dest, default=(), action=action)

    def take_no_command(self) -> None:
        """Refuse whatever follows the options."""
        self._takes_command = False

    def explain(self, help: str) -> None:
        """Say this when asked for help, instead of what is known of each option."""
        self._parser.format_help = lambda: help  # type: ignore[method-assign]

    def _add(self, names: Sequence[str], **settings: Any) -> None:
        action = self._parser.add_argument(*names, **settings)
        self._actions |= dict.fromkeys(names, action)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse what follows the subcommand's name."""
        words, command = split(arguments, self._actions)
        options = self._parser.parse_args(words)
        if command and not self._takes_command:
            self._parser.error(f"it takes no arguments: {' '.join(command)}")
        options.command = command
        return options


def split(arguments: Sequence[str], actions: Mapping[str, argparse.Action]) -> tuple[list[str], list[str]]:
    """Separate options from the command as getopt_long(3) does for util-linux, which argparse cannot.

    The options come back in a form that only means one thing: each as one word, with `=` before its value.
    """
    options: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            options += _with_values(word, actions.get(word), rest)
        else:
            options += _letters(word[1:], actions, rest)
    return options, rest


def _letters(letters: str, actions: Mapping[str, argparse.Action], rest: list[str]) -> list[str]:
    """Take letters apart: one that may have a value takes all that follows it in the same word."""
    found = []
    while letters:
        letter, letters = f"-{letters[0]}", letters[1:]
        action = actions.get(letter)
        word = action.option_strings[-1] if action is not None else letter
        if action is not None and action.nargs != 0 and letters:
            found.append(f"{word}={letters}")
            break
        found += _with_values(word, action, rest)
    return found


def _with_values(word: str, action: argparse.Action | None, rest: list[str]) -> list[str]:
    """Give an option that needs values the next words."""
    if action is not None and action.nargs is None and rest:
        return [f"{word}={rest.pop(0)}"]
    count = action.nargs if action is not None and isinstance(action.nargs, int) else 0
    taken, rest[:count] = rest[:count], []
    return [word, *taken]


def chosen(options: argparse.Namespace) -> dict[Namespace, Any]:
    """Return the namespaces that were asked for, each with the value of its option."""
    values = {kind: getattr(options, word.removeprefix("--")) for kind, (_, word) in NAMESPACES.items()}
    return {kind: value for kind, value in values.items() if value not in (None, False)}


def clock_offsets(options: argparse.Namespace) -> dict[Clock, float]:
    """Return by how much clocks are to be ahead, where that was asked for."""
    offsets = {clock: getattr(options, clock.value) for clock in Clock}
    return {clock: offset for clock, offset in offsets.items() if offset is not None}


def id_number(text: str) -> int:
    """Read the id of a user or group."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**32 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is the id of no user or group")
    return number


def followed_id(text: str) -> int:
    """Read the id of a user or group, or the word for that of the target."""
    return FOLLOW if text == "follow" else id_number(text)


def signal_number(text: str) -> int:
    """Read a signal as kill(1) takes it: TERM, SIGTERM, 15, RTMIN+1."""
    name, plus, offset = text.upper().removeprefix("SIG").partition("+")
    number = int(name) if name.isdecimal() else getattr(signal, f"SIG{name}", -1)
    if plus:
        number = number + int(offset) if name == "RTMIN" and offset.isdecimal() else -1
    if number not in signal.valid_signals():
        raise argparse.ArgumentTypeError(f"{text!r} is no signal")
    return int(number)
