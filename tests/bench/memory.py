"""How much memory a process has."""

from __future__ import annotations

import os
import threading
from pathlib import Path

MEGABYTE = 1 << 20


def own_kilobytes() -> float:
    """Return the kilobytes that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e3


def private_kilobytes(pid: int) -> int:
    """Return the kilobytes that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def grow(megabytes: int, threads: int) -> bytearray:
    """Make this a large program: memory that is written to, and threads that wait."""
    for _ in range(threads):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    memory = bytearray(megabytes * MEGABYTE)
    memory[::4096] = b"\1" * len(memory[::4096])
    return memory
