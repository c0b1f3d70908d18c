"""The options of unshare(1) about who the command is in a new user namespace."""

from __future__ import annotations

import argparse
import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from aions import GroupMapping, Identity, UserMapping
from aions._app import id_maps, subordinate
from aions._app.identity import around
from aions._cli.options import Options, id_number

M = TypeVar("M", bound=UserMapping)

_WORDS = ("auto", "subids", "all")
_OLD = re.compile(r"([0-9]+),([0-9]+),([0-9]+)")
_NEW = re.compile(r"([0-9]+):([0-9]+):([0-9]+)")


def add_options(options: Options) -> None:
    """Declare the options."""
    options.flag("-r", "--map-root-user", help="be root in the user namespace (implies --user, as all that map)")
    options.flag("-c", "--map-current-user", help="be who you are in the user namespace")
    options.value("--map-user", metavar="USER", type=_user, help="be this user in the user namespace")
    options.value("--map-group", metavar="GROUP", type=_group, help="be of this group in the user namespace")
    ranges = "INNER:OUTER:COUNT, OUTER,INNER,COUNT, auto (subordinate ids from 0 up), subids (as they are) or all"
    options.repeatable("--map-users", metavar="RANGE", type=_range, help=f"map users: {ranges}")
    options.repeatable("--map-groups", metavar="RANGE", type=_range, help="map groups likewise")
    options.flag("--map-auto", help="--map-users=auto --map-groups=auto")
    options.value("--setgroups", metavar="allow|deny", type=_setgroups, help="whether setgroups(2) is allowed inside")
    options.value("--owner", metavar="UID:GID", type=_owner, help="who the user namespace is made by, and belongs to")


def identity(options: argparse.Namespace) -> Identity | None:
    """Return who the command is to be; None if the options do not say."""
    user, group = _own(options, options.map_user, os.geteuid()), _own(options, options.map_group, os.getegid())
    auto = ["auto"] if options.map_auto else []
    mapped = Identity(
        _mappings(UserMapping, "user", user, options.map_users + auto),
        _mappings(GroupMapping, "group", group, options.map_groups + auto),
        options.setgroups,
        options.owner,
    )
    return mapped if mapped != Identity() else None


def _own(options: argparse.Namespace, given: int | None, current: int) -> int | None:
    if given is not None:
        return given
    return 0 if options.map_root_user else current if options.map_current_user else None


def _mappings(kind: type[M], name: str, inside: int | None, wanted: list[str | UserMapping]) -> Iterator[M]:
    """Map one's own id, and others around it: what has no place beside it is left out, from the top."""
    ranges = [part for each in wanted for part in _ranges(name, each)]
    if inside is None:
        yield from (kind(*each) for each in ranges)
        return
    own = kind(inside, os.geteuid() if name == "user" else os.getegid(), 1)
    yield own
    for first, outside, count in ranges:
        yield from around(own, range(first, first + count), [range(outside, outside + count)])


def _ranges(name: str, wanted: str | UserMapping) -> Iterator[tuple[int, int, int]]:
    if isinstance(wanted, UserMapping):
        yield wanted.inside, wanted.outside, wanted.count
    elif wanted == "all":
        for extent in id_maps.read_own("uid_map" if name == "user" else "gid_map", UserMapping):
            yield extent.inside, extent.inside, extent.count
    else:
        inside = 0
        for part in subordinate.ranges(name):
            yield part.start if wanted == "subids" else inside, part.start, len(part)
            inside += len(part)


def _range(text: str) -> str | UserMapping:
    """Read a range in the new order, or in the old one."""
    if text in _WORDS:
        return text
    if match := _NEW.fullmatch(text):
        inside, outside, count = map(int, match.groups())
    elif match := _OLD.fullmatch(text):
        outside, inside, count = map(int, match.groups())
    else:
        raise argparse.ArgumentTypeError(f"{text!r} is no range: INNER:OUTER:COUNT, or {', '.join(_WORDS)}")
    try:
        return UserMapping(inside, outside, count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _user(text: str) -> int:
    return _id(text, lambda: pwd.getpwnam(text).pw_uid)


def _group(text: str) -> int:
    return _id(text, lambda: grp.getgrnam(text).gr_gid)


def _id(text: str, named: Callable[[], int]) -> int:
    try:
        return int(text) if text.isdecimal() else named()
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is nobody") from None


def _owner(text: str) -> tuple[int, int]:
    user, colon, group = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no owner: UID:GID")
    return id_number(user), id_number(group)


def _setgroups(text: str) -> bool:
    if text not in ("allow", "deny"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither allow nor deny")
    return text == "allow"
