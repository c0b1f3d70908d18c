"""The values: kinds of namespace, identities, mappings."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aions import Clock, GroupMapping, Namespace, NamespaceID, UserMapping
from aions._sys.libc import NAMESPACE_FLAGS
from aions._types import combine

NO_ID = 4294967295
MAPPINGS: list[type[UserMapping]] = [UserMapping, GroupMapping]


def test_there_is_one_namespace_for_each_flag_of_the_kernel() -> None:
    assert {kind.value for kind in Namespace} == set(NAMESPACE_FLAGS.values())


def test_a_namespace_and_its_kernel_name_are_each_others() -> None:
    assert [Namespace(kind.kernel_name) for kind in Namespace] == list(Namespace)
    assert {kind.kernel_name for kind in Namespace} >= {name.split("_")[0] for name in os.listdir("/proc/self/ns")}


@pytest.mark.parametrize("name", ["", "NET", "network", "Network", "net ", "net|mnt", "pid_for_children", "0"])
def test_a_name_that_the_kernel_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no namespace; the kernel knows cgroup, ipc, mnt, net, pid, time, user, uts"):
        Namespace(name)


@pytest.mark.parametrize("value", [1, 0x40, 0x40000001, 2**33, -(2**40), None, 1.5, b"net"])
def test_a_value_that_is_no_union_of_flags_is_refused(value: object) -> None:
    any_namespace: Any = Namespace
    with pytest.raises((ValueError, TypeError)):
        any_namespace(value)


@pytest.mark.parametrize("kinds", [Namespace(0), Namespace.NETWORK | Namespace.MOUNT])
def test_none_and_several_have_no_kernel_name(kinds: Namespace) -> None:
    with pytest.raises(ValueError, match="is not one namespace"):
        _ = kinds.kernel_name


def test_a_union_has_its_members() -> None:
    union = Namespace.NETWORK | Namespace.USER
    assert list(union) == [Namespace.USER, Namespace.NETWORK]
    assert Namespace.NETWORK in union
    assert Namespace.PID not in union
    assert Namespace(union.value) == union


@given(st.lists(st.sampled_from(list(Namespace)), min_size=1), st.data())
@settings(max_examples=100, database=None, deadline=None)
def test_combining_is_the_union_however_it_is_put(kinds: list[Namespace], data: st.DataObject) -> None:
    union = Namespace(0)
    for kind in kinds:
        union |= kind
    spelt = [kind if data.draw(st.booleans()) else kind.kernel_name for kind in kinds]
    assert combine(union) == combine(kinds) == combine(spelt) == combine(iter(spelt)) == combine({*spelt}) == union


def test_a_name_alone_is_one_namespace() -> None:
    assert combine("net") == Namespace.NETWORK


@pytest.mark.parametrize("nothing", [Namespace(0), [], (), [Namespace(0)], iter(())])
def test_combining_nothing_is_refused(nothing: Any) -> None:
    with pytest.raises(ValueError, match="no namespaces were named"):
        combine(nothing)


@pytest.mark.parametrize("wrong", [5, None, [0x40000000], [None], [["net"]], b"net", 1.5])
def test_combining_what_is_no_namespace_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        combine(wrong)


@pytest.mark.parametrize("unknown", ["network", ["net", "nets"], ""])
def test_combining_an_unknown_name_is_refused(unknown: Any) -> None:
    with pytest.raises(ValueError, match="is no namespace"):
        combine(unknown)


def test_an_identity_prints_as_its_link_in_proc() -> None:
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        status = os.stat(f"/proc/self/ns/{name}")
        assert str(NamespaceID(Namespace(name), status.st_dev, status.st_ino)) == os.readlink(f"/proc/self/ns/{name}")


def test_identities_are_equal_in_all_or_not_at_all() -> None:
    identity = NamespaceID(Namespace.NETWORK, 4, 5, 6)
    assert identity == NamespaceID(Namespace.NETWORK, 4, 5, 6)
    assert hash(identity) == hash(NamespaceID(Namespace.NETWORK, 4, 5, 6))
    changes: tuple[dict[str, Any], ...] = ({"type": Namespace.PID}, {"device": 0}, {"inode": 0}, {"id": 0}, {"id": None})
    for change in changes:
        assert dataclasses.replace(identity, **change) != identity


@pytest.mark.parametrize(
    "numbers", [(0, 0, 1), (0, 1000, 1), (0, 0, NO_ID), (NO_ID - 1, NO_ID - 1, 1), (1, 0, NO_ID - 1), (0, 100_000, 65536)]
)
def test_a_mapping_within_the_limits_is_accepted(numbers: tuple[int, int, int]) -> None:
    for cls in MAPPINGS:
        mapping = cls(*numbers)
        assert (mapping.inside, mapping.outside, mapping.count) == numbers


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 0, 0), "count must be at least 1"),
        ((0, 0, -1), "count must be at least 1"),
        ((-1, 0, 1), "inside ids must lie within 0 … 4294967294"),
        ((0, -1, 1), "outside ids must lie within 0 … 4294967294"),
        ((0, 2**32, 1), "outside ids"),  # the kernel would cut it to 0: root of the host
        ((2**32, 0, 1), "inside ids"),
        ((0, 2**32 + 1000, 1), "outside ids"),
        ((0, 2**64, 1), "outside ids"),
        ((0, 0, 2**32), "inside ids"),
        ((0, 0, 2**32 + 1), "inside ids"),
        ((NO_ID, 0, 1), "inside ids"),
        ((0, NO_ID, 1), "outside ids"),
        ((NO_ID - 1, 0, 2), "inside ids"),  # wraps around
        ((0, NO_ID - 1, 2), "outside ids"),
        ((1, 0, NO_ID), "inside ids"),
        ((0, 1, NO_ID), "outside ids"),
    ],
)
def test_a_mapping_beyond_the_limits_is_refused(numbers: tuple[int, int, int], words: str) -> None:
    for cls in MAPPINGS:
        with pytest.raises(ValueError, match=words):
            cls(*numbers)


@pytest.mark.parametrize("cls", MAPPINGS)
def test_a_mapping_of_what_is_no_int_is_refused(cls: Any) -> None:
    for name, wrong in itertools.product(("inside", "outside", "count"), (True, False, 1.0, "1", None, b"1", 1 + 0j)):
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            cls(**{"inside": 0, "outside": 0, "count": 1, name: wrong})


def test_a_mapping_is_frozen_and_of_its_kind() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UserMapping(0, 0, 1).count = 2  # type: ignore[misc]
    assert UserMapping(0, 0, 1) != GroupMapping(0, 0, 1)


ids = st.integers(0, NO_ID - 1) | st.integers(0, 30)


@st.composite
def mappings(draw: st.DrawFn) -> UserMapping:
    inside, outside = draw(ids), draw(ids)
    count = draw(st.integers(1, 10) | st.integers(1, NO_ID))
    return UserMapping(inside, outside, min(count, NO_ID - max(inside, outside)))


@given(mappings())
@settings(max_examples=100, database=None, deadline=None)
def test_no_id_of_a_mapping_is_beyond_the_kernels(mapping: UserMapping) -> None:
    for first in (mapping.inside, mapping.outside):
        assert 0 <= first <= first + mapping.count - 1 < NO_ID


def test_a_clock_has_the_kernels_name() -> None:
    assert {clock.value for clock in Clock} == {"monotonic", "boottime"}
