"""Who the app is inside: each identity against what unshare(1) gives for the same options, as root and as a plain user."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from aions import GroupMapping, Identity, Namespace, UserMapping, Worker, open_worker
from aions._app import subordinate
from aions._app.identity import IdentityLike
from tests.kernel.programs import id_maps
from tests.kernel.programs.counts import times
from tests.kernel.targets import on_one_loop, target

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


LOOK = "cat /proc/self/uid_map; echo --; cat /proc/self/gid_map; echo --; cat /proc/self/setgroups; cat /proc/self/status"
FIELDS = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")


@dataclass(frozen=True)
class Seen:
    """What a command inside sees of who it is."""

    user_map: list[str]
    group_map: list[str]
    setgroups: str
    status: dict[str, str]

    @classmethod
    def read(cls, output: bytes) -> Seen:
        users, groups, rest = output.decode().split("--\n")
        setgroups, _, status = rest.partition("\n")
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return cls(users.split(), groups.split(), setgroups, {field: lines[field] for field in FIELDS})


async def seen_with(identity: IdentityLike) -> Seen:
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        return Seen.read((await worker.run_process(LOOK)).stdout)


def seen_with_unshare(*options: str) -> Seen:
    command = ["unshare", "--user", *options, "sh", "-c", LOOK]
    return Seen.read(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def in_order(seen: Seen) -> Seen:
    """The same with the lines of the maps in order: who writes them chooses it."""

    def ordered(numbers: list[str]) -> list[str]:
        return [number for line in sorted(zip(*[iter(map(int, numbers))] * 3, strict=True)) for number in map(str, line)]

    return dataclasses.replace(seen, user_map=ordered(seen.user_map), group_map=ordered(seen.group_map))


@on_one_loop
@pytest.mark.parametrize("option", ["root", "current"])
async def test_one_id_is_mapped_as_by_unshare(option: str) -> None:
    ours, theirs = await seen_with(getattr(Identity, option)), seen_with_unshare(f"--map-{option}-user")
    # unshare(1) always forbids setgroups, as it maps from inside; from outside, root need not
    assert ours == dataclasses.replace(theirs, setgroups="allow" if os.geteuid() == 0 else "deny")
    forbidding = dataclasses.replace(getattr(Identity, option)(), setgroups=False)
    assert await seen_with(forbidding) == theirs


@on_one_loop
async def test_no_identity_is_as_unshare_leaves_it() -> None:
    ours = await seen_with(Identity())
    assert ours == seen_with_unshare()
    assert ours.user_map == ours.group_map == []


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
async def test_subordinate_ids_are_mapped_as_by_unshare() -> None:
    numbers = {kind: subordinate.ranges(kind)[0] for kind in ("user", "group")}
    options = [f"--map-{kind}s={part.start},1,{len(part)}" for kind, part in numbers.items()]
    ours = await seen_with(Identity.subordinate)
    assert in_order(ours) == in_order(seen_with_unshare("--map-root-user", *options))
    assert ours.setgroups == "allow"
    assert (await seen_with(dataclasses.replace(Identity.subordinate(), setgroups=False))).setgroups == "deny"
    at_1000 = await seen_with(Identity.subordinate(user=1000, group=1000))
    assert in_order(at_1000).user_map[:3] == ["0", str(numbers["user"].start), "1000"]


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
@on_one_loop
async def test_subordinate_ids_can_be_used_inside() -> None:
    async with open_worker(unshare=Namespace.USER, identity=Identity.subordinate) as worker:
        done = await worker.run_process(["id", "-u"], user=65536, group=65536, extra_groups=[7])
        assert done.stdout == b"65536\n"
        owner = (
            await worker.run_process("touch file; chown 5:6 file; stat -c %u:%g file; rm file", cwd=tempfile.gettempdir())
        ).stdout
        assert owner == b"5:6\n"


@pytest.mark.root
@on_one_loop
async def test_the_whole_is_every_id_as_it_is() -> None:
    theirs = subprocess.run(["sh", "-c", LOOK], check=True, stdout=subprocess.PIPE).stdout
    ours = await seen_with(Identity.whole)
    assert ours == dataclasses.replace(Seen.read(theirs), status=ours.status)
    assert ours.status["Uid"].split() == ours.status["Gid"].split() == ["0"] * 4
    assert ours.status["CapEff"] == ours.status["CapBnd"]


@pytest.mark.root
@on_one_loop
async def test_a_worker_that_is_somebody_else_outside_calls_functions() -> None:
    """Also where that user may not read Python's files: below /root, say."""
    identity = Identity([UserMapping(0, 100_000, 1000)], [GroupMapping(0, 100_000, 1000)])
    async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
        assert await worker.run_sync(os.getuid) == 0


SPLIT = """
import sys
import anyio
from aions import Identity, Namespace, UserMapping, GroupMapping, open_worker

async def main():
    for identity in Identity.whole, Identity([UserMapping(10, 3, 4)], [GroupMapping(0, 0, 20)]):
        async with open_worker(unshare=Namespace.USER, identity=identity) as worker:
            await worker.run_process("cat /proc/self/uid_map /proc/self/gid_map | xargs", stdout=None)
    try:
        async with open_worker(unshare=Namespace.USER, identity=Identity([UserMapping(0, 0, 21)])):
            raise AssertionError
    except ValueError as error:
        print(error)

anyio.run(main)
"""


@on_one_loop
@pytest.mark.needs("newuidmap")
async def test_mappings_are_split_where_those_of_the_app_end() -> None:
    """The app is itself in a user namespace, with many mappings."""
    async with open_worker(unshare=Namespace.USER, identity=of_many_extents) as worker:
        whole, split, refused = await run_python(worker, "-c", SPLIT)
    assert whole == " ".join(f"{first} {first} {count}" for first, count in id_maps.PARENT * 2)
    assert split == "10 3 2 12 5 2 0 0 1 1 1 4 5 5 15"
    assert "UserMapping(inside=0, outside=0, count=21)" in refused
    assert "no id 20 " in refused


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
@on_one_loop
async def test_a_single_id_may_be_a_subordinate_one() -> None:
    user, group = (subordinate.ranges(kind)[0].start for kind in ("user", "group"))
    seen = await seen_with(Identity([UserMapping(0, user, 1)], [GroupMapping(0, group, 1)]))
    assert (seen.user_map, seen.group_map, seen.setgroups) == (["0", str(user), "1"], ["0", str(group), "1"], "allow")
    assert seen.status["Uid"].split() == seen.status["Gid"].split() == ["0"] * 4
    assert (await seen_with(Identity([UserMapping(0, os.geteuid(), 1)], [GroupMapping(5, group, 1)]))).setgroups == "allow"


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
async def test_subordinate_ids_are_mapped_after_unshare() -> None:
    identity = Identity.subordinate()
    async with open_worker() as worker:
        await worker.unshare(Namespace.USER)
        await worker.write_user_mappings(None, identity.user_mappings)
        await worker.write_group_mappings(worker.pid, identity.group_mappings)
        seen = Seen.read((await worker.run_process(LOOK)).stdout)
    assert seen == await seen_with(identity)


@pytest.mark.parametrize(("options", "there"), [(["-r"], 0), (["--map-user=7", "--map-group=7"], 7)], ids=["root", "user 7"])
@pytest.mark.parametrize("identity", [Identity.root, Identity.current, Identity.root()], ids=["root", "current", "explicit"])
@on_one_loop
async def test_ones_own_id_in_a_user_namespace_that_was_entered(identity: IdentityLike, options: list[str], there: int) -> None:
    """Outside is who the worker is there, not who the app is here."""
    kinds = Namespace.USER | Namespace.NETWORK
    expected = os.geteuid() if identity == Identity.current else 0
    with target(kinds, *options) as pid:
        async with open_worker(enter=(pid, kinds), unshare=Namespace.USER | Namespace.UTS, identity=identity) as worker:
            seen = Seen.read((await worker.run_process(LOOK)).stdout)
            await worker.sethostname("inside")
    assert (seen.user_map, seen.group_map) == ([str(expected), str(there), "1"], [str(expected), str(there), "1"])
    assert seen.status["Uid"].split() == [str(expected)] * 4


@on_one_loop
async def test_mappings_are_those_of_a_user_namespace_that_was_entered() -> None:
    """The app need not have the ids."""
    identity = Identity([UserMapping(3, 7, 1)], [GroupMapping(0, 7, 1)])
    with target(Namespace.USER, "--map-user=7", "--map-group=7") as pid:
        async with open_worker(enter=(pid, "user"), unshare="user", identity=identity) as worker:
            assert (await worker.run_process(["id", "-u"])).stdout == b"3\n"


@contextmanager
def not_mapped(*said: str) -> Iterator[None]:
    with pytest.raises(PermissionError) as caught:
        yield
    for words in said:
        assert words in "\n".join(caught.value.__notes__)


def beyond_ones_own() -> Identity:
    return Identity([UserMapping(0, os.geteuid(), 1), UserMapping(1, 7, 3)])


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
@on_one_loop
async def test_ids_that_are_not_ones_own_are_refused_with_the_words_of_newuidmap() -> None:
    with not_mapped("newuidmap", "uid range [1-4) -> [7-10) not allowed", "Remedy: see /etc/subuid"):
        async with open_worker(unshare=Namespace.USER, identity=beyond_ones_own):
            raise AssertionError
    groups = [GroupMapping(0, os.getegid(), 1), GroupMapping(1, 7, 3)]
    with not_mapped("newgidmap", "gid range [1-4) -> [7-10) not allowed"):
        async with open_worker(unshare=Namespace.USER, identity=Identity(group_mappings=groups)):
            raise AssertionError
    async with open_worker(unshare=Namespace.USER, identity=Identity()) as worker:
        with not_mapped("newuidmap", "uid range [1-4) -> [7-10) not allowed"):
            await worker.write_user_mappings(None, beyond_ones_own().user_mappings)


@pytest.mark.plain_user
@on_one_loop
async def test_it_is_said_where_newuidmap_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with not_mapped("newuidmap", "not installed", "Debian package uidmap"):
        async with open_worker(unshare=Namespace.USER, identity=beyond_ones_own):
            raise AssertionError


SHIM = """#!/bin/sh
# A newuidmap that takes nothing but a descriptor, as that of shadow 4.14 may.
program=$(basename "$0")
case $1 in
fd:*) pid=$(basename "$(readlink "/proc/self/fd/${1#fd:}")") ;;
*) echo "no descriptor" >&2; exit 1 ;;
esac
shift
exec "REAL/$program" "$pid" "$@"
"""


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
@on_one_loop
async def test_newuidmap_gets_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("newuidmap", "newgidmap"):
        real = shutil.which(program)
        assert real is not None
        (tmp_path / program).write_text(SHIM.replace("REAL", os.path.dirname(real)))
        (tmp_path / program).chmod(0o755)
    before = await seen_with(Identity.subordinate)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await seen_with(Identity.subordinate) == before


@pytest.mark.plain_user
@on_one_loop
async def test_setgroups_that_must_be_allowed_is_refused_to_a_plain_user() -> None:
    with not_mapped("setgroups"):
        async with open_worker(unshare=Namespace.USER, identity=dataclasses.replace(Identity.root(), setgroups=True)):
            raise AssertionError


@on_one_loop
@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
async def test_somebody_else_inside_has_none_of_the_apps_groups() -> None:
    """Also not its own one, where that is mapped, and somebody else could have it."""
    async with open_worker(unshare=Namespace.USER, identity=Identity.subordinate) as worker:
        assert (await worker.get_credentials(None)).extra_groups == ()
        groups = (await worker.run_process(["id", "-G"], user=1000, group=1000)).stdout
        assert groups == b"1000\n"
