"""A message of the wrong shape cannot exist."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from aions._wire.message import LARGEST_INT, MANY, Descriptor, Message
from aions._wire.messages import REPLIES, REQUESTS, Done, Reply, Request


class Everything(Message):
    flag: bool
    number: int
    maybe_number: int | None
    text: str
    maybe_text: str | None
    numbers: tuple[int, ...]
    maybe_numbers: tuple[int, ...] | None
    texts: tuple[str, ...]
    first: Descriptor
    second: Descriptor
    rest: tuple[Descriptor, ...]


class Point(Message):
    x: int
    y: int


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    ONE = 1


VALID: dict[str, Any] = {
    "flag": True,
    "number": 1,
    "maybe_number": None,
    "text": "",
    "maybe_text": "x",
    "numbers": (1, 2),
    "maybe_numbers": None,
    "texts": ("a",),
    "first": 10,
    "second": 11,
    "rest": (12, 13),
}

WRONG: dict[str, list[object]] = {
    "flag": [1, 0, None, "true"],
    "number": [True, 1.0, None, "1", Number.ONE, LARGEST_INT + 1, -LARGEST_INT - 1],
    "maybe_number": [True, 0.5, "", LARGEST_INT + 1],
    "text": [None, b"", 1, Text("x")],
    "maybe_text": [b"", 0],
    "numbers": [[1], (1, "2"), (1, None), (True,), None, (LARGEST_INT + 1,)],
    "maybe_numbers": [[], (None,)],
    "texts": [["a"], ("a", b"b"), "ab"],
    "first": [None, True, "10", LARGEST_INT + 1],
    "second": [(11,), 11.0],
    "rest": [[12], (None,), 12],
}

# Any: what these tests do wrong is what mypy forbids
Any_Everything: Any = Everything
Any_Point: Any = Point


def test_a_valid_message_has_its_fields() -> None:
    message = Everything(**VALID)
    assert {name: getattr(message, name) for name in VALID} == VALID


def test_the_largest_numbers_are_accepted() -> None:
    assert (Point(LARGEST_INT, -LARGEST_INT).x, Point(LARGEST_INT, -LARGEST_INT).y) == (2**64 - 1, 1 - 2**64)


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_type_is_refused(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(TypeError, match=rf"Everything\.{name}: .* is no "):
            Any_Everything(**{**VALID, name: value})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2, 3), {}),
        ((1,), {"x": 2}),
        ((1, 2), {"y": 2}),
        ((1, 2), {"z": 3}),
        ((1,), {"z": 3}),
        ((), {"x": 1, "y": 2, "z": 3}),
        ((), {"x": 1}),
    ],
)
def test_fields_too_many_too_few_or_twice_are_refused(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point takes exactly x, y"):
        Any_Point(*values, **named)


def test_a_message_without_fields_takes_none() -> None:
    any_done: Any = Done
    with pytest.raises(TypeError, match="Done takes exactly no fields"):
        any_done(1)


class Circle(Message):
    x: int
    radius: int = 1


def test_a_field_with_a_value_in_the_class_may_be_left_out() -> None:
    assert Circle(5) == Circle(5, 1) == Circle(x=5, radius=1) != Circle(5, 2)
    any_circle: Any = Circle
    with pytest.raises(TypeError, match="Circle takes exactly x, radius"):
        any_circle(radius=2)


def test_a_descriptor_cannot_be_left_out() -> None:
    """It would be one of the receiver's own."""
    with pytest.raises(TypeError, match="receiver's own"):
        type("Any", (Message,), {"__annotations__": {"output": "Descriptor"}, "output": 1})


def test_positions_and_names_may_be_mixed() -> None:
    assert Point(1, 2) == Point(1, y=2) == Point(y=2, x=1)


def test_an_error_message_stays_short_however_long_the_value() -> None:
    with pytest.raises(TypeError) as caught:
        Any_Point("x" * 100_000, 1)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["x", "new"])
def test_a_message_is_frozen(name: str) -> None:
    point = Point(1, 2)
    with pytest.raises(AttributeError, match="Point is frozen"):
        setattr(point, name, 3)
    assert point == Point(1, 2)


def test_a_field_cannot_be_deleted() -> None:
    point = Point(1, 2)
    with pytest.raises(AttributeError):
        del point.x
    assert point.x == 1


def test_an_annotation_without_a_check_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Unchecked: no check for fields of type \{'float'\}"):

        class Unchecked(Message):
            ratio: float


def test_equal_means_same_class_and_same_fields() -> None:
    class Other(Message):
        x: int
        y: int

    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    assert Point(1, 2) != Other(1, 2)
    assert Point(1, 2) != (1, 2)


def test_a_message_has_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1, 2))


def test_repr_is_the_call_that_makes_it() -> None:
    assert repr(Point(1, -2)) == "Point(x=1, y=-2)"
    assert eval(repr(Everything(**VALID))) == Everything(**VALID)
    assert repr(Done()) == "Done()"


def test_descriptors_come_in_the_order_of_the_fields() -> None:
    assert Everything.descriptor_fields == ("first", "second", "rest")
    assert Everything(**VALID).descriptors() == [10, 11, 12, 13]
    assert Everything(**{**VALID, "rest": ()}).descriptors() == [10, 11]
    assert Point(1, 2).descriptors() == []


def test_every_declared_message_is_known_by_its_name() -> None:
    assert REQUESTS
    assert REPLIES
    assert {cls.__name__: cls for cls in Request.__subclasses__()} == REQUESTS
    assert {cls.__name__: cls for cls in Reply.__subclasses__()} == REPLIES


def test_a_field_that_takes_all_descriptors_left_is_the_last() -> None:
    for cls in (*REQUESTS.values(), *REPLIES.values()):
        kinds = [cls.fields[name] for name in cls.descriptor_fields]
        assert MANY not in kinds[:-1]


def test_no_request_has_the_name_of_a_reply() -> None:
    assert not REQUESTS.keys() & REPLIES.keys()
