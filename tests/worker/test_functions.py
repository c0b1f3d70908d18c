"""The outcome of a function makes the journey home, or says why it cannot."""

from __future__ import annotations

import pickle
import threading
from typing import NoReturn

import pytest

from aions import AionsError
from aions._worker.functions import _pickled


class NeedsTwo(Exception):
    """Is pickled with one argument, and so cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise Unpicklable("really not")


class CannotBePickled:
    def __reduce__(self) -> NoReturn:
        raise Unpicklable("not at all")


def outcome(payload: bytes) -> tuple[bool, object]:
    returned, value = pickle.loads(payload)
    return returned, value


def test_what_is_returned_arrives() -> None:
    assert outcome(_pickled(True, {"a": (1, b"2")})) == (True, {"a": (1, b"2")})


def test_what_is_raised_arrives_with_its_notes() -> None:
    error = ValueError("wrong")
    error.add_note("a note")
    returned, value = outcome(_pickled(False, error))
    assert (returned, type(value), str(value)) == (False, ValueError, "wrong")
    assert isinstance(value, ValueError)
    assert value.__notes__ == ["a note"]


def test_a_result_that_cannot_be_pickled_is_an_error() -> None:
    returned, value = outcome(_pickled(True, threading.Lock()))
    assert not returned
    assert isinstance(value, pickle.PicklingError | AttributeError | TypeError)


@pytest.mark.parametrize("error", [NeedsTwo("it", " failed"), Unpicklable("it failed")])
def test_an_error_that_cannot_make_the_journey_has_a_stand_in(error: Exception) -> None:
    error.add_note("a note")
    returned, value = outcome(_pickled(False, error))
    assert not returned
    assert type(value) is AionsError
    assert str(value) == f"{type(error).__module__}.{type(error).__qualname__}: it failed"
    assert value.__notes__ == ["a note"]


def test_a_result_that_cannot_be_pickled_for_a_reason_that_cannot_be_pickled_is_an_error() -> None:
    returned, value = outcome(_pickled(True, CannotBePickled()))
    assert not returned
    assert isinstance(value, AionsError)
    assert "not at all" in str(value)
