"""Telling options from the command as getopt_long(3) does, and reading their values."""

from __future__ import annotations

import argparse
import signal

import pytest

from aions import Namespace
from aions._cli.options import NAMESPACES, Options, chosen, id_number, signal_number


@pytest.fixture
def options() -> Options:
    options = Options(argparse.ArgumentParser(prog="test", allow_abbrev=False, exit_on_error=False))
    for kind, (letter, word) in NAMESPACES.items():
        if kind is not Namespace.PID:
            options.flag(letter, word, help="")
    options.optional("-p", "--pid", metavar="FILE", const=True, help="")
    options.value("-S", "--setuid", metavar="UID", type=id_number, help="")
    return options


@pytest.mark.parametrize(
    ("line", "kinds", "setuid", "command"),
    [
        ("", {}, None, ""),
        ("true", {}, None, "true"),
        ("-n true -u --pid", {"net": True}, None, "true -u --pid"),
        ("-nu --mount -- -i -n", {"net": True, "uts": True, "mnt": True}, None, "-i -n"),
        ("-- -- true", {}, None, "-- true"),
        ("- -n", {}, None, "- -n"),
        ("-p true", {"pid": True}, None, "true"),
        ("-np true", {"net": True, "pid": True}, None, "true"),
        ("-pn true", {"pid": "n"}, None, "true"),
        ("-p/file true", {"pid": "/file"}, None, "true"),
        ("--pid=/file --net true", {"pid": "/file", "net": True}, None, "true"),
        ("--pid true", {"pid": True}, None, "true"),
        ("--pid=-n true", {"pid": "-n"}, None, "true"),
        ("-S 7 true", {}, 7, "true"),
        ("-S7 true", {}, 7, "true"),
        ("-nS 7 -u true", {"net": True, "uts": True}, 7, "true"),
        ("--setuid 7 true", {}, 7, "true"),
        ("--setuid=7 true", {}, 7, "true"),
    ],
)
def test_options_end_where_the_command_begins(
    options: Options, line: str, kinds: dict[str, object], setuid: int | None, command: str
) -> None:
    parsed = options.parse(line.split())
    assert {kind.kernel_name: value for kind, value in chosen(parsed).items()} == kinds
    assert parsed.setuid == setuid
    assert parsed.command == command.split()


@pytest.mark.parametrize("line", ["--bogus", "-x true", "--net=file", "-S", "-S x true", "--setuid=-1", "--ne true"])
def test_what_is_no_option(options: Options, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        options.parse(line.split())


def test_a_kind_may_be_given_twice(options: Options) -> None:
    assert chosen(options.parse(["-n", "--net", "-n"])) == {Namespace.NETWORK: True}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("TERM", 15), ("SIGTERM", 15), ("term", 15), ("15", 15), ("KILL", 9), ("9", 9), ("CLD", 17)),
        *(("RTMIN", signal.SIGRTMIN), ("RTMIN+3", signal.SIGRTMIN + 3), ("SIGRTMAX", signal.SIGRTMAX)),
    ],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "99", "-9", "FOO", "SIG", "_DFL", "RTMIN+", "RTMIN+x", "TERM+1", "RTMAX+1"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no signal"):
        signal_number(text)


@pytest.mark.parametrize("text", ["", "-1", "x", "4294967295", "1.5"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is the id of no user or group"):
        id_number(text)
