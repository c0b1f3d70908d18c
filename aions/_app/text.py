"""Paths, arguments and names, as they are written on the wire: UTF-8, with surrogate escapes for what is none; and numbers."""

from __future__ import annotations

import os
import sys
from os import PathLike

StrOrBytesPath = str | bytes | PathLike[str] | PathLike[bytes]

_SPEAKS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def text(value: StrOrBytesPath) -> str:
    """Write down what must not have a null byte in it.

    Raises:
        ValueError: it has one.
    """
    written = socket_path(value)
    if "\0" in written:
        raise ValueError("embedded null byte")
    return written


def absolute(path: StrOrBytesPath) -> str:
    """Write down a path from the root on.

    Raises:
        ValueError: it is empty, and would come to mean the working directory; or it has a null byte in it.
    """
    if not os.fspath(path):
        raise ValueError("an empty path")
    return text(os.path.abspath(path))


def socket_path(value: StrOrBytesPath) -> str:
    """Write down what may have null bytes, as the names of abstract unix sockets have."""
    if _SPEAKS_UTF8 and isinstance(value, str):
        return value
    return os.fsencode(value).decode("utf-8", "surrogateescape")


def c_int(value: int) -> int:
    """Take a number that C has an int for.

    Raises:
        OverflowError: it is out of range.
    """
    if not -(2**31) <= value < 2**31:
        raise OverflowError(f"{value} is no C int")
    return int(value)
