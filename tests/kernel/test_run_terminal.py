"""The command of `aions run` has a terminal and a session of its own; what it does there stays there."""

from __future__ import annotations

import inspect
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.screen import AIONS, PATIENCE, Screen
from tests.kernel.scripts import ROOT

PYTHON = os.path.realpath(sys.executable)
LEGACY_TIOCSTI = Path("/proc/sys/dev/tty/legacy_tiocsti")


class Terminal:
    """A pseudo-terminal with a program on it, whose controlling terminal it is."""

    def __init__(self, command: str) -> None:
        self.pid, self.keyboard = pty.fork()
        if self.pid == 0:
            os.environ["PYTHONPATH"] = str(ROOT)
            os.chdir("/")  # which is there inside
            os.execvp("bash", ["bash", "--norc", "-c", command])
        self.output = b""

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def expect(self, expected: bytes) -> None:
        """Read until something is there."""
        while expected not in self.output:
            assert select.select([self.keyboard], [], [], PATIENCE)[0], self.output
            self.output += os.read(self.keyboard, 65536)

    def end(self) -> tuple[int, str]:
        """Read all, wait, and return the exit status and the output."""
        while True:
            assert select.select([self.keyboard], [], [], PATIENCE)[0], self.output
            try:
                self.output += os.read(self.keyboard, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.keyboard)
        return os.waitstatus_to_exitcode(status), self.output.decode().replace("\r\n", "\n")


def at_a_terminal(command: str) -> str:
    """Run a shell command at a terminal and return what it prints."""
    status, output = Terminal(command).end()
    assert status == 0, output
    return output


def python(program: str) -> str:
    """Return a shell command that runs a program inside."""
    return f"{shlex.quote(PYTHON)} -c {shlex.quote(inspect.cleandoc(program))}"


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    with Screen(tmp_path) as screen:
        yield screen


TYPES = """
import fcntl, termios
try:
    for letter in b"typed\\n":
        fcntl.ioctl(0, termios.TIOCSTI, bytes([letter]))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("options", ["run", "unshare -r"])
def test_a_command_cannot_type_into_the_shell_that_called_us(options: str) -> None:
    """As it can where it has the terminal of that shell."""
    if options != "run" and LEGACY_TIOCSTI.exists() and LEGACY_TIOCSTI.read_text().strip() != "1" and os.geteuid() != 0:
        pytest.skip("this kernel lets nobody type")
    output = at_a_terminal(f"{AIONS} {options} {python(TYPES)}; read -t 1 line; echo GOT:$line")
    assert ("GOT:typed" in output) == (options != "run"), output


LOOKS = """
import os, sys
found = []
for number in range(3):
    found.append(f"{os.isatty(number) and os.ttyname(number)} {os.fstat(number).st_dev}")
try:
    tty = os.open("/dev/tty", os.O_RDWR)
    found.append(f"tty {os.ttyname(tty)}")
    os.close(tty)
except OSError as error:
    found.append(f"tty {error.strerror}")
found.append(f"session {os.getsid(0)}")
found.append(f"descriptors {len(os.listdir('/proc/self/fd'))}")
print(*found, sep="\\n", file=open(sys.argv[1], "w"))
"""
"""What the streams are, what /dev/tty is, which session it is in. (One descriptor is that of the directory.)"""


def test_the_terminal_has_a_name_inside() -> None:
    found = at_a_terminal(f"{AIONS} run tty; {AIONS} run {python(LOOKS)} /dev/stdout").splitlines()
    assert found[0] == "/dev/pts/0"
    assert [line.split()[0] for line in found[1:4]] == ["/dev/pts/0"] * 3
    assert found[4:] == ["tty /dev/tty", "session 1", "descriptors 4"]


@pytest.mark.parametrize("terminals", ["", "0", "1", "2", "01", "02", "12", "012"])
def test_streams_that_are_no_terminals_pass_through(tmp_path: Path, terminals: str) -> None:
    """And none that is one gets inside, however it was opened."""
    (tmp_path / "in").write_text("")
    redirected = {0: f"<{tmp_path}/in", 1: f">{tmp_path}/out", 2: f"2>{tmp_path}/err"}
    reopened = {0: "</dev/tty", 1: "", 2: "2>/dev/tty"}
    streams = " ".join((reopened if str(number) in terminals else redirected)[number] for number in range(3))
    mine = "python3 -c 'import os; print(os.fstat(0).st_dev)'"
    command = f"{AIONS} run --bind {tmp_path} {tmp_path} {python(LOOKS)} {tmp_path}/found {streams}"
    device = at_a_terminal(f"{mine}; {command}").splitlines()[0]
    *found, tty, session, descriptors = (tmp_path / "found").read_text().splitlines()
    names = ["/dev/pts/0" if str(number) in terminals else "False" for number in range(3)]
    assert [line.split()[0] for line in found] == names
    assert device not in [line.split()[1] for line in found]
    assert tty == ("tty /dev/tty" if terminals else "tty No such device or address")
    assert (session, descriptors) == ("session 1", "descriptors 4")


@pytest.mark.parametrize("options", ["--tmpfs /dev", "--bind /dev /dev"])
def test_without_a_dev_of_its_own_it_has_a_terminal_of_this_machines(options: str) -> None:
    program = "import os; print(os.isatty(0), os.isatty(1), os.isatty(2))"
    run = f"{AIONS} run {options}"
    output = at_a_terminal(f"{run} {python(program)}; {run} {python(TYPES)}; read -t 1 line; echo GOT:$line")
    assert output.startswith("True True True\n")
    assert "GOT:typed" not in output


def test_all_that_is_written_arrives_however_slow_the_reader() -> None:
    terminal = Terminal(f"{AIONS} run seq 100000")
    terminal.expect(b"1\r\n")
    chunks: list[bytes] = []
    while len(chunks) < 20:  # a screenful at a time, and then the rest at once
        chunks.append(os.read(terminal.keyboard, 100))
        time.sleep(0.005)
    terminal.output += b"".join(chunks)
    status, output = terminal.end()
    assert (status, output) == (0, "".join(f"{number}\n" for number in range(1, 100001)))


def test_what_is_still_under_way_when_a_command_ends_arrives(tmp_path: Path) -> None:
    """More than the caller's terminal takes while nobody reads from it, and less than both take."""
    script = f"seq 3000; touch {tmp_path}/written"
    terminal = Terminal(f"{AIONS} run --bind {tmp_path} {tmp_path} sh -c {shlex.quote(script)}")
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "written").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    status, output = terminal.end()
    assert (status, output) == (0, "".join(f"{number}\n" for number in range(1, 3001)))


@pytest.mark.parametrize("leaves", ["sleep 1000", "yes noise"])
def test_what_a_command_leaves_holds_up_nobody(leaves: str) -> None:
    assert "done\n" in at_a_terminal(f"{AIONS} run sh -c {shlex.quote(f'{leaves} & sleep 0.1; echo done')}")


def test_what_was_typed_ahead_is_the_commands() -> None:
    """Lines, the end of a file, and half a line, in this order; before the terminal is held, and after."""
    terminal = Terminal(f"echo ready; {AIONS} run sh -c 'cat; read line; echo got $line'")
    terminal.expect(b"ready")
    terminal.type(b"first\n\x04ha")
    terminal.expect(b"first\r\nhafirst\r\n")  # echoed, and echoed again by the terminal inside
    terminal.type(b"lf\n")
    status, output = terminal.end()
    assert (status, output.count("first"), output.endswith("got half\n")) == (0, 3, True), output


HALF_RAW = """
import os, signal, sys, termios, tty
before = termios.tcgetattr(0)
def set_raw(*_):
    tty.setraw(0)
    os.write(1, b"raw\\r\\n")
signal.signal(signal.SIGCONT, set_raw)
set_raw()
while (key := os.read(0, 1)) != b"q":
    if key == b"z":
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        os.kill(0, signal.SIGTSTP)
    else:
        os.write(1, b"<%d>\\r\\n" % key[0])
"""


@pytest.mark.needs("tmux")
def test_a_program_in_raw_mode_gets_every_key_and_can_suspend_itself(screen: Screen) -> None:
    modes = screen.run("stty -g", "outer> ")
    screen.enter(f"{AIONS} run {python(HALF_RAW)}")
    screen.expect("^raw")
    for key, code in (("C-c", 3), ("C-z", 26), ("C-d", 4), ("C-s", 19), ("Enter", 13)):
        screen.keys(key)
        screen.expect(f"^<{code}>")
    for _ in range(2):
        screen.keys("z")
        screen.expect("Stopped")
        screen.expect("^outer> ")
        assert screen.run("stty -g", "outer> ") == modes
        screen.enter("fg")
        screen.expect("^raw")
        screen.keys("x")
        screen.expect("^<120>")
    screen.keys("q")
    screen.expect("^outer> ")
    assert screen.run("stty -g", "outer> ") == modes


@pytest.mark.needs("tmux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_the_modes_are_given_back_however_a_command_ends(screen: Screen, number: signal.Signals) -> None:
    script = f"{AIONS} run sh -c 'stty raw -echo; kill -{number} $$'; [ $? = {128 + number} ] && stty -g"
    modes = screen.run("stty -g", "outer> ")
    screen.enter(f"sh -c {shlex.quote(script)}")  # unlike an interactive shell, it does not see to the modes
    screen.expect(f"^{modes}")


@pytest.mark.needs("tmux")
def test_the_modes_are_given_back_when_aions_is_told_to_end(screen: Screen) -> None:
    modes = screen.run("stty -g", "outer> ")
    script = f"echo $$; {AIONS} run sh -c 'stty raw -echo; echo rea\"\"dy; exec sleep 1000'; stty -g"
    screen.enter(f"sh -c {shlex.quote(script)}")
    shell = screen.expect(r"^(\d+)$")[1]
    screen.expect("ready$")
    os.kill(int(Path(f"/proc/{shell}/task/{shell}/children").read_text()), signal.SIGTERM)
    screen.expect(f"^{modes}")
    screen.expect("^outer> ")


@pytest.mark.needs("tmux")
def test_in_the_background_it_neither_reads_nor_changes_the_terminal(screen: Screen) -> None:
    """The shell has it meanwhile."""
    modes = screen.run("stty -g", "outer> ")
    screen.enter(f"{AIONS} run sh -c 'echo rea''dy; exec sleep 1000' &")
    screen.expect("ready$")
    screen.enter("")
    screen.expect("^outer> ")
    assert screen.run("stty -g", "outer> ") == modes
    assert screen.run("read line <<< typed; echo $line", "outer> ") == "typed"
    screen.enter("fg")
    screen.expect("exec sleep")
    screen.keys("C-c")
    screen.expect("^outer> ")
    assert screen.run("echo $?", "outer> ") == "130"
    assert screen.run("stty -g", "outer> ") == modes


@pytest.mark.needs("tmux")
def test_a_stopped_command_can_go_on_in_the_background(screen: Screen) -> None:
    screen.enter(f"{AIONS} run sh -c 'echo rea''dy; until [ -e /tmp/x ]; do sleep 0.1; done; read line; echo got $line'")
    screen.expect("^ready")
    screen.keys("C-z")
    screen.expect("Stopped")
    screen.expect("^outer> ")
    screen.enter("bg")
    screen.expect("^outer> ")
    screen.enter("jobs -r | wc -l")
    screen.expect("^1")
    screen.enter("kill -INT %1; wait; echo en''ded")
    screen.expect("^ended")


@pytest.mark.needs("tmux")
def test_who_is_at_the_other_end_of_a_pipe_has_the_terminal(screen: Screen) -> None:
    """As `less` has, unless the command wants it."""
    reads = "read line </dev/tty; echo rea''der got $line; cat >/dev/null"
    screen.enter(f"{AIONS} run sh -c 'echo rea''dy >&2; sleep 1000' | bash -c {shlex.quote(reads)}")
    screen.expect("^ready")
    screen.enter("for the reader")
    screen.expect("^reader got for the reader")
    screen.keys("C-c")
    screen.expect("^outer> ")

    wants = "read line </dev/tty; echo com''mand got $line $(cat)"
    screen.enter(f"echo piped | {AIONS} run bash -c {shlex.quote(wants)}")
    screen.expect("piped \\|")
    screen.enter("for the command")
    screen.expect("^command got for the command piped")
    screen.expect("^outer> ")


@pytest.mark.needs("tmux")
def test_keys_reach_all_of_a_command_that_has_no_terminal(screen: Screen, tmp_path: Path) -> None:
    """They are sent to us, and its process group is another one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = "echo $$ ready; sleep 1000; echo not interrupted"
    screen.enter(f"{AIONS} run sh -c {shlex.quote(script)} </dev/null >{tmp_path}/out 2>&1; echo status $?")
    while not (tmp_path / "out").exists() or "ready" not in (tmp_path / "out").read_text():
        time.sleep(0.01)
    screen.keys("C-z")
    screen.expect("Stopped")
    screen.expect("^outer> ")
    screen.enter("fg")
    screen.expect("not interrupted")
    screen.keys("C-c")
    screen.expect("^status 130|^outer> ")
    assert "not interrupted" not in (tmp_path / "out").read_text()


def test_the_caller_may_have_no_controlling_terminal() -> None:
    """Its streams are one all the same."""
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "aions", "run", "sh", "-c", "tty; read line; echo got $line"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        try:
            os.close(terminal)
            os.write(keyboard, b"typed\n")
            output = b""
            while b"got typed\r\n" not in output:
                assert select.select([keyboard], [], [], PATIENCE)[0], output
                output += os.read(keyboard, 4096)
            assert b"/dev/pts/0\r\n" in output
            assert process.wait() == 0
        finally:
            process.kill()
            os.close(keyboard)
