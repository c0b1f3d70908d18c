"""What is mounted where, as the kernel writes it for each process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mounted:
    root: str
    target: str
    options: frozenset[str]
    propagation: str
    filesystem: str

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


def _parsed(line: str) -> Mounted:
    before, after = line.split(" - ")
    _id, _parent, _device, root, target, options, *optional = before.split()
    return Mounted(_plain(root), _plain(target), frozenset(options.split(",")), " ".join(optional), after.split()[0])


def _plain(path: str) -> str:
    """Undo how the kernel writes blanks."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def mounted(pid: int | str = "self") -> list[Mounted]:
    """Return all mounts that a process can see, in the order in which they were made."""
    return list(map(_parsed, Path(f"/proc/{pid}/mountinfo").read_text().splitlines()))


def mounted_on(pid: int | str, target: Path | str) -> list[Mounted]:
    """Return what is mounted on one path, the topmost last."""
    return [mount for mount in mounted(pid) if mount.target == str(target)]
