"""`aions unshare`: new namespaces."""

from __future__ import annotations

import argparse

from aions import Namespace, open_worker
from aions._cli.command import Ended
from aions._cli.command import run as run_command


async def run(options: argparse.Namespace) -> Ended:
    """Run a command in new namespaces. Without --map-root-user a new user namespace has no mappings, as in unshare(1)."""
    namespaces = options.namespaces
    if options.map_root_user:
        namespaces |= Namespace.USER
    unmapped = () if Namespace.USER in namespaces and not options.map_root_user else None
    async with open_worker(unshare=namespaces, user_mappings=unmapped, group_mappings=unmapped) as worker:
        return await run_command(worker, options.command)
