"""`aions unshare` and `aions nsenter` side by side with unshare(1) and nsenter(1): what a command finds, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests import marks

KINDS = ("user", "net", "mnt", "pid", "uts", "ipc", "cgroup", "time")

WHERE = "; ".join(
    (
        "id -u; id -g; pwd",
        *(f"[ $(readlink /proc/self/ns/{kind}) = ${kind} ] && echo same {kind} || echo other {kind}" for kind in KINDS),
    )
)
"""A script that tells who and where it is, and which namespaces are those of the test."""

OURS = [sys.executable, "-m", "aions"]
BOTH = {"util-linux": [], "aions": OURS}


def outcome(command: list[str], *arguments: str) -> tuple[str, int]:
    """Run a command line and return what it prints, and its exit status."""
    names = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    result = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **names}
    )
    return result.stdout, result.returncode


@pytest.mark.parametrize(
    "options",
    [
        *("", "-r", "-U", "-rn", "-rm", "-ru", "-ri", "-rC", "-rnmui", "--map-root-user --net --uts", "-rf", "-r --kill-child"),
        *("-r --kill-child=TERM", "-rmpf --mount-proc", "-rpf --mount-proc=/proc", "-rf -w /tmp", "-r --wd=/", "-r -w/tmp"),
        *("-rS0", "-r --setuid 0", "-r --setuid=1", "-n", "-r --wd=/nowhere", "-r --root /nowhere"),
        *(pytest.param(each, marks=pytest.mark.plain_user) for each in ("-rG0", "-r -S 0 -G 0")),  # root may set groups here
    ],
)
def test_unshare_leads_where_unshare_leads(options: str) -> None:
    command = ("unshare", *options.split(), "sh", "-c", WHERE)
    assert outcome(OURS, *command) == outcome([], *command)


@pytest.mark.needs("time_namespaces")
def test_unshare_time() -> None:
    command = ("unshare", "-rTf", "sh", "-c", WHERE)
    assert outcome(OURS, *command) == outcome([], *command)


@pytest.mark.needs("time_namespaces")
@pytest.mark.parametrize("options", ["--monotonic=1000 --boottime 2000", "--boottime=500", ""])
def test_unshare_clocks(options: str) -> None:
    command = ("unshare", "-rTf", *options.split(), "cat", "/proc/self/timens_offsets")
    assert outcome(OURS, *command) == outcome([], *command)


@pytest.mark.parametrize(
    "options", ["", *(f"--propagation {mode}" for mode in ("private", "slave", "shared", "unchanged", "no"))]
)
def test_unshare_propagation(options: str) -> None:
    """The two are compared where each mount is shared, with a process that stays there."""
    stays = ["sh", "-c", '"$@"; exit $?', "sh"]
    shared = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared", *stays]
    command = ("unshare", "-m", *options.split(), "sh", "-c", "cut -d' ' -f7 /proc/self/mountinfo | cut -d: -f1")
    assert outcome([*shared, *OURS], *command) == outcome(shared, *command)


@pytest.mark.needs("usr_as_root")
@pytest.mark.parametrize("options", ["-R /usr", "--root=/usr -w /share", "-R/usr -w share", "-mR /usr --wd=/nowhere"])
def test_unshare_root(options: str) -> None:
    command = ("unshare", "-r", *options.split(), "/bin/sh", "-c", "pwd; echo /*")
    assert outcome(OURS, *command) == outcome([], *command)


@pytest.mark.parametrize(
    "command", ["true", "sh -c 'exit 7'", "sh -c 'kill -USR1 $$'", "sh -c 'kill -TERM $$'", "no-such-program", "/etc/passwd"]
)
@pytest.mark.parametrize("options", ["-r", "-rf", "-r --kill-child=INT"])
def test_unshare_ends_as_unshare_ends(options: str, command: str) -> None:
    words = ("unshare", *options.split(), *shlex.split(command))
    assert outcome(OURS, *words) == outcome([], *words)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The pid of a process in namespaces that unshare(1) made, with a working directory of its own."""
    command = [
        "unshare",
        "--map-root-user",
        "--net",
        "--mount",
        "--uts",
        "--ipc",
        "--cgroup",
        "--pid",
        "--fork",
        "--kill-child",
    ]
    directory = tmp_path_factory.mktemp("directory")
    with marks.bearing(marks.NONE):
        started = subprocess.Popen([*command, "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE, cwd=directory)
    with started as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        process.kill()


@pytest.mark.parametrize(
    "options",
    [
        *(
            "-a",
            "--all",
            "-U",
            "-U -n",
            "--user --net --uts --ipc",
            "-U -m",
            "-U -p",
            "-U -p -F",
            "-U -n -F",
            "-U -n --no-fork",
        ),
        *("-U -w", "-a -w", "-a --wd=/usr", "-a -w/usr", "-a -W /usr", "-a --wdns=/usr -F", "-U -m -r", "-U -m -r -w"),
        *(
            "-U -n --root=/ -w",
            "-U -r -w/",
            "-U -S 0",
            "-U -m -S1",
            "-U --wd=/nowhere",
            "-U --net=/nowhere",
            "-n",
            "-U/proc/TARGET/ns/user",
        ),
        *("", "-w", "--wd=/usr", "-F -w", *(pytest.param(each, marks=pytest.mark.root) for each in ("-r -w", "-S 1"))),
        *("--user=/proc/TARGET/ns/user --net=/proc/TARGET/ns/net", "-U -n/proc/TARGET/ns/net -F"),
        pytest.param("-a -n/proc/self/ns/net", marks=pytest.mark.root),  # a plain user cannot enter his own again
    ],
)
def test_nsenter_leads_where_nsenter_leads(options: str, target: int) -> None:
    words = [*options.replace("TARGET", str(target)).split(), "sh", "-c", f"exec sh -c {shlex.quote(WHERE)}"]
    assert outcome(OURS, "nsenter", "-t", str(target), *words) == by_nsenter(target, *words)


def by_nsenter(target: int, *words: str) -> tuple[str, int]:
    """Have nsenter(1) do it.

    For a plain user it insists on setgroups(2), which is forbidden inside, and with --all on entering his own time namespace.
    """
    if os.geteuid() == 0:
        return outcome([], "nsenter", "-t", str(target), *words)
    letters = ("-U", "-n", "-m", "-u", "-i", "-C", "-p")
    plain = [each for word in words for each in (letters if word in ("-a", "--all") else [word])]
    return outcome([], "nsenter", "--preserve-credentials", "-t", str(target), *plain)


@pytest.mark.root
def test_nsenter_as_nobody(target: int) -> None:
    command = ("nsenter", "-t", str(target), "-n", "-S", "65534", "-G", "65534", "sh", "-c", f"id -G; {WHERE}")
    assert outcome(OURS, *command) == outcome([], *command)


@pytest.mark.needs("usr_as_root")
@pytest.mark.parametrize("option", ["", "-F"])
def test_nsenter_root(option: str, target: int) -> None:
    """nsenter(1) keeps a working directory outside of the root. Ours is inside, unless another is asked for."""
    options, script = ["-U", *option.split(), "--root=/usr"], ["/bin/sh", "-c", "pwd; echo /*"]
    ours = outcome(OURS, "nsenter", "-t", str(target), *options, *script)
    assert ours == by_nsenter(target, *options, "-w/usr", *script)
    assert ours[0].startswith("/\n")
    assert outcome(OURS, "nsenter", "-t", str(target), *options, "--wdns=share", "/bin/sh", "-c", "pwd") == ("/share\n", 0)


def test_nsenter_wants_to_know_where() -> None:
    for options in ("-n", "-n/proc/self/ns/net -r", "-n/proc/self/ns/net --env", "--all"):
        assert outcome(OURS, "nsenter", *options.split(), "true") == ("", 1)


@contextmanager
def running(*command: str, **options: Any) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Have a command run that says on its stdout when it is ready; kill it in the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process, process.stdout
        finally:
            process.kill()


CATCHES = "trap 'echo caught; exit 7' INT TERM; echo ready; while :; do sleep 0.01; done"


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("options", ["-r", "-rn"])
def test_sigterm_is_the_commands(tool: str, options: str) -> None:
    with running(*BOTH[tool], "unshare", options, "bash", "-c", CATCHES) as (process, stdout):
        process.terminate()
        assert stdout.readline() == b"caught\n"
        assert process.wait() == 7


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", ["-rf", "-r --kill-child", "-r --kill-child=TERM"])
def test_with_fork_sigterm_and_sigint_do_nothing(tool: str, number: signal.Signals, options: str) -> None:
    script = "trap 'echo caught' INT TERM; echo ready; read line; echo $line; read line; exit 5"
    command = [*BOTH[tool], "unshare", *options.split(), "bash", "-c", script]
    with running(*command, stdin=subprocess.PIPE) as (process, stdout):
        process.send_signal(number)
        if tool == "aions":
            wait_until_taken(process.pid, number)
        assert process.stdin is not None
        process.stdin.write(b"nothing\n")
        process.stdin.flush()
        assert stdout.readline() == b"nothing\n"
        process.stdin.close()
        assert process.wait() == 5


def wait_until_taken(pid: int, number: int) -> None:
    """Wait until a process has received a signal that it blocks."""
    while int(status(pid, "ShdPnd"), 16) & 1 << (number - 1):
        pass


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", ["--forward-signals", "-f --forward-signals", "-p --kill-child=HUP --forward-signals"])
def test_forward_signals(number: signal.Signals, options: str) -> None:
    """(util-linux has it since 2.42.)"""
    with running(*OURS, "unshare", "-r", *options.split(), "bash", "-c", CATCHES) as (process, stdout):
        process.send_signal(number)
        assert stdout.readline() == b"caught\n"
        assert process.wait() == 7


TOLD = "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.01; done"


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("options", ["-r --kill-child=TERM", "-rmp --mount-proc --kill-child=SIGTERM"])
def test_kill_child_is_what_a_command_gets_when_we_are_killed(tool: str, options: str) -> None:
    with running(*BOTH[tool], "unshare", *options.split(), "bash", "-c", TOLD) as (process, stdout):
        process.kill()
        assert stdout.read() == b"told\n"


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("options", ["-r --kill-child", "-rp --kill-child=KILL", "-rp --kill-child=SIGKILL"])
def test_kill_child_kills(tool: str, options: str) -> None:
    with running(*BOTH[tool], "unshare", *options.split(), "bash", "-c", TOLD) as (process, stdout):
        process.kill()
        assert stdout.read() == b""


@pytest.mark.parametrize("options", ["-r", "-rp"])
def test_without_kill_child_a_command_does_not_outlive_us_either(options: str) -> None:
    """Here unshare(1) is another: with --fork, its child does."""
    with running(*OURS, "unshare", options, "--fork", "bash", "-c", TOLD) as (process, stdout):
        process.kill()
        assert stdout.read() == b""


@pytest.mark.parametrize("option", ["-e", "--env -F"])
def test_nsenter_gives_the_environment_of_its_target(option: str) -> None:
    """(util-linux has it since 2.40.)"""
    environment = {**os.environ, "SEVERAL": "a=b\nc"}
    with running("unshare", "-r", "sh", "-c", "echo ready; exec sleep 1000", env=environment) as (process, _):
        printed, returncode = outcome(OURS, "nsenter", "-t", str(process.pid), "-U", *option.split(), "env", "-0")
        assert returncode == 0
        assert sorted(printed.split("\0")) == sorted(Path(f"/proc/{process.pid}/environ").read_text().split("\0"))
