"""A descriptor is closed once, and by its owner."""

from __future__ import annotations

import os

import pytest

from aions._app.descriptor import Descriptor


def test_closing_closes_once() -> None:
    reading, writing = os.pipe()
    descriptor = Descriptor(reading)
    assert descriptor.fileno() == reading
    descriptor.close()
    assert descriptor.fileno() == -1
    same_number = os.dup(writing)
    assert same_number == reading
    descriptor.close()
    os.fstat(same_number)
    os.close(same_number)
    os.close(writing)


def test_one_that_nobody_closed_complains_and_is_closed() -> None:
    descriptor = Descriptor(os.dup(0))
    number = descriptor.fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed descriptor {number}"):
        del descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_one_that_was_closed_does_not_complain() -> None:
    descriptor = Descriptor(os.dup(0))
    descriptor.close()
    del descriptor


def test_one_that_was_closed_by_somebody_else_says_so() -> None:
    descriptor = Descriptor(os.dup(0))
    os.close(descriptor.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        descriptor.close()
    assert descriptor.fileno() == -1
