"""`aions unshare` and `aions nsenter`, against unshare(1) and nsenter(1)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

NAMES = {"--user": "user", "--net": "net", "--mount": "mnt", "--uts": "uts", "--ipc": "ipc", "--cgroup": "cgroup"}
IDS = ["readlink", *(f"/proc/self/ns/{name}" for name in NAMES.values())]


def aions(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aions", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def links(*names: str, pid: int | str = "self") -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{name}") for name in names]


@pytest.fixture
def target() -> Iterator[subprocess.Popen[bytes]]:
    """A process in namespaces that unshare(1) made; it says so on stdout once it is there."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--uts", "--ipc", "--cgroup", "sh", "-c"]
    with subprocess.Popen([*command, "echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_unshare_makes_each_namespace_and_no_other() -> None:
    for option, name in NAMES.items():
        result = aions("unshare", "--map-root-user", option, *IDS)
        assert result.returncode == 0, result.stderr
        changed = set(result.stdout.split()) - set(links(*NAMES.values()))
        assert {link.split(":")[0] for link in changed} == {"user", name}


def test_unshare_gives_the_maps_that_unshare_gives() -> None:
    command = ["cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]
    for option in ("--user", "--map-root-user"):
        ours, theirs = aions("unshare", option, *command), subprocess.run(["unshare", option, *command], capture_output=True)
        assert ours.stdout.split()[:-1] == theirs.stdout.decode().split()[:-1]
    # unshare(1) always forbids setgroups, as it maps from inside; from outside, root need not
    assert ours.stdout.split()[-1] == ("allow" if os.geteuid() == 0 else "deny")


def test_unshare_pid_runs_the_command_inside() -> None:
    result = aions("unshare", "-rp", "sh", "-c", "echo $$; readlink /proc/self/ns/pid")
    number, link = result.stdout.split()
    assert int(number) > 1
    assert link != os.readlink("/proc/self/ns/pid")


@pytest.mark.needs("time_namespaces")
def test_unshare_time_runs_the_command_inside() -> None:
    assert aions("unshare", "-rT", "readlink", "/proc/self/ns/time").stdout.strip() != os.readlink("/proc/self/ns/time")


def test_nsenter_enters_all_that_differ(target: subprocess.Popen[bytes]) -> None:
    result = aions("nsenter", "--target", str(target.pid), "--all", "--", *IDS)
    assert result.stdout.split() == links(*NAMES.values(), pid=target.pid), result.stderr


def test_nsenter_enters_what_is_named(target: subprocess.Popen[bytes]) -> None:
    result = aions(
        "nsenter", "-t", str(target.pid), "-U", "-n", "sh", "-c", "id -u; readlink /proc/self/ns/net /proc/self/ns/uts"
    )
    assert result.stdout.split() == ["0", *links("net", pid=target.pid), *links("uts")], result.stderr


def test_nsenter_needs_a_process_that_lives(target: subprocess.Popen[bytes]) -> None:
    result = aions("nsenter", "-t", str(target.pid), "--user-parent", "true")
    assert (result.returncode, "no namespace was named" in result.stderr) == (1, True)
    target.kill()
    target.wait()
    result = aions("nsenter", "-t", str(target.pid), "-n", "true")
    assert (result.returncode, "No such process" in result.stderr) == (1, True)


def test_options_after_the_command_are_its_own() -> None:
    assert aions("unshare", "-r", "echo", "--net", "-x").stdout == "--net -x\n"
    assert aions("unshare", "-r", "--", "echo", "--", "-x").stdout == "-- -x\n"


def test_without_a_command_a_shell_runs() -> None:
    result = aions("unshare", "-r", input="id -u\n", env={**os.environ, "SHELL": "/bin/sh"})
    assert result.stdout == "0\n"


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_is_the_commands(status: int) -> None:
    assert aions("unshare", "-r", "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("options", ["-r", "-rp"])
def test_it_ends_by_the_signal_that_ended_the_command(number: signal.Signals, options: str) -> None:
    assert aions("unshare", options, "sh", "-c", f"kill -{number:d} $$").returncode == -number


def test_what_cannot_be_run() -> None:
    missing = aions("unshare", "-r", "no-such-command", env={"PATH": "/usr/bin:/bin"})
    assert (missing.returncode, "no-such-command" in missing.stderr) == (127, True)
    assert aions("unshare", "-r", "/etc/passwd").returncode == 126


@pytest.mark.plain_user
def test_a_refusal_says_what_to_do() -> None:
    result = aions("unshare", "--net", "true")
    assert result.returncode == 1
    assert "Operation not permitted" in result.stderr
    assert "add Namespace.USER" in result.stderr


PASSED_ON = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ALRM", "WINCH", "CONT", "RTMIN")


@pytest.mark.parametrize("number", [getattr(signal, f"SIG{name}") for name in PASSED_ON])
@pytest.mark.parametrize("options", ["-r", "-rp", "-r --kill-child=TERM --forward-signals"])
def test_signals_are_passed_on(number: signal.Signals, options: str) -> None:
    script = f"trap 'echo caught; exit 7' {number:d}; echo ready; while :; do sleep 0.01; done"
    command = [sys.executable, "-m", "aions", "unshare", *options.split(), "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"caught\n"
        assert process.wait() == 7


def test_a_worker_that_is_killed_takes_the_command_along() -> None:
    command = [sys.executable, "-m", "aions", "unshare", "-r", "sh", "-c", "echo $PPID; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, signal.SIGKILL)
        output, complaint = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert complaint.startswith("aions unshare: ")
    assert "worker" in complaint
    assert "has ended" in complaint
