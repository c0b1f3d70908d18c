"""`aions run`: what a command has of this machine, and what it has not."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aions import Capability
from aions._cli.options import Options
from aions._cli.run import HELP, add_options
from tests.kernel.trees import make_tree

EVERY = (~Capability(0)).value
NAMES = ("user", "pid", "mnt", "ipc", "uts", "net")


def aions_run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "aions", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def output(*arguments: object) -> str:
    result = aions_run(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_the_help_fits_a_screen_and_has_three_examples() -> None:
    shown = output("--help")
    assert shown == HELP
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) < 80
    assert len(re.findall(r"^  aions run ", shown, re.MULTILINE)) == 3


def test_every_option_is_in_the_help_and_no_other() -> None:
    options = Options(argparse.ArgumentParser(add_help=False))
    add_options(options)
    assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", HELP)) == set(options._actions)


def test_without_options_all_is_fresh_and_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script = f"readlink {' '.join(f'/proc/self/ns/{name}' for name in NAMES)}; ls /tmp; echo $$; id -u; id -g"
    *links, pid, user, group = output("sh", "-c", script).split()
    assert [link.split(":")[0] for link in links] == list(NAMES)
    assert not set(links) & {os.readlink(f"/proc/self/ns/{name}") for name in NAMES}
    assert int(pid) < 10
    assert (int(user), int(group)) == (os.geteuid(), os.getegid())
    refused = aions_run("touch", Path.home() / "new")
    assert (refused.returncode, "Read-only file system" in refused.stderr) == (1, True)
    assert not (Path.home() / "new").exists()
    assert aions_run("sh", "-c", f"echo x > /tmp/x; cat /tmp/x; test -e {tmp_path}").returncode == 1


@pytest.mark.parametrize("user", [[], ["-r"]], ids=["oneself", "root"])
def test_the_read_only_view_cannot_be_undone(user: list[str]) -> None:
    for attempt in ("mount -o remount,rw,bind /", "umount -l /tmp", "nsenter -t 1 -U -m mount -o remount,rw,bind /"):
        assert aions_run(*user, "sh", "-c", attempt).returncode != 0
    nested = aions_run("--cap-add=SETFCAP", *user, "unshare", "-r", "-m", "mount", "-o", "remount,rw,bind", "/")
    assert (nested.returncode != 0, "permission denied" in nested.stderr) == (True, True)


@pytest.mark.parametrize("user", [[], ["-r"]], ids=["oneself", "root"])
def test_what_is_the_kernels_cannot_be_written_to(user: list[str]) -> None:
    """Not even by root of this machine, in any proc that it has."""
    script = "for file in /proc/sys/kernel/core_pattern /tmp/other/sys/kernel/core_pattern; do : >>$file; done 2>&1"
    result = aions_run(*user, "--proc", "/tmp/other", "bash", "-c", script)
    assert len(re.findall("Read-only file system|Permission denied", result.stdout)) == 2


@pytest.mark.parametrize("user", [[], ["-r"]], ids=["oneself", "root"])
def test_capabilities_are_those_that_are_asked_for(user: list[str]) -> None:
    def found(*options: str) -> list[str]:
        lines = output(*user, *options, "grep", "-E", "^Cap(Eff|Prm|Bnd):", "/proc/self/status").splitlines()
        return [line.split()[1].lstrip("0") for line in lines]

    assert found() == ["", "", ""]
    assert found("--cap-add", "net_admin", "--cap-add=CAP_NET_RAW") == [f"{1 << 12 | 1 << 13:x}"] * 3
    (everything,) = set(found("--cap-add", "ALL"))
    assert int(everything, 16) & EVERY == EVERY
    assert output(*user, "--cap-add", "SYS_ADMIN", "sh", "-c", "mount -t tmpfs none /srv && ls /srv") == ""
    refused = aions_run("--cap-add", "FLY", "true")
    assert (refused.returncode, "'FLY' is no capability" in refused.stderr) == (2, True)


def test_no_network_unless_it_is_shared() -> None:
    assert output("ls", "/proc/sys/net/ipv4/conf").split() == ["all", "default", "lo"]
    assert output("--share-net", "readlink", "/proc/self/ns/net").strip() == os.readlink("/proc/self/ns/net")


def test_its_own_loopback_works() -> None:
    script = """
    import socket
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as listener:
            socket.create_connection(listener.getsockname()[:2], timeout=10).close()
    """
    assert output(os.path.realpath(sys.executable), "-c", inspect.cleandoc(script)) == ""


def test_it_starts_in_the_current_directory_if_it_is_there(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    assert aions_run("pwd", cwd="/usr", env=environment).stdout == "/usr\n"
    assert output("--bind", tmp_path, "/srv", "--wd", "/srv", "pwd") == "/srv\n"
    assert output("--chdir", "/usr", "pwd") == "/usr\n"
    hidden = aions_run("pwd", cwd=tmp_path, env=environment)
    assert hidden.stdout == "/\n", "it was below /tmp"
    assert aions_run("--wd", "/no/such", "pwd").returncode == 1


def test_binds(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("original")
    script = f"echo new > {tmp_path}/new; echo changed > /srv/file; cat /srv/file"
    result = aions_run("--bind", tmp_path, tmp_path, "--ro-bind", tmp_path, "/srv", "sh", "-c", script)
    assert ("Read-only" in result.stderr, result.stdout) == (True, "original")
    assert (tmp_path / "new").read_text() == "new\n"


def test_relative_paths_begin_here(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    result = aions_run("--bind", ".", ".", "sh", "-c", "pwd; echo x > made", cwd=tmp_path, env=environment)
    assert (result.stdout, result.stderr) == (f"{tmp_path}\n", "")
    assert (tmp_path / "made").exists()


def test_overlays(tmp_path: Path) -> None:
    for name in ("low", "high", "upper", "work"):
        (tmp_path / name).mkdir()
    for name in ("low", "high"):
        (tmp_path / name / "both").write_text(name)
    low = tmp_path / "low"
    sources = ("--overlay-src", low, "--overlay-src", tmp_path / "high")
    assert output(*sources, "--tmp-overlay", "/srv", "sh", "-c", "cat /srv/both; echo x > /srv/x; ls /srv") == "highboth\nx\n"
    assert output("--tmp-overlay", low, "sh", "-c", f"echo mine > {low}/both; cat {low}/both") == "mine\n"
    assert (low / "both").read_text() == "low"
    output(*sources, "--overlay", tmp_path / "upper", tmp_path / "work", "/srv", "sh", "-c", "echo x > /srv/both")
    assert (tmp_path / "upper" / "both").read_text() == "x\n"
    assert (tmp_path / "high" / "both").read_text() == "high"


def test_a_lower_directory_without_an_overlay() -> None:
    refused = aions_run("--tmp-overlay", "/srv", "--overlay-src", "/etc", "true")
    assert (refused.returncode, "--overlay-src is for an overlay" in refused.stderr) == (1, True)


def test_a_root(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    found = output(
        "--root", tree, "--hostname", "tree", "-r", "sh", "-c", "hostname; id -u; pwd; ls /; readlink /proc/self/exe"
    )
    assert found.split() == ["tree", "0", "/", *sorted([*os.listdir(tree)]), "/bin/readlink"]
    for name in ("dev", "proc", "tmp"):
        assert not any((tree / name).iterdir())
    assert output("--ro-bind", tree, "/", "--tmpfs", "/dev", "sh", "-c", "ls /dev") == ""
    assert "one root" in aions_run("--root", "/", "--root", "/", "true").stderr


@pytest.mark.needs("time_namespaces")
def test_clocks_and_names() -> None:
    arguments = ("--boottime", "1000000", "--monotonic", "-0.5", "--hostname", "other")
    uptime, name = output(*arguments, "sh", "-c", "cat /proc/uptime | cut -d' ' -f1; hostname").split()
    assert float(uptime) > 1_000_000
    assert name == "other"


@pytest.mark.parametrize(
    "options",
    [("--bind", "", "/srv"), ("--tmpfs", ""), ("--root", ""), ("--overlay-src", "", "--tmp-overlay", "/srv")],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_directory(options: tuple[str, ...]) -> None:
    refused = aions_run(*options, "true")
    assert (refused.returncode, "an empty path" in refused.stderr) == (2, True)


def test_the_exit_status_is_the_commands() -> None:
    assert aions_run("sh", "-c", "exit 7").returncode == 7
    assert aions_run("no-such-command", env={**os.environ, "PATH": "/usr/bin:/bin"}).returncode == 127
    assert aions_run("--", "sh", "-c", "kill -TERM $$").returncode == -15


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    result = aions_run("--bind", tmp_path / "none", "/srv", "true")
    assert result.returncode == 1
    assert "No such file or directory" in result.stderr
    assert "Remedy: " in result.stderr
    assert re.search(r"It was step \d+ of \d+: Attach\(kind='rbind', target='/srv'", result.stderr)
