"""What a function is sent as: pickled by name, or by value where that cannot be and cloudpickle is installed."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
from typing import Any


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
