"""Random id maps: what we say of them before writing, and what the kernel says.

    python id_maps.py TIMES

Runs as root of a user namespace with the mappings of `PARENT`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from errno import EINVAL, EPERM
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aions import Identity, UserMapping
from aions._app import id_maps

Numbers = tuple[int, int, int]

BATCH = 50
"""Maps for one seed: hypothesis takes longer to draw a map than the kernel to judge it."""

PARENT = [(0, 1), (1, 4), (5, 15), (25, 5), (1000, 800), (4_294_967_290, 5)]
"""Where each begins inside, and how many ids it has: some touch, between others is a hole, and one ends with the last id."""

NO_ID = 4_294_967_295


class Oracle:
    """What the kernel says of a map."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("id_map_oracle.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, text: str) -> str:
        """Return the map as it is read back, or the number of the refusal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(text.replace("\n", ",") + "\n")
        return self._process.stdout.readline().rstrip("\n").replace(",", "\n")


EDGES = [0, 1, 4, 5, 19, 20, 24, 25, 29, 30, 999, 1000, 1799, 1800, *range(NO_ID - 7, NO_ID + 1)]
COUNTS = [0, 1, 1, 2, 3, 15, 16, 20, 800, 801, NO_ID - 1, NO_ID]


def wild(random: Random) -> list[Numbers]:
    """Make a map of anything, mostly about where the parent's mappings begin and end."""

    def number(edges: list[int]) -> int:
        return random.choice([random.choice(edges), random.choice(edges), random.randint(0, 40), random.randint(0, NO_ID)])

    return [(number(EDGES), number(EDGES), number(COUNTS)) for _ in range(random.randint(0, 3))]


def orderly(random: Random) -> list[Numbers]:
    """Make a map without overlaps, in any order, mostly of ids that the parent has; sometimes one line twice."""
    inside, outside = random.randint(0, 5), random.choice([0, 1, 3, 6, 25, 1000, 1790, NO_ID - 5])
    mappings = []
    for _ in range(random.randint(1, 5)):
        count = random.randint(1, 4)
        if outside > NO_ID:
            break  # the kernel would cut it to 32 bits; we never let that through
        mappings.append((inside, outside, count))
        inside += count + random.choice([0, 0, 1])
        outside += count + random.choice([0, 0, 0, 1])
    random.shuffle(mappings)
    return [*mappings, mappings[0]] if random.random() < 0.1 else mappings


def long(random: Random) -> list[Numbers]:
    """Make a map near the limit of lines, or (with long numbers) near that of bytes."""
    first, fewest = random.choice([(1, 338), (10**9, 224), (10**8, 236)])
    return [(first + number, 1000 + number, 1) for number in range(random.randint(fewest, fewest + 6))]


class Verdicts:
    """Ours and the kernel's, side by side."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._parent = id_maps.read_own("uid_map", UserMapping)
        assert [(extent.inside, extent.count) for extent in self._parent] == PARENT
        self.counts = dict.fromkeys(("accepted", "split", "refused"), 0)

    def compare(self, numbers: list[Numbers]) -> None:
        plain = "".join("{} {} {}\n".format(*mapping) for mapping in numbers)
        said, ours = self._oracle.ask(plain), self._ours(numbers)
        if ours is None:
            assert said in (str(EINVAL), str(EPERM)), f"the kernel takes {plain!r}"
            self.counts["refused"] += 1
        elif ours == plain:
            assert sorted(said.splitlines()) == sorted(ours.splitlines()), f"the kernel says {said!r} to {plain!r}"
            self.counts["accepted"] += 1
        else:
            assert said == str(EPERM), f"the kernel says {said!r} to {plain!r}"
            assert sorted(self._oracle.ask(ours).splitlines()) == sorted(ours.splitlines()), plain
            self.counts["split"] += 1

    def _ours(self, numbers: list[Numbers]) -> str | None:
        try:
            identity = Identity(UserMapping(*mapping) for mapping in numbers)
            return id_maps.map_text(id_maps.fitted(identity.user_mappings, self._parent))
        except ValueError:
            return None


def main() -> None:
    """Let hypothesis seed as many batches of maps as the command line says."""
    verdicts = Verdicts(Oracle())

    @settings(max_examples=int(sys.argv[1]) // BATCH, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True))
    def same_verdict(random: Random) -> None:
        for _ in range(BATCH):
            verdicts.compare(random.choice([wild, orderly, orderly, orderly, orderly, long])(random))

    same_verdict()
    sys.stdout.write(json.dumps(verdicts.counts))


if __name__ == "__main__":
    main()
