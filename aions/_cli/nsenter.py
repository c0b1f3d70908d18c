"""`aions nsenter`: the namespaces of a process."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from aions import Namespace, open_worker
from aions._cli.command import Ended
from aions._cli.command import run as run_command


async def run(options: argparse.Namespace) -> Ended:
    """Run a command in namespaces of a process: as root there, where its user namespace is entered, as nsenter(1) does."""
    target: int = options.target
    async with open_worker() as worker:
        namespaces = options.namespaces
        if options.all:
            for kind in Namespace:
                if await worker.get_namespace_id(target, kind) != await worker.get_namespace_id(os.getpid(), kind):
                    namespaces |= kind
        if not namespaces:
            raise ValueError("no namespace was named; --all enters all that differ from one's own")
        groups_may_be_set = _groups_may_be_set(target)
        await worker.enter_namespace(target, namespaces)
        if Namespace.USER not in namespaces:
            return await run_command(worker, options.command)
        extra_groups: tuple[int, ...] | None = () if groups_may_be_set else None
        return await run_command(worker, options.command, user=0, group=0, extra_groups=extra_groups)


def _groups_may_be_set(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/setgroups").read_text().strip() == "allow"
    except FileNotFoundError:
        return False  # the process is gone: entering will say so
