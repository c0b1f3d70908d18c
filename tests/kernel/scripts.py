"""Programs of a few lines, as processes of their own: for what would spoil the test runner's process, or needs a __main__."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


def run_script(directory: Path, text: str, *arguments: object, under: Sequence[str] = ()) -> list[str]:
    """Run a program with warnings as errors, `under` a command that execs it; return the lines that it prints."""
    script = directory / "script.py"
    script.write_text(dedent(text))
    finished = subprocess.run(
        [*under, sys.executable, "-X", "dev", "-W", "error", str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert not finished.stderr, finished.stderr
    assert finished.returncode == 0, finished.stdout
    return finished.stdout.splitlines()
