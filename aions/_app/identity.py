"""Who the app is inside a new user namespace, as a value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from aions._app import id_maps, subordinate
from aions._types import GroupMapping, UserMapping

M = TypeVar("M", bound=UserMapping)


@dataclass(frozen=True, init=False)
class Identity:
    """The mappings of a new user namespace: explicit ones, or those that `root`, `current`, `subordinate` or `whole` makes.

    Args:
        user_mappings: the uid map; empty, it is left unwritten.
        group_mappings: the gid map, likewise.
        setgroups: whether setgroups(2) is to be allowed inside. None: where the kernel lets it be; False: never; True: or else
            opening fails.
        owner: the user and the group that the user namespace is to be made by, and so belong to. None: the app's own. For root.

    A mapping that crosses from one mapping of the app's own user namespace into the next is split.

    Raises:
        ValueError: two mappings overlap, or they are more than the kernel takes.

    Kernel: user_namespaces(7).
    """

    user_mappings: tuple[UserMapping, ...]
    group_mappings: tuple[GroupMapping, ...]
    setgroups: bool | None
    owner: tuple[int, int] | None

    def __init__(
        self,
        user_mappings: Iterable[UserMapping] = (),
        group_mappings: Iterable[GroupMapping] = (),
        setgroups: bool | None = None,
        owner: tuple[int, int] | None = None,
    ) -> None:
        object.__setattr__(self, "user_mappings", tuple(user_mappings))
        object.__setattr__(self, "group_mappings", tuple(group_mappings))
        object.__setattr__(self, "setgroups", setgroups)
        object.__setattr__(self, "owner", owner)
        for mappings in (self.user_mappings, self.group_mappings):
            if mappings:
                id_maps.map_text(mappings)

    @classmethod
    def root(cls) -> Identity:
        """Be root inside: the app's user and group as 0, and nobody else. Anybody may."""
        return cls([UserMapping(0, os.geteuid(), 1)], [GroupMapping(0, os.getegid(), 1)])

    @classmethod
    def current(cls) -> Identity:
        """Be inside who the app is outside, and nobody else. Anybody may.

        A command that is not root inside keeps no capabilities, unless `keep_capabilities` says so.
        """
        user, group = os.geteuid(), os.getegid()
        return cls([UserMapping(user, user, 1)], [GroupMapping(group, group, 1)])

    @classmethod
    def subordinate(cls, user: int = 0, group: int = 0) -> Identity:
        """Be root inside, and have the user's subordinate ids as 1 and up, every range of them: the most that a user may have.

        It takes newuidmap(1) and newgidmap(1) (Debian: package uidmap), unless the app is root. Where nsswitch.conf(5) has the
        ids come from a directory service, this waits for it: call it in a thread, as `open_worker` does with
        `identity=Identity.subordinate`.

        Args:
            user: what the app's user is inside. The subordinate ids take the other numbers, from 0 up.
            group: the same for its group.

        Raises:
            AionsError: the user has no subordinate ids.

        Kernel: subuid(5), subgid(5).
        """
        users, groups = subordinate.ranges("user"), subordinate.ranges("group")
        return cls(
            _beside(UserMapping(user, os.geteuid(), 1), users),
            _beside(GroupMapping(group, os.getegid(), 1), groups),
        )

    @classmethod
    def whole(cls) -> Identity:
        """Have every id inside as it is outside. For root."""
        return cls(
            _as_they_are(id_maps.read_own("uid_map", UserMapping)), _as_they_are(id_maps.read_own("gid_map", GroupMapping))
        )


IdentityLike = Identity | Callable[[], Identity]
"""An identity, or what makes one once it is needed: `Identity.root` goes by who the app is then, not when it was imported.

What is neither `root`, `current` nor `whole` is called in a thread.
"""


def _as_they_are(extents: Iterable[M]) -> Iterator[M]:
    for extent in extents:
        yield type(extent)(extent.inside, extent.inside, extent.count)


def _beside(own: M, ranges: Iterable[range]) -> Iterator[M]:
    """Map ranges to the numbers from 0 up that a single mapped id leaves free. Its outside id may be in a range, too."""
    yield own
    yield from around(own, range(subordinate.END), ranges)


def around(own: M, inside: range, outside: Iterable[range]) -> Iterator[M]:
    """Map one range to others, both in their order, leaving out what a single mapped id takes on either side."""
    free = subordinate.without([inside], range(own.inside, own.inside + 1))
    others = subordinate.without(outside, range(own.outside, own.outside + 1))
    for numbers in id_maps.paired(free, others):
        yield type(own)(*numbers)
