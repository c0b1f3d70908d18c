"""The package in a worker: put up without what it imports, and loaded whole where a function asks for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aions

PACKAGE = Path(aions.__file__).parent

PROGRAM = """
import sys
program, directory = sys.argv[1:]
names = {"__name__": "the program", "__file__": program}
exec(compile(open(program).read(), program, "exec"), names)
names["put_up_package"](directory)
import aions
from aions._wire.messages import Done
assert not hasattr(aions, "__wrapped__")
assert "anyio" not in sys.modules
"""


def run(code: str) -> None:
    program = PACKAGE / "_worker" / "__main__.py"
    command = [sys.executable, "-c", PROGRAM + code, str(program), str(PACKAGE)]
    subprocess.run(command, check=True, cwd=PACKAGE.parent)


def test_the_package_is_loaded_when_a_public_name_is_asked_for() -> None:
    run(
        """
from aions import Namespace, run_process
assert "anyio" in sys.modules
assert aions.Namespace is Namespace
assert sys.modules["aions"] is aions
import aions._wire.messages
assert aions._wire.messages.Done is Done
"""
    )


def test_a_name_that_is_not_there_is_missing_all_the_same() -> None:
    run(
        """
assert not hasattr(aions, "no_such_name")
assert aions.Namespace
assert not hasattr(aions, "no_such_name")
"""
    )
