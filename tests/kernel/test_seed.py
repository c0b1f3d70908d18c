"""The seven functions of the mission, checked by namespace ids against util-linux."""

from __future__ import annotations

import os

from aions import Namespace, get_namespace_id, run_process, unshare


async def test_unshare_moves_the_worker_and_not_the_app() -> None:
    app = os.readlink("/proc/self/ns/net")
    await unshare([Namespace.USER, Namespace.NETWORK])
    inside = await run_process(["readlink", "/proc/self/ns/net"])
    assert inside.stdout.decode().strip() == str(await get_namespace_id(None, "net")) != app
    assert os.readlink("/proc/self/ns/net") == app == str(await get_namespace_id(os.getpid(), Namespace.NETWORK))
