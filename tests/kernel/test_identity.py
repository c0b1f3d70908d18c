"""Who the app is inside: each identity against what unshare(1) gives for the same options, as root and as a plain user."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from aions import GroupMapping, Identity, Namespace, UserMapping, Worker, open_worker
from aions._app import subordinate
from tests.kernel.programs import id_maps
from tests.kernel.programs.counts import times
from tests.kernel.targets import on_one_loop

ROOT = Path(__file__).parents[2]


def of_many_extents() -> Identity:
    """Return an identity with the mappings that the program wants, of ids that the user may hand out."""
    if os.geteuid() == 0:
        users = groups = range(500_000, 600_000)
    else:
        (users, *_), (groups, *_) = subordinate.ranges("user"), subordinate.ranges("group")
    user, group = os.geteuid(), os.getegid()
    user_mappings, group_mappings = [UserMapping(0, user, 1)], [GroupMapping(0, group, 1)]
    used = 0
    for inside, count in id_maps.PARENT[1:]:
        user_mappings.append(UserMapping(inside, users.start + 2 * used, count))
        group_mappings.append(GroupMapping(inside, groups.start + 2 * used, count))
        used += count
    return Identity(user_mappings, group_mappings)


async def run_python(worker: Worker, *arguments: object) -> list[str]:
    command = [sys.executable, *map(str, arguments)]
    finished = await worker.run_process(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=None, cwd="/")
    return finished.stdout.decode().splitlines()


@on_one_loop
@pytest.mark.needs("newuidmap")
async def test_what_we_say_of_random_maps_is_what_the_kernel_says() -> None:
    """R40."""
    async with open_worker(unshare=Namespace.USER, identity=of_many_extents) as worker:
        (counts,) = await run_python(worker, id_maps.__file__, times("id maps"))
    verdicts = json.loads(counts)
    assert sum(verdicts.values()) >= times("id maps")
    assert min(verdicts.values()) > times("id maps") / 20, verdicts
