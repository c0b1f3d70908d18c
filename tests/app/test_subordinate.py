"""Where subordinate ids are read, and how they are put beside the user's own."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from aions import AionsError, GroupMapping, Identity, UserMapping
from aions._app import subordinate
from aions._app.findings import refused
from aions._app.identity import _beside
from aions._app.subordinate import ranges, without

NAME = pwd.getpwuid(os.geteuid()).pw_name
UID = os.geteuid()


def etc(directory: Path, subuid: str, nsswitch: str = "") -> Path:
    (directory / "subuid").write_text(subuid)
    (directory / "nsswitch.conf").write_text(nsswitch)
    return directory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{NAME}:100000:65536\n", [(100_000, 65_536)]),
        (f"{UID}:100000:65536\n", [(100_000, 65_536)]),
        (f"other:1:1\n{NAME}:300:10\n{UID}:100:10", [(300, 10), (100, 10)]),
        (f"{NAME}:100:10\n{UID}:100:10\n", [(100, 10)]),
        (f"{NAME}:100:10\n{UID}:105:10\n{NAME}:90:40\n", [(100, 10), (110, 5), (90, 10), (115, 15)]),
        (f"# {NAME}:1:1\n\n{NAME}\n{NAME}:x:1\n{NAME}:1:-1\n{NAME}:1:1:1\n{NAME}:7:2\n", [(7, 2)]),
        (f"{NAME}:7:0\n{NAME}:4294967290:5\n{NAME}:4294967290:6\n", [(4_294_967_290, 5)]),
    ],
)
def test_every_range_of_the_user_is_found_by_name_and_by_uid(
    tmp_path: Path, text: str, expected: list[tuple[int, int]]
) -> None:
    assert [(part.start, len(part)) for part in ranges("user", etc(tmp_path, text))] == expected


@pytest.mark.parametrize("kind", ["user", "group"])
@pytest.mark.parametrize(
    ("subuid", "subgid", "free"),
    [
        ("other:1:1\n", "", "100000-165535"),
        ("other:100000:65536\n", "", "165536-231071"),
        ("other:100000:65536\n", "another:500000:10\nother:7:1\n", "500010-565545"),
    ],
)
def test_a_user_without_ids_is_told_how_to_get_some_that_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, subuid: str, subgid: str, free: str
) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    (tmp_path / "subgid").write_text(subgid)
    with pytest.raises(AionsError, match=f"no subordinate {kind} ids") as caught:
        ranges(kind, etc(tmp_path, subuid))
    remedy = f"usermod --add-subuids {free} --add-subgids {free} {NAME}"
    assert caught.value.__notes__ == [f"Remedy: {remedy}"]
    assert refused("ids inside", caught.value).remedy == remedy


def test_a_user_without_account_is_told_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7777)
    with pytest.raises(AionsError) as caught:
        ranges("user", etc(tmp_path, "other:1:1\n"))
    assert "useradd --uid 7777" in caught.value.__notes__[0]


GETSUBIDS = """#!/bin/sh
[ "$1" = -g ] && { echo "0: $2 700 7"; exit; }
[ "$1" = NAME ] || { echo "Error fetching ranges" >&2; exit 1; }
echo "0: $1 500 5"
echo "1: $1 600 6"
"""


@pytest.fixture
def getsubids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "getsubids"
    program.parent.mkdir()
    program.write_text(GETSUBIDS.replace("NAME", NAME))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("getsubids")
@pytest.mark.parametrize("nsswitch", ["subid: sss\n", "passwd: files\n  subid :\tldap # ours\n"])
def test_a_directory_service_is_asked_through_getsubids(tmp_path: Path, nsswitch: str) -> None:
    assert ranges("user", etc(tmp_path, f"{NAME}:1:1\n", nsswitch)) == [range(500, 505), range(600, 606)]
    assert ranges("group", etc(tmp_path, f"{NAME}:1:1\n", nsswitch)) == [range(700, 707)]


@pytest.mark.usefixtures("getsubids")
@pytest.mark.parametrize("nsswitch", ["", "passwd: sss\n", "subid: files\n", "# subid: sss\n", "subid:\n"])
def test_nobody_is_asked_where_files_are_all_there_is(tmp_path: Path, nsswitch: str) -> None:
    assert ranges("user", etc(tmp_path, f"{NAME}:1:1\n", nsswitch)) == [range(1, 2)]


def test_a_directory_service_without_getsubids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AionsError, match="Debian: package uidmap"):
        ranges("user", etc(tmp_path, f"{NAME}:1:1\n", "subid: sss\n"))


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        (range(5), [range(5, 10)]),
        (range(3, 4), [range(3), range(4, 10)]),
        (range(9, 20), [range(9)]),
        (range(10), []),
        (range(10, 11), [range(10)]),
        (range(5, 5), [range(5), range(5, 10)]),
    ],
)
def test_a_range_is_cut_out(taken: range, left: list[range]) -> None:
    assert list(without([range(10)], taken)) == left


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((0, 1000, 1), [(1, 500, 3), (4, 700, 4)]),
        ((2, 1000, 1), [(0, 500, 2), (3, 502, 1), (4, 700, 4)]),
        ((3, 1000, 1), [(0, 500, 3), (4, 700, 4)]),
        ((1000, 1000, 1), [(0, 500, 3), (3, 700, 4)]),
        ((0, 501, 1), [(1, 500, 1), (2, 502, 1), (3, 700, 4)]),
        ((5, 703, 1), [(0, 500, 3), (3, 700, 2), (6, 702, 1)]),
    ],
)
@pytest.mark.parametrize("kind", [UserMapping, GroupMapping])
def test_the_users_own_id_has_its_place_among_the_others(
    own: tuple[int, ...], expected: list[tuple[int, ...]], kind: type[UserMapping]
) -> None:
    mappings = list(_beside(kind(*own), [range(500, 503), range(700, 704)]))
    assert mappings == [kind(*own), *(kind(*numbers) for numbers in expected)]


def test_an_identity_is_made_of_the_ranges_of_users_and_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"user": [range(500, 503)], "group": [range(700, 704)]}
    monkeypatch.setattr(subordinate, "ranges", found.__getitem__)
    user, group = os.geteuid(), os.getegid()
    assert Identity.subordinate() == Identity(
        [UserMapping(0, user, 1), UserMapping(1, 500, 3)], [GroupMapping(0, group, 1), GroupMapping(1, 700, 4)]
    )
    assert Identity.subordinate(user=1, group=9) == Identity(
        [UserMapping(1, user, 1), UserMapping(0, 500, 1), UserMapping(2, 501, 2)],
        [GroupMapping(9, group, 1), GroupMapping(0, 700, 4)],
    )
