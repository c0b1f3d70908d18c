"""A small system to use as a root: a shell and a few programs, copied from this machine with the libraries that they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("sh", "cat", "echo", "hostname", "id", "ls", "mkdir", "readlink", "stat", "tee", "touch", "true")


def make_tree(root: Path, *programs: str) -> Path:
    """Make a directory that a command can have as its root; return it."""
    for name in (*PROGRAMS, *programs):
        program = shutil.which(name)
        assert program is not None
        _copy(Path(program), root / "bin" / name)
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"/\S+", libraries):
            _copy(Path(library), root / library[1:])
    return root


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
