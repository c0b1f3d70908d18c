"""The examples of the docs run, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def output_of(name: str) -> list[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"two_hosts.py", "seed.py"}


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
