"""The options of `aions unshare` about users and groups, against unshare(1): maps, setgroups and the status of the command."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aions import Namespace
from aions._app import subordinate
from tests.kernel.scripts import ROOT
from tests.kernel.targets import target

LOOK = """
sort -n /proc/self/uid_map; echo; sort -n /proc/self/gid_map; cat /proc/self/setgroups
grep -E '^(Uid|Gid|Cap...):' /proc/self/status
"""


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([*command, "sh", "-c", LOOK], env=environment, capture_output=True, text=True, check=False)
    assert not finished.stderr, finished.stderr
    return re.sub(r"[ \t]+", " ", finished.stdout)


def ours(*options: str) -> str:
    return run(sys.executable, "-m", "aions", "unshare", *options)


def theirs(*options: str) -> str:
    return run("unshare", *options)


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "--setgroups=deny"],
        ["-r", "--setgroups=deny"],
        ["-c", "--setgroups=deny"],
        ["-c", "--keep-caps", "--setgroups=deny"],
        ["--map-user=7", "--map-group=8", "--setgroups=deny"],
        ["--map-user=7"],
        ["--map-user=daemon", "--map-group", "daemon", "--keep-caps", "--setgroups=deny"],
    ],
    ids=" ".join,
)
def test_ones_own_id_is_mapped_as_by_unshare(options: list[str]) -> None:
    """unshare(1) forbids setgroups to map a group, and then does not take the option that says so."""
    groups = any(option.startswith(("-r", "-c", "--map-group")) for option in options)
    assert ours(*options) == theirs(*(option for option in options if not groups or "setgroups" not in option))


def first(kind: str) -> range:
    return subordinate.ranges(kind)[0]


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
@pytest.mark.parametrize(
    "options",
    [
        ["--map-auto", "-r"],
        ["--map-auto", "-c"],
        ["--map-auto", "--map-user=20", "--map-group=65535"],
        ["--map-users=auto", "--map-groups=auto", "--map-user=70000", "--map-group=70000", "--keep-caps"],
        ["-r", "--map-users={users},1,1000", "--map-groups={groups},1,10"],
        ["--map-users={users},5,1000", "--map-user=7", "--map-groups={groups},5,10"],
    ],
    ids=" ".join,
)
def test_ranges_are_mapped_as_by_unshare(options: list[str]) -> None:
    numbers = {"users": first("user").start, "groups": first("group").start}
    given = [option.format(**numbers) for option in options]
    assert ours(*given) == theirs(*given)
    assert ours(*(re.sub(r"=(\d+),(\d+),", r"=\2:\1:", option) for option in given)) == theirs(*given), "the new order"


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
def test_subordinate_ids_as_they_are() -> None:
    users, groups = first("user"), first("group")
    explicit = [f"--map-{kind}={ids.start},{ids.start},{len(ids)}" for kind, ids in (("users", users), ("groups", groups))]
    assert ours("-r", "--map-users=subids", "--map-groups=subids") == theirs("-r", *explicit)


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
def test_without_an_id_of_ones_own_the_command_is_root() -> None:
    """That of unshare(1) is nobody, without capabilities."""
    (mine, status), (its, _) = (each.split("allow\n") for each in (ours("--map-auto"), theirs("--map-auto")))
    assert mine == its
    assert "Uid: 0 0 0 0\nGid: 0 0 0 0\n" in status


@pytest.mark.root
def test_root_maps_all() -> None:
    found = ours("--map-users=all", "--map-groups=all").splitlines()
    assert found[0].split() == found[2].split() == ["0", "0", "4294967295"]
    assert found[3] == "allow"


@pytest.mark.root
def test_root_maps_ranges_around_its_own_id() -> None:
    found = ours("--map-user=2", "--map-users=0:1000:5", "--map-groups=0:0:10").splitlines()
    assert [line.split() for line in found[:3]] == [["0", "1000", "2"], ["2", "0", "1"], ["3", "1002", "2"]]


@pytest.mark.root
def test_root_maps_several_ranges() -> None:
    """As in util-linux 2.39 and later. They add up."""
    found = ours("--map-users=0:1000:5", "--map-users", "2000,10,5", "-r", "--map-groups=7:7:2", "--map-groups=9:10:1")
    users, groups = (part.splitlines() for part in found.split("\n\n"))
    assert [line.split() for line in users] == [["0", "0", "1"], ["1", "1000", "4"], ["10", "2000", "5"]]
    assert [line.split() for line in groups[:3]] == [["0", "0", "1"], ["7", "7", "2"], ["9", "10", "1"]]


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
def test_a_plain_user_maps_ranges_beside_its_subordinate_ids() -> None:
    mine = f"100000:{os.geteuid()}:1"
    found = ours("--map-auto", f"--map-users={mine}").splitlines()
    assert [line.split() for line in found[:2]] == [["0", str(first("user").start), str(len(first("user")))], mine.split(":")]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--map-users=1:2", "is no range"),
        ("--map-users=0:0:0", "at least 1"),
        ("--map-user=no-such-user", "is nobody"),
        ("--map-group=no-such-group", "is nobody"),
        ("--setgroups=maybe", "neither allow nor deny"),
        ("--owner=1234", "is no owner"),
        ("--owner=1234:", "is the id of no user or group"),
    ],
)
def test_values_that_make_no_sense(option: str, words: str) -> None:
    command = [sys.executable, "-m", "aions", "unshare", option, "true"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert words in finished.stderr


def nsenter(*options: str, program: tuple[str, ...] = (sys.executable, "-m", "aions", "nsenter")) -> str:
    return run(*program, *options)


@pytest.mark.parametrize(
    "options", [[], ["--keep-caps"], ["--preserve-credentials"], ["--preserve-credentials", "--keep-caps"]]
)
def test_who_enters_a_user_namespace(options: list[str]) -> None:
    """nsenter(1) of util-linux 2.38 has no --keep-caps, and a plain user cannot do without --preserve-credentials."""
    with target(Namespace.USER | Namespace.UTS, "--map-root-user") as pid:
        found = nsenter("--target", str(pid), "--user", "--uts", *options)
        expected = nsenter("--target", str(pid), "--user", "--uts", "--preserve-credentials", program=("nsenter",))
    if "--keep-caps" in options:
        everything = re.findall(r"CapBnd: (\w+)", expected)[0]
        for field in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert re.findall(rf"{field}: (\w+)", found) == [everything]
        found, expected = (re.sub(r"Cap...: \w+\n", "", each) for each in (found, expected))
    assert found == expected


AS_ANOTHER = ("--setuid=1234", "--setgid=1234")


@pytest.mark.root
@pytest.mark.parametrize("options", [["--uts"], ["--mount", "--net"], []], ids=" ".join)
def test_without_a_new_user_namespace_no_capabilities_are_kept(options: list[str]) -> None:
    """They would be those of the machine."""
    found = ours("--keep-caps", *options, *AS_ANOTHER)
    assert found == theirs("--keep-caps", *options, *AS_ANOTHER)
    assert "CapPrm: 0000000000000000\nCapEff: 0000000000000000\n" in found


@pytest.mark.root
@pytest.mark.parametrize("options", [[], ["--keep-caps"]], ids=" ".join)
def test_where_no_user_namespace_is_entered_no_capabilities_are_kept(options: list[str]) -> None:
    """nsenter(1) has had --keep-caps since 2.40, with the same meaning."""
    with target(Namespace.UTS) as pid:
        found = nsenter("--target", str(pid), "--uts", *options, *AS_ANOTHER)
        assert found == nsenter("--target", str(pid), "--uts", *AS_ANOTHER, program=("nsenter",))
    assert "CapPrm: 0000000000000000\nCapEff: 0000000000000000\n" in found


@pytest.mark.root
def test_credentials_that_are_preserved_are_nobodys_where_they_are_not_mapped() -> None:
    with target(Namespace.USER, "--map-root-user", owner=1234) as pid:
        assert "Uid: 65534 65534 65534 65534\n" in nsenter("--target", str(pid), "--user", "--preserve-credentials")
        assert "Uid: 0 0 0 0\n" in nsenter("--target", str(pid), "--user")


@pytest.mark.parametrize("kind", ["--user", "--uts", "--net"])
def test_the_parent_user_namespace_is_entered(kind: str) -> None:
    """That of a user namespace is the one around it; that of another the one that owns it."""
    inner = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 600"]
    command = ["unshare", "--user", "--map-root-user", "--uts", "--net", *inner]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            options = ["--target", str(process.pid), "--user-parent", kind, "readlink", "/proc/self/ns/user"]
            command = [sys.executable, "-m", "aions", "nsenter", *options]
            found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert not found.stderr, found.stderr
            names = {os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", process.pid)}
            assert found.stdout.strip() not in names
        finally:
            process.kill()


def test_capabilities_are_not_kept_without_a_child() -> None:
    command = [sys.executable, "-m", "aions", "nsenter", "--target", str(os.getpid()), "--uts", "--no-fork", "--keep-caps"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (finished.returncode, "leave --no-fork out" in finished.stderr) == (1, True)


def entered_as(options: tuple[str, ...], pid: int) -> list[str]:
    """Return the user and group ids of a command that `aions nsenter` runs, and its supplementary groups."""
    found = run(sys.executable, "-m", "aions", "nsenter", "--target", str(pid), "--preserve-credentials", *options)
    return re.findall(r"^[UG]id: (\d+)", found, re.MULTILINE)


@pytest.mark.root
@pytest.mark.parametrize("in_place", [(), ("--no-fork",)], ids=["as a child", "in place"])
def test_the_targets_ids_are_followed(in_place: tuple[str, ...]) -> None:
    """They are what the entered user namespace calls them. That setgroups is forbidden there is no hindrance."""
    both = ("--setuid", "follow", "--setgid=follow", *in_place)
    with target(Namespace.USER | Namespace.UTS, "--map-user=7", "--map-group=8", owner=1234) as pid:
        assert entered_as(("--user", *both), pid) == ["7", "8"]
        assert entered_as(("--uts", *both), pid) == ["1234", "0"]
        assert entered_as(("--uts", "-Sfollow", "-G", "5", *in_place), pid) == ["1234", "5"]
        assert entered_as(("--uts", "-S3", "-Gfollow", *in_place), pid) == ["3", "0"]


@pytest.mark.plain_user
def test_a_plain_user_follows_its_own_id() -> None:
    with target(Namespace.USER, "--map-user=7", "--map-group=8") as pid:
        assert entered_as(("--user", "--setuid", "follow"), pid) == ["7", "8"]


@pytest.mark.parametrize("option", ["--setuid", "--setgid"])
def test_nobody_is_followed_without_a_target(option: str) -> None:
    command = [sys.executable, "-m", "aions", "nsenter", "--uts=/proc/self/ns/uts", option, "follow", "true"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (finished.returncode, "no process was named" in finished.stderr) == (1, True)


GET_OWNER_UID = 0xB704


@contextmanager
def owned(*options: str) -> Iterator[int]:
    """Have `aions unshare` start a command that waits; give its pid, as /proc has it here."""
    command = [sys.executable, "-m", "aions", "unshare", *options, "sh", "-c", "read pid _ </proc/self/stat; echo $pid; read _"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "outside", "inside"),
    [
        ((), "1234 2345", "65534 65534"),
        (("--map-users=0:1234:1", "--map-groups=0:2345:1"), "1234 2345", "0 0"),
        (("--map-users=7:1234:1", "--map-groups=8:2345:1", "--pid", "--net"), "1234 2345", "7 8"),
        (("--map-users=0:100000:1000", "--map-groups=0:200000:1000", "--pid"), "100000 200000", "0 0"),
        (("--map-root-user", "--mount"), "0 0", "0 0"),
        (("--map-user=7", "--map-group=8"), "1234 2345", "65534 65534"),
        (("--map-user=7", "--map-group=8", "--setuid=7", "--setgid=8"), "0 0", "7 8"),
    ],
    ids=str,
)
def test_a_user_namespace_of_somebody_else(options: tuple[str, ...], outside: str, inside: str) -> None:
    """Its owner may enter it, as setns(2) has it for whoever made it, and has every capability there."""
    with owned("--owner", "1234:2345", *options) as pid:
        with open(f"/proc/{pid}/ns/user") as nsfd:
            assert fcntl.ioctl(nsfd, GET_OWNER_UID, bytes(4)) == (1234).to_bytes(4, sys.byteorder)
            enter = ["nsenter", f"--user=/proc/self/fd/{nsfd.fileno()}", "--preserve-credentials"]
            look = [*enter, "grep", "-hE", "^([UG]id|CapPrm):", "/proc/self/status", f"/proc/{pid}/status"]
            found = subprocess.run(look, pass_fds=[nsfd.fileno()], user=1234, group=2345, extra_groups=(), capture_output=True)
            assert not found.stderr, found.stderr
            stranger = subprocess.run(
                look, pass_fds=[nsfd.fileno()], user=1235, group=2345, extra_groups=(), capture_output=True
            )
            assert b"Operation not permitted" in stranger.stderr
        status = Path(f"/proc/{pid}/status").read_text()
    assert " ".join(re.findall(r"^[UG]id:\s(\d+)", status, re.MULTILINE)) == outside
    assert " ".join(re.findall(r"^[UG]id:\s(\d+)", found.stdout.decode(), re.MULTILINE)[2:]) == inside
    assert not re.search(r"^Groups:\s*\d", status, re.MULTILINE)


@pytest.mark.plain_user
def test_a_plain_user_makes_no_user_namespace_for_somebody_else() -> None:
    command = [sys.executable, "-m", "aions", "unshare", "--owner=1234:1234", "true"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "it takes CAP_SETUID and CAP_SETGID" in finished.stderr
