"""Bytes within a message: short ones as a string, one character for each; long ones in a memfd.

What a worker sends has a limit. What it is sent has none: its memory is the app's user's.
"""

from __future__ import annotations

from aions._errors import ProtocolError
from aions._wire.fdsocket import from_memfd, to_memfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT = 8 * 1024

LARGEST_RESULT = 256 * 1024 * 1024
"""Bytes of the pickle of what a function returns or raises."""


def packed(data: bytes) -> tuple[str, tuple[int, ...]]:
    """Return the string and the descriptors, one or none, that stand for some bytes; a descriptor is the caller's."""
    if len(data) <= SHORT:
        return data.decode("latin-1"), ()
    return "", (to_memfd(data),)


def unpacked(text: str, memfds: Sequence[int]) -> bytes:
    """Return the bytes again; the descriptors remain the caller's.

    Raises:
        ProtocolError: nobody has packed this.
    """
    try:
        return from_memfd(memfds[0], largest=None) if memfds else text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ProtocolError(f"no bytes: {error}") from None
