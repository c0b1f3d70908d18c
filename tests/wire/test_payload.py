"""Bytes of any length travel within a message."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aions._errors import ProtocolError
from aions._wire.fdsocket import close_all
from aions._wire.payload import SHORT, packed, unpacked


@given(st.binary(max_size=500))
def test_short_ones_are_a_string(data: bytes) -> None:
    text, memfds = packed(data)
    assert (len(text), memfds) == (len(data), ())
    assert unpacked(text, memfds) == data


@pytest.mark.parametrize("size", [SHORT, SHORT + 1, 1_000_000])
def test_long_ones_are_a_memfd(size: int) -> None:
    data = os.urandom(size)
    text, memfds = packed(data)
    assert (text == "") is (len(memfds) == 1) is (size > SHORT)
    assert unpacked(text, memfds) == data
    close_all(memfds)


def test_what_nobody_packed_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no bytes"):
        unpacked("\u0100", ())
    reading, writing = os.pipe()
    with pytest.raises(ProtocolError, match="memfd"):
        unpacked("", (reading,))
    close_all((reading, writing))
