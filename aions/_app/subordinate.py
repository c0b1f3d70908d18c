"""The ids that a user may hand out: /etc/subuid and /etc/subgid, or wherever else nsswitch.conf says."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aions._errors import AionsError

_LINE = re.compile(r"([^:\s]+):([0-9]{1,10}):([0-9]{1,10})\s*")
_GETSUBIDS_LINE = re.compile(r"[0-9]+: \S+ ([0-9]{1,10}) ([0-9]{1,10})")
_SOURCES = re.compile(r"^\s*subid\s*:\s*(.*?)\s*(?:#.*)?$", re.MULTILINE)
END = 2**32 - 1
"""One more than the highest id."""

_LEAST, _ENOUGH = 100_000, 65_536
"""Where useradd(8) begins to hand out ids, and how many it gives each user."""

FILES = {"user": "subuid", "group": "subgid"}


def ranges(kind: str, etc: Path = Path("/etc")) -> list[range]:
    """Return the subordinate "user" or "group" ids of the current user: every range, in the order in which they are written.

    Raises:
        AionsError: there are none.
    """
    user = os.geteuid()
    names = {str(user), *_login_names(user)}
    found = _by_getsubids(kind, names) if _has_another_source(etc) else _in_file(etc / FILES[kind], names)
    usable = list(_disjoint(part for part in found if part and part.stop <= END))
    if not usable:
        error = AionsError(f"user {'/'.join(sorted(names))} has no subordinate {kind} ids (/etc/{FILES[kind]})")
        error.add_note(f"Remedy: {_how_to_get_some(etc)}")
        raise error
    return usable


def _how_to_get_some(etc: Path) -> str:
    """Return what gives the user ids that nobody else has: who shares them owns the other's files."""
    names = _login_names(os.geteuid())
    if not names:
        return f"useradd --uid {os.geteuid()} NAME (newuidmap serves only who has an account)"
    first = max([_LEAST, *(part.stop for file in FILES.values() for part in _in_file(etc / file))])
    free = f"{first}-{first + _ENOUGH - 1}"
    return f"usermod --add-subuids {free} --add-subgids {free} {names[0]}"


def without(parts: Iterable[range], taken: range) -> Iterator[range]:
    """Cut a range out of others."""
    for part in parts:
        yield from filter(
            None,
            (range(part.start, min(part.stop, taken.start)), range(max(part.start, taken.stop), part.stop)),
        )


def _login_names(user: int) -> list[str]:
    try:
        return [pwd.getpwuid(user).pw_name]
    except KeyError:
        return []  # a uid that has no account


def _has_another_source(etc: Path) -> bool:
    """Whether the ids are asked of a directory service: nsswitch.conf(5), `subid:`."""
    try:
        sources = _SOURCES.findall((etc / "nsswitch.conf").read_text())
    except OSError:
        return False
    return any(source not in ("", "files") for source in sources)


def _in_file(path: Path, names: set[str] | None = None) -> Iterator[range]:
    """Yield the ranges of a user; without names those of everybody."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is not None and (names is None or match[1] in names):
            yield range(int(match[2]), int(match[2]) + int(match[3]))


def _by_getsubids(kind: str, names: set[str]) -> Iterator[range]:
    program = shutil.which("getsubids")
    if program is None:
        raise AionsError(
            "nsswitch.conf has subordinate ids come from a service, which takes getsubids (Debian: package uidmap)"
        )
    for name in sorted(names):
        command: Sequence[str] = [program, *(["-g"] if kind == "group" else []), name]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
        for match in map(_GETSUBIDS_LINE.fullmatch, said.splitlines()):
            if match is not None:
                yield range(int(match[1]), int(match[1]) + int(match[2]))


def _disjoint(parts: Iterable[range]) -> Iterator[range]:
    """Leave of each range what no range before it has: a user may be listed by name and by uid."""
    before: list[range] = []
    for part in parts:
        left = [part]
        for taken in before:
            left = list(without(left, taken))
        before.append(part)
        yield from left
