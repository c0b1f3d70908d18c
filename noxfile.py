"""`nox -s NAME`; `nox -l` lists what there is. What comes after `--` goes to pytest, or to the benchmark."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "typing", "docs"]

HERE = Path(__file__).parent
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests on the wheel as it is installed, on each Python that is here."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run the kernel tests and those of the wire, each thing as often as the library promises to survive it."""
    session.install(".[test]")
    session.run("pytest", "tests/kernel", "tests/wire", *session.posargs, env={"AIONS_SOAK": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package and of the tests."""
    session.install(".[test]", "mypy", "nox")
    session.run("mypy", "--strict")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples, and compile the Python in the README and the docs."""
    session.install(".")
    for example in sorted(HERE.glob("docs/examples/*.py")):
        session.run("python", str(example))
    for page in [HERE / "README.md", *sorted(HERE.glob("docs/*.md"))]:
        for block in PYTHON_BLOCK.finditer(text := page.read_text()):
            lines_before = text.count("\n", 0, block.start(1))
            compile("\n" * lines_before + block[1], str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure aions against what a user would pick instead, and print a table."""
    session.install(".[test]")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv with everything that working on aions takes."""
    session.run(sys.executable, "-m", "venv", ".venv")
    session.run(".venv/bin/pip", "install", "-e", ".[test]", "mypy", "nox", "ruff")
