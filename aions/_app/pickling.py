"""What a function is sent as: pickled by name, or by value where that cannot be and cloudpickle is installed."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import threading
from typing import Any

import anyio
from anyio import to_thread

from aions._errors import ProtocolError
from aions._wire.fdsocket import close_all, from_memfd, memfd_size
from aions._wire.payload import LARGEST_RESULT

_SOON = 256 * 1024
"""Bytes that are unpickled within some milliseconds."""

_PIECE = 64 * 1024
"""Bytes that a thread reads in one go."""


def pickled(call: tuple[Any, tuple[Any, ...]]) -> tuple[bytes, str | None]:
    """Pickle a function and its arguments; return also the file that __main__ has to be loaded from, if they may refer to it.

    Raises:
        pickle.PicklingError, AttributeError, TypeError: that is not possible; a note says whether cloudpickle would help.
    """
    try:
        payload = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return _pickled_by_value(call, error), None
    if b"__main__" in payload and main_file() is None:
        nowhere = pickle.PicklingError("it refers to __main__, which is no file here, so the worker cannot import it")
        return _pickled_by_value(call, nowhere), None
    return payload, main_file()


def _pickled_by_value(call: tuple[Any, tuple[Any, ...]], refusal: Exception) -> bytes:
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        refusal.add_note("What no module has under a name (a lambda, a closure) needs cloudpickle: pip install cloudpickle.")
        raise refusal from None
    payload: bytes = cloudpickle.dumps(call, pickle.HIGHEST_PROTOCOL)
    return payload


def unpickled(payload: bytes) -> tuple[bool, object]:
    """Return whether a function has returned or raised, and what."""
    returned, value = _Unpickler(io.BytesIO(payload)).load()
    return bool(returned), value


async def unpickled_from(memfd: int, *others: int) -> tuple[bool, object]:
    """Take an outcome out of a memfd, which is closed: a long one in a thread, where it does not hold up the event loop.

    Raises:
        ProtocolError: it is none, or larger than LARGEST_RESULT.
    """
    source = _Source(memfd)
    try:
        close_all(others)
        source.size = memfd_size(memfd, LARGEST_RESULT)
        if source.size <= _SOON:
            return unpickled(from_memfd(memfd, _SOON))
        limiter = anyio.CapacityLimiter(1)  # of its own: those who hold the default one may wait for what this is about
        return await to_thread.run_sync(_unpickled_in_thread, source, abandon_on_cancel=True, limiter=limiter)
    finally:
        source.give_up()


def _unpickled_in_thread(source: _Source) -> tuple[bool, object]:
    """Unpickle piece by piece: with each, other threads get their turn."""
    if not source.begin():
        return False, None
    try:
        with io.BufferedReader(source, _PIECE) as reader:
            returned, value = _Unpickler(reader).load()
        return bool(returned), value
    finally:
        source.end()


class _Source(io.RawIOBase):
    """A memfd that is read by a thread, which may be abandoned: whoever of both is the last to need it closes it.

    SECURITY: no more is read than the size that was checked, whatever the worker does with the memfd meanwhile.
    """

    def __init__(self, memfd: int) -> None:
        self.size = 0
        self._memfd = memfd
        self._offset = 0
        self._users = threading.Lock()
        self._begun = self._given_up = False

    def begin(self) -> bool:
        """Whether it is still wanted; then it is the thread's."""
        with self._users:
            self._begun = not self._given_up
            return self._begun

    def end(self) -> None:
        """Close it: the thread is through with it."""
        os.close(self._memfd)

    def give_up(self) -> None:
        """Have the thread stop with the next piece; if it has not begun, close it."""
        with self._users:
            self._given_up = True
            if not self._begun:
                os.close(self._memfd)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: min(_PIECE, self.size - self._offset)]
        count = os.preadv(self._memfd, [view], self._offset) if view else 0
        if self._given_up or (view and not count):
            raise ProtocolError("the outcome of a function was cut short")
        self._offset += count
        return count


class _Unpickler(pickle.Unpickler):
    """Knows that what a worker calls __mp_main__ (so that its guard keeps it from running) is our __main__."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class("__main__" if module == "__mp_main__" else module, name)


def main_file() -> str | None:
    """Return the file of the app's __main__; an interactive session has none."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return _existing(path) if path else None


@functools.cache
def _existing(path: str) -> str | None:
    return os.path.abspath(path) if os.path.isfile(path) else None
