"""Reading maps back, translating ids between user namespaces, and who owns what."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aions import GroupMapping, Identity, Namespace, UserMapping, Worker, get_owner_uid, open_worker
from tests.kernel.explained import refusal
from tests.kernel.scripts import run_script
from tests.kernel.targets import name_of, on_one_loop, target

pytestmark = on_one_loop

USER, GROUP = os.geteuid(), os.getegid()


@asynccontextmanager
async def nested() -> AsyncIterator[Worker]:
    """A worker two user namespaces deep: 3 in it is 7 in the one around it, which is the app's user."""
    identity = Identity([UserMapping(7, USER, 1)], [GroupMapping(8, GROUP, 1)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as outer, outer.fork() as inner:
        await inner.unshare(Namespace.USER)
        await inner.write_user_mappings(None, [UserMapping(3, 7, 1)])
        yield inner


async def test_a_map_is_read_as_it_was_written() -> None:
    identity = Identity([UserMapping(7, USER, 1)], [GroupMapping(8, GROUP, 1)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        for pid in (None, worker.pid):
            assert tuple(await worker.read_user_mappings(pid)) == identity.user_mappings
            assert tuple(await worker.read_group_mappings(pid)) == identity.group_mappings


async def test_a_map_that_was_not_written_is_empty() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        assert await worker.read_user_mappings(None) == await worker.read_group_mappings(worker.pid) == []


async def test_outside_ids_are_those_of_the_parent_or_of_the_app() -> None:
    async with nested() as inner:
        assert await inner.read_user_mappings(None) == [UserMapping(3, 7, 1)]
        assert await inner.read_user_mappings(inner.pid) == [UserMapping(3, USER, 1)]


async def test_ids_are_translated_by_way_of_the_app() -> None:
    with target(Namespace.USER, "--map-user", "5", "--map-group", "6") as pid:
        async with nested() as inner:
            app = os.getpid()
            assert await inner.translate_user_id(3, None, app) == USER
            assert await inner.translate_user_id(USER, app, None) == 3
            assert await inner.translate_user_id(3, None, pid) == 5
            assert await inner.translate_user_id(5, pid, None) == 3
            assert await inner.translate_user_id(5, pid, pid) == 5
            assert await inner.translate_user_id(4321, app, app) == 4321
            assert await inner.translate_group_id(6, pid, app) == GROUP
            assert await inner.translate_group_id(6, pid, None) is None, "this map is not written"
            for stranger in (4, 4321):
                assert await inner.translate_user_id(stranger, None, app) is None
                assert await inner.translate_user_id(stranger, pid, None) is None


async def test_the_app_may_be_in_a_user_namespace_itself(tmp_path: Path) -> None:
    program = """
        import os
        import anyio
        from aions import Identity, Namespace, UserMapping, open_worker

        async def main():
            async with open_worker(unshare=Namespace.USER, identity=Identity([UserMapping(9, 5, 1)])) as worker:
                print(await worker.translate_user_id(5, os.getpid(), None))
                print(await worker.translate_user_id(9, None, os.getpid()))

        anyio.run(main)
        """
    assert run_script(tmp_path, program, under=["unshare", "--user", "--map-user", "5", "--map-group", "6"]) == ["9", "5"]


async def test_the_owner_of_a_user_namespace_is_who_made_it() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        assert await worker.get_owner_uid(None) == await get_owner_uid(worker.pid) == USER
        owning = await worker.get_owning_namespace(None, "net")
        assert owning == await worker.get_namespace_id(None, Namespace.USER)
        above = await worker.get_owning_namespace(None, Namespace.USER)
        assert str(above) == name_of("self", Namespace.USER)
        assert above == await worker.get_parent_namespace(None, "user")


@pytest.mark.root
async def test_the_owner_may_be_another_user() -> None:
    with target(Namespace.USER, "--map-root-user", owner=1234) as pid:
        async with open_worker() as worker:
            assert await worker.get_owner_uid(pid) == 1234


async def test_the_parent_of_a_pid_namespace_is_where_it_was_made() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
        parent = await worker.get_parent_namespace(None, Namespace.PID)
        assert parent.type == Namespace.PID
        assert str(parent) == name_of("self", Namespace.PID)


async def test_namespaces_without_parents() -> None:
    async with open_worker() as worker:
        with pytest.raises(ValueError, match="only pid and user namespaces"):
            await worker.get_parent_namespace(None, "net")


async def test_what_is_above_the_app_is_not_told() -> None:
    """The initial namespace has no parent; that of another is beyond it. The kernel says EPERM to both."""
    with refusal(errno.EPERM, "ioctl(", "the forkserver", "the app's own"):
        async with open_worker() as worker:
            await worker.get_parent_namespace(None, Namespace.USER)


async def test_a_process_that_is_not_there() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    async with open_worker() as worker:
        for ask in (worker.get_owner_uid, worker.read_user_mappings, worker.get_credentials):
            with refusal(errno.ENOENT, "openat(", "the forkserver", "no such process"):
                await ask(process.pid)
