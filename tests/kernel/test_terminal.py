"""`aions run`, `unshare` and `nsenter` in a real terminal: job control, Ctrl-C, Ctrl-Z, its size, whose it is then."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.screen import AIONS, PATIENCE, SHELL, Screen

pytestmark = pytest.mark.needs("tmux")

UNSHARE = {
    "user": "unshare --map-root-user",
    "user and pid": "unshare --map-root-user --pid --fork --mount-proc",
    "no namespaces": "unshare",
}


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    with Screen(tmp_path) as screen:
        yield screen


@pytest.fixture
def target() -> Iterator[subprocess.Popen[bytes]]:
    """A process in namespaces that unshare(1) made, as those of somebody else."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen([*command, "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture(params=[*UNSHARE, "nsenter", "run"])
def inside(request: pytest.FixtureRequest, target: subprocess.Popen[bytes]) -> str:
    """The start of a command line that leads inside."""
    if request.param == "run":
        return f"{AIONS} run"
    if request.param == "nsenter":
        pid = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().strip()
        return f"{AIONS} nsenter --target {pid} --all"
    return f"{AIONS} {UNSHARE[request.param]}"


def test_a_shell_inside_has_job_control(screen: Screen, inside: str) -> None:
    modes = screen.run("stty -g", "outer> ")
    screen.enter(f"PS1='inner> ' {inside} -- {SHELL}")
    screen.expect("^inner> ")
    assert "job control" not in screen.text()

    screen.enter("sh -c 'echo rea''dy; exec sleep 1000'")
    screen.expect("^ready")  # it runs, in the foreground: a key that is pressed before that goes to the shell
    screen.keys("C-c")
    screen.expect("^inner> ")
    assert screen.run("echo $?", "inner> ") == "130"

    screen.enter("sh -c 'echo rea''dy; exec cat'")
    screen.expect("^ready")
    screen.keys("C-z")
    screen.expect("Stopped")
    screen.expect("^inner> ")
    screen.enter("fg")
    screen.expect("exec cat")
    screen.enter("once more")
    screen.expect("once more\nonce more")
    screen.keys("C-z")
    screen.expect("Stopped")
    screen.expect("^inner> ")
    assert "exec cat" in screen.run("jobs", "inner> ")
    screen.enter("kill %1; fg")
    screen.expect("erminated")
    screen.expect("^inner> ")

    screen.enter("exit 3")
    screen.expect("^outer> ")
    assert screen.run("echo $?", "outer> ") == "3"
    assert screen.run("stty -g", "outer> ") == modes


@pytest.mark.parametrize("stops", ["suspend", "kill -STOP $BASHPID"])
def test_a_shell_inside_can_be_suspended(screen: Screen, inside: str, stops: str) -> None:
    _suspends(screen, inside, stops)


@pytest.mark.parametrize("stops", ["suspend", "kill -STOP $BASHPID"])
def test_a_shell_that_is_told_of_our_end_can_be_suspended(screen: Screen, stops: str) -> None:
    _suspends(screen, f"{AIONS} unshare --map-root-user --kill-child", stops)


def _suspends(screen: Screen, inside: str, stops: str) -> None:
    screen.enter(f"PS1='inner> ' {inside} -- {SHELL}")
    screen.expect("^inner> ")
    for _ in range(2):
        screen.enter(stops)
        screen.expect("Stopped")
        screen.expect("^outer> ")
        assert screen.run("echo out''side", "outer> ") == "outside"
        screen.enter("fg")
        screen.expect("aions ")
        screen.enter("echo ba''ck")
        screen.expect("^back")
        screen.expect("^inner> ")
    screen.enter("exit")
    screen.expect("^outer> ")


@pytest.mark.parametrize("ends", ["exit", "kill -9 $BASHPID"])
def test_the_terminal_is_given_back(screen: Screen, inside: str, ends: str) -> None:
    """To who was in its foreground before, a script: unlike a shell with job control, that does not see to it by itself."""
    script = f"{inside} -- {SHELL}; ps -o stat= -p $$; read line; echo got $line"
    screen.enter(f"PS1='inner> ' sh -c {shlex.quote(script)}")
    screen.expect("^inner> ")
    screen.enter(ends)
    screen.expect(r"^[RS]N?\+")  # R: it may not have come to its read yet; N: the tests may be run by nice(1)
    screen.enter("hello")
    screen.expect("^got hello")
    screen.expect("^outer> ")


@pytest.mark.parametrize("options", ["unshare -r", "unshare -rp", "unshare", "run"])
def test_ctrl_c_ends_a_command(screen: Screen, options: str) -> None:
    screen.enter(f"{AIONS} {options} sh -c 'echo rea''dy; exec sleep 1000'")
    screen.expect("^ready")
    screen.keys("C-c")
    screen.expect("^outer> ")
    assert screen.run("echo $?", "outer> ") == "130"


@pytest.mark.parametrize("options", ["unshare -r", "unshare -rp", "unshare -rf", "unshare -r --kill-child=TERM", "run"])
def test_ctrl_c_reaches_a_command_once(screen: Screen, options: str) -> None:
    script = "trap 'echo caught' INT; echo rea''dy; while read line; do echo line $line; done; exit 4"
    screen.enter(f"{AIONS} {options} bash -c {shlex.quote(script)}")
    screen.expect("^ready")
    for _ in range(3):
        screen.keys("C-c")
        screen.expect("caught")
    screen.enter("more")
    screen.expect("line more")
    assert screen.text().count("caught") == 4  # with the one that was typed
    screen.keys("C-d")
    screen.expect("^outer> ")
    assert screen.run("echo $?", "outer> ") == "4"


@pytest.mark.parametrize("options", ["unshare -r", "unshare -rp", "unshare -r --kill-child=TERM", "run"])
def test_ctrl_z_stops_a_command_and_fg_continues_it(screen: Screen, options: str) -> None:
    screen.enter(f"{AIONS} {options} sh -c 'echo rea''dy; exec cat'")
    screen.expect("^ready")
    for word in ("once", "twice"):
        screen.keys("C-z")
        screen.expect("Stopped")
        screen.expect("^outer> ")
        screen.enter("fg")
        screen.expect("exec cat")
        screen.enter(word)
        screen.expect(f"^{word}\n{word}")
    screen.keys("C-z")
    screen.expect("Stopped")
    screen.expect("^outer> ")
    screen.enter("kill %1; fg")
    screen.expect("Terminated")
    screen.expect("^outer> ")
    assert screen.run("echo $?", "outer> ") == "143"


@pytest.mark.parametrize("options", ["unshare -r", "run"])
def test_ctrl_z_does_nothing_where_no_shell_could_continue_a_command(options: str) -> None:
    """As without us: the kernel does not stop an orphaned process group. (No tmux, which continues what is stopped.)"""
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "aions", *options.split(), "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(["setsid", "--ctty", *command], stdin=terminal, stdout=terminal, stderr=terminal) as process:
        try:
            os.close(terminal)
            printed(keyboard, b"ready")
            os.write(keyboard, b"\x1agoes on\n")
            printed(keyboard, b"goes on\r\ngoes on\r\n")
            os.write(keyboard, b"\x04")
            assert process.wait() == 0
        finally:
            process.kill()
            os.close(keyboard)


def printed(keyboard: int, expected: bytes) -> bytes:
    """Read what a terminal prints until something expected is there."""
    found = b""
    while expected not in found:
        assert select.select([keyboard], [], [], PATIENCE)[0], found
        found += os.read(keyboard, 4096)
    return found


def test_a_command_learns_of_the_terminals_size(screen: Screen, inside: str) -> None:
    script = "trap 'stty size' WINCH; echo rea''dy; while :; do sleep 0.05; done"
    screen.enter(f"{inside} bash -c {shlex.quote(script)}")
    screen.expect("^ready")
    screen.resize(100, 33)
    screen.expect("^33 100")
    screen.keys("C-c")
    screen.expect("^outer> ")


@pytest.mark.parametrize("options", ["unshare -rp", "run"])
def test_a_background_command_leaves_the_terminal_alone(screen: Screen, options: str) -> None:
    screen.enter(f"{AIONS} {options} sh -c 'echo bac''kground' & wait")
    screen.expect("^background")
    screen.expect("Done")
    screen.expect("^outer> ")
    assert screen.run("echo here", "outer> ") == "here"
    screen.enter(f"{AIONS} {options} cat &")
    screen.expect("^outer> ")
    screen.enter("until jobs -s | grep cat; do sleep 0.05; done")  # it wanted to read
    screen.expect("Stopped")
    screen.expect("^outer> ")
    screen.enter("fg")
    screen.expect(f"{options} cat")
    screen.enter("now")
    screen.expect("^now\nnow")
    screen.keys("C-d")
    screen.expect("^outer> ")
