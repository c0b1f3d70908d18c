"""Id maps: what is refused before the kernel would, and what is split for it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aions import GroupMapping, UserMapping
from aions._app.id_maps import fitted, map_text, parse
from tests.app.test_types import mappings


def overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


@given(st.lists(mappings(), min_size=1, max_size=6))
@settings(max_examples=200, database=None, deadline=None)
def test_a_map_is_written_if_no_two_mappings_overlap(several: list[UserMapping]) -> None:
    overlaps = any(
        overlap(range(one.inside, one.inside + one.count), range(other.inside, other.inside + other.count))
        or overlap(range(one.outside, one.outside + one.count), range(other.outside, other.outside + other.count))
        for index, one in enumerate(several)
        for other in several[:index]
    )
    if overlaps:
        with pytest.raises(ValueError, match=r"overlap (inside|outside)"):
            map_text(several)
    else:
        lines = [tuple(map(int, line.split())) for line in map_text(several).splitlines()]
        assert lines == [dataclasses.astuple(mapping) for mapping in several]


@pytest.mark.parametrize(
    ("one", "other", "side"),
    [
        ((0, 0, 10), (9, 100, 1), "inside"),
        ((0, 0, 10), (100, 9, 1), "outside"),
        ((5, 0, 1), (0, 100, 10), "inside"),
        ((0, 100, 10), (100, 105, 1), "outside"),
        ((0, 0, 1), (0, 1, 1), "inside"),
        ((0, 0, 1), (1, 0, 1), "outside"),
    ],
)
def test_an_overlap_on_either_side_is_refused(one: tuple[int, int, int], other: tuple[int, int, int], side: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=f"overlap {side}"):
            map_text(UserMapping(*numbers) for numbers in pair)


def test_mappings_that_touch_do_not_overlap() -> None:
    assert map_text([UserMapping(10, 0, 10), UserMapping(0, 10, 10)]) == "10 0 10\n0 10 10\n"


def test_a_map_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        map_text([])


def single_ids(count: int) -> list[UserMapping]:
    return [UserMapping(number, number, 1) for number in range(count)]


def test_a_map_has_340_lines_at_most() -> None:
    assert map_text(single_ids(340)).count("\n") == 340
    with pytest.raises(ValueError, match=r"341 mappings .*: from UserMapping\(inside=340, .* on"):
        map_text(single_ids(341))


def long_lines(total: int) -> list[UserMapping]:
    """Return mappings whose text has so many bytes: 170 lines of 24, and one that makes up the difference."""
    lines = [UserMapping(10**9 + number, 10**9 + number, 1) for number in range(170)]
    digits = total - 24 * len(lines) - len("1234567890  1\n")
    return [*lines, UserMapping(10**9 + len(lines), 10 ** (digits - 1), 1)]


def test_a_map_has_4095_bytes_at_most() -> None:
    assert len(map_text(long_lines(4095))) == 4095
    with pytest.raises(ValueError, match=r"of 4096 bytes: from UserMapping\(inside=1000000170, .* on"):
        map_text(long_lines(4096))


PARENT = [UserMapping(0, 1000, 1), UserMapping(1, 100_000, 99), UserMapping(100, 7, 10), UserMapping(200, 500_000, 5)]


@pytest.mark.parametrize(
    ("mapping", "pieces"),
    [
        ((0, 0, 1), [(0, 0, 1)]),
        ((0, 0, 2), [(0, 0, 1), (1, 1, 1)]),
        ((50, 5, 10), [(50, 5, 10)]),
        ((0, 0, 110), [(0, 0, 1), (1, 1, 99), (100, 100, 10)]),
        ((7, 99, 2), [(7, 99, 1), (8, 100, 1)]),
        ((0, 204, 1), [(0, 204, 1)]),
    ],
)
def test_a_mapping_is_split_where_one_of_the_parents_ends(mapping: tuple[int, ...], pieces: list[tuple[int, ...]]) -> None:
    for kind in (UserMapping, GroupMapping):
        for parent in (PARENT, PARENT[::-1]):
            assert fitted([kind(*mapping)], parent) == tuple(kind(*piece) for piece in pieces)


@pytest.mark.parametrize(("mapping", "hole"), [((0, 110, 1), 110), ((0, 0, 201), 110), ((0, 199, 2), 199), ((0, 200, 6), 205)])
def test_an_id_that_the_parent_has_not_is_refused_by_name(mapping: tuple[int, ...], hole: int) -> None:
    with pytest.raises(ValueError, match=rf"{UserMapping(*mapping)!r}.* no id {hole} ".replace("(", r"\(").replace(")", r"\)")):
        fitted([UserMapping(0, 0, 1), UserMapping(*mapping)], PARENT)


@given(mappings(), st.lists(mappings(), min_size=1, max_size=6))
@settings(max_examples=300, database=None, deadline=None)
def test_the_pieces_of_a_mapping_make_it_up_and_lie_in_one_of_the_parents_each(
    mapping: UserMapping, parent: list[UserMapping]
) -> None:
    try:
        pieces = fitted([mapping], parent)
    except ValueError:
        return
    assert dataclasses.replace(pieces[0], count=mapping.count) == mapping
    assert sum(piece.count for piece in pieces) == mapping.count
    for one, next_one in pairwise(pieces):
        assert (next_one.inside, next_one.outside) == (one.inside + one.count, one.outside + one.count)
    for piece in pieces:
        assert any(
            extent.inside <= piece.outside and piece.outside + piece.count <= extent.inside + extent.count for extent in parent
        )


def test_what_the_kernel_shows_is_what_was_written() -> None:
    text = "         0     100000      65536\n     65536       1000          1\n"
    assert parse(text, GroupMapping) == [GroupMapping(0, 100_000, 65_536), GroupMapping(65_536, 1000, 1)]
    assert parse("", UserMapping) == []
