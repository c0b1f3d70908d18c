"""How often the tests of reliability try each thing.

AIONS_SOAK multiplies what is tried on an everyday run. `in full` is what the library promises to survive, for each event loop
unless it says "in all".
"""

from __future__ import annotations

import os

_SOAK = float(os.environ.get("AIONS_SOAK", "1"))

_EVERYDAY = {
    # name                    everyday    in full   AIONS_SOAK for that
    "app killed": 2,  #                   17 (50 in all)         9
    "app killed early": 4,  #             67 (200 in all)       17
    "forkserver killed": 3,  #            67 (200 in all)       23
    "worker killed": 30,  #              334 (1,000 in all)     12
    "loops in one program": 20,  #       500                    25
    "threads that end": 5,  #            100                    20
    "unshare beside threads": 40,  #     334 (1,000 in all)      9
    "unshare after a thread": 10,  #     334 (1,000 in all)     34
    "interrupts": 1,  #                   34 (100 in all)       34
    "cancellations": 2000,  #         10,000                     5
    "cancelled openings": 70,  #       1,000                    15
    "handovers": 20,  #                1,000                    50
    "short commands": 100,  #         10,000                   100
    "orphans": 3,  #                     100 (100 in all)       34
    "commands at once": 10,  #           100                    10
    "kill orders": 2,  #                 100                    50
    "quiet forks": 30,  #              1,000                    34
    "networks": 100,  #               10,000                   100
    "cancelled sockets": 50,  #        5,000                   100
    "requests in flight": 100,  #     10,000                   100
    "id maps": 2000,  #                  100,000 (in all)       50
    "faults": 1,  #                       20                    20
    "symlink swaps": 1000,  #        100,000 in all            100
}


def times(what: str) -> int:
    """Return how often to try something on this run."""
    return max(1, round(_EVERYDAY[what] * _SOAK))
