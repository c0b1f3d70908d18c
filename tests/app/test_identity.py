"""Identities as values."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pickle

import pytest

from aions import GroupMapping, Identity, UserMapping, open_worker

USERS = [UserMapping(0, 1000, 1), UserMapping(1, 100_000, 65_536)]
GROUPS = [GroupMapping(0, 1000, 1)]


def test_an_identity_is_an_immutable_value() -> None:
    identity = Identity(iter(USERS), iter(GROUPS), setgroups=False)
    assert identity == Identity(USERS, GROUPS, False) != Identity(USERS, GROUPS)
    assert len({identity, Identity(USERS, GROUPS, False), Identity(USERS)}) == 2
    assert (identity.user_mappings, identity.group_mappings) == (tuple(USERS), tuple(GROUPS))
    assert pickle.loads(pickle.dumps(identity)) == identity
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.setgroups = True  # type: ignore[misc]


def test_what_no_kernel_takes_is_no_identity() -> None:
    overlap = [UserMapping(0, 0, 2), UserMapping(1, 5, 1)]
    with pytest.raises(ValueError, match="overlap inside"):
        Identity(overlap)
    with pytest.raises(ValueError, match="overlap outside"):
        Identity(group_mappings=[GroupMapping(0, 5, 1), GroupMapping(1, 5, 1)])
    with pytest.raises(ValueError, match="341 mappings"):
        Identity([UserMapping(number, 2 * number, 1) for number in range(341)])


def test_the_usual_identities_are_of_who_the_app_is() -> None:
    user, group = os.geteuid(), os.getegid()
    assert Identity.root() == Identity([UserMapping(0, user, 1)], [GroupMapping(0, group, 1)])
    assert Identity.current() == Identity([UserMapping(user, user, 1)], [GroupMapping(group, group, 1)])


def test_the_default_stands_in_the_signature() -> None:
    assert inspect.signature(open_worker).parameters["identity"].default == Identity.root
