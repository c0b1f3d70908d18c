"""The examples of the docs run, and say what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.trees import make_tree

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def output_of(name: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "debian_root.py",
        "no_network.py",
        "other_clock.py",
        "read_only_host.py",
        "resolv_conf.py",
        "seed.py",
        "two_hosts.py",
    }


@pytest.mark.needs("ip")
def test_two_hosts() -> None:
    where, serving, got = output_of("two_hosts.py")
    left, right = where.split("net:")[1:]
    assert left.split("]")[0] != right.split("]")[0]
    assert serving == "left  serves on 192.0.2.1:80"
    assert got == "right got: HTTP/1.0 200 OK / hello, 192.0.2.2"


def test_seed() -> None:
    identity, user, network = output_of("seed.py")
    assert identity.startswith("uid=0(root) gid=0(root)")
    assert user.startswith("user:[")
    assert network.startswith("net:[")


def test_no_network() -> None:
    assert output_of("no_network.py")[-4:] == ["no way out", "all", "default", "lo"]


def test_read_only_host() -> None:
    assert output_of("read_only_host.py") == ["changed inside", "/usr is read-only", "outside: as it was"]


def test_debian_root_with_a_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    assert output_of("debian_root.py", tree) == ["bookworm: user 0, process 2", *sorted(os.listdir(tree))]


def test_debian_root_without_one() -> None:
    first, *directories = output_of("debian_root.py")
    assert first == "bookworm: user 0, process 2"
    assert {"dev", "proc", "tmp", "usr"} <= set(directories)
    assert "etc" not in directories


@pytest.mark.needs("time_namespaces")
def test_other_clock() -> None:
    assert output_of("other_clock.py") == ["built by builder, up for 1000… s, on 2023-11-14"]


def test_resolv_conf() -> None:
    assert output_of("resolv_conf.py") == ["nameserver 192.0.2.53", "outside it is still the old one: True"]
