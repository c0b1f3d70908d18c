"""How often the tests of reliability try each thing: on an everyday run, and in full with AIONS_SOAK=1.

In full is what the library promises to survive, for each event loop.
"""

from __future__ import annotations

import os

_IN_FULL = os.environ.get("AIONS_SOAK") == "1"

_COUNTS = {
    # name: everyday, in full
    "app killed": (2, 17),  # 50 with all loops
    "app killed early": (4, 67),  # 200 with all loops
    "forkserver killed": (3, 67),  # 200 with all loops
    "worker killed": (30, 334),  # 1,000 with all loops
    "loops in one program": (20, 500),
    "threads that end": (5, 100),
    "unshare beside threads": (40, 334),  # 1,000 with all loops
    "unshare after a thread": (10, 334),  # 1,000 with all loops
    "interrupts": (1, 34),  # 100 with all loops
    "cancellations": (2000, 10_000),
    "cancelled openings": (70, 1000),
    "bursts": (20, 1000),  # of cancelled calls
    "handovers": (20, 1000),
    "short commands": (100, 10_000),
    "left processes": (200, 10_000),
    "orphans": (3, 100),
    "commands at once": (10, 100),
    "kill orders": (2, 100),
    "quiet forks": (30, 1000),
    "networks": (100, 10_000),
    "cancelled sockets": (50, 5000),
    "requests in flight": (100, 10_000),
    "rounds beside thieves": (10, 334),  # 1,000 with all loops
    "entries among thieves": (10, 334),
    "id maps": (2000, 100_000),
    "faults": (1, 20),
    "symlink swaps": (1000, 100_000),
    "rooms for descriptors": (326, 32_637),  # each count that one message takes, in each room up to one too many
    "sizes": (52, 5243),  # of 1 kB more each, to 5 MiB
}


def times(what: str) -> int:
    """Return how often to try something on this run."""
    return _COUNTS[what][_IN_FULL]
