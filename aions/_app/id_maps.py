"""The arithmetic of id maps: what the kernel takes, found out before anything is written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from aions._types import UserMapping

M = TypeVar("M", bound=UserMapping)

_MAX_LINES = 340
_MAX_BYTES = 4095


def map_text(mappings: Iterable[UserMapping]) -> str:
    """Write mappings as uid_map and gid_map take them.

    Raises:
        ValueError: there are none, two overlap on either side, or they are more than the kernel takes in its one write.
    """
    mappings = list(mappings)
    if not mappings:
        raise ValueError("an id map needs at least one mapping")
    for side in ("inside", "outside"):
        _check_overlap(mappings, side)
    lines = [f"{mapping.inside} {mapping.outside} {mapping.count}\n" for mapping in mappings]
    _check_size(mappings, lines)
    return "".join(lines)


def _check_overlap(mappings: list[UserMapping], side: str) -> None:
    ordered = sorted(mappings, key=lambda mapping: getattr(mapping, side))
    for lower, upper in pairwise(ordered):
        if getattr(lower, side) + lower.count > getattr(upper, side):
            raise ValueError(f"{lower!r} and {upper!r} overlap {side}")


def _check_size(mappings: list[UserMapping], lines: list[str]) -> None:
    size = 0
    for number, (mapping, line) in enumerate(zip(mappings, lines, strict=True), start=1):
        size += len(line)
        if number > _MAX_LINES or size > _MAX_BYTES:
            total = f"{len(lines)} mappings of {len(''.join(lines))} bytes"
            raise ValueError(f"{total}: from {mapping!r} on, beyond the kernel's {_MAX_LINES} lines and {_MAX_BYTES} bytes")


def fitted(mappings: Iterable[M], parent: Sequence[UserMapping]) -> tuple[M, ...]:
    """Split mappings where they cross from one mapping of the parent namespace's into the next: the kernel does not.

    Raises:
        ValueError: outside ids that the parent namespace has not.
    """
    extents = sorted((extent.inside, extent.inside + extent.count) for extent in parent)
    return tuple(piece for mapping in mappings for piece in _pieces(mapping, extents))


def _pieces(mapping: M, extents: list[tuple[int, int]]) -> Iterator[M]:
    done = 0
    while done < mapping.count:
        first = mapping.outside + done
        index = bisect_right(extents, (first, 2**32)) - 1
        if index < 0 or extents[index][1] <= first:
            error = ValueError(f"{mapping!r}: the namespace to map from has no id {first} (see its uid_map and gid_map)")
            error.add_note(
                "Remedy: map others; or have this one mapped by who made the user namespace of the app (a container's)."
            )
            raise error
        count = min(extents[index][1] - first, mapping.count - done)
        yield type(mapping)(mapping.inside + done, first, count)
        done += count


_NO_ID = 2**32 - 1
"""What the kernel writes for an outside id that whoever reads the map has no number for."""


def parse(text: str, kind: type[M]) -> list[M]:
    """Read what uid_map and gid_map say, but for mappings to what the reader does not know."""
    lines = (map(int, line.split()) for line in text.splitlines())
    return [kind(inside, outside, count) for inside, outside, count in lines if outside != _NO_ID]


def paired(insides: Iterator[range], outsides: Iterator[range]) -> Iterator[tuple[int, int, int]]:
    """Give ids inside to ids outside, both in their order, until one side has no more."""
    inside = outside = range(0)
    while (inside := inside or next(insides, range(0))) and (outside := outside or next(outsides, range(0))):
        count = min(len(inside), len(outside))
        yield inside.start, outside.start, count
        inside, outside = inside[count:], outside[count:]


def outward(mappings: Iterable[UserMapping], number: int) -> int | None:
    """Translate an id inside to that outside; None where there is none."""
    return _translated(((mapping.inside, mapping.outside, mapping.count) for mapping in mappings), number)


def inward(mappings: Iterable[UserMapping], number: int) -> int | None:
    """Translate an id outside to that inside; None where there is none."""
    return _translated(((mapping.outside, mapping.inside, mapping.count) for mapping in mappings), number)


def _translated(extents: Iterable[tuple[int, int, int]], number: int) -> int | None:
    for start, to, count in extents:
        if start <= number < start + count:
            return to + number - start
    return None


def read_own(file: str, kind: type[M]) -> list[M]:
    """Read the map of the app's own user namespace: "uid_map" or "gid_map"."""
    with open(f"/proc/self/{file}", "rb", buffering=0) as map_file:
        return parse(map_file.readall().decode(), kind)
