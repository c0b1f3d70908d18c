"""A file descriptor with an owner."""

from __future__ import annotations

import os
import warnings
from typing import Protocol


class HasFileno(Protocol):
    """Whatever has a descriptor: a file, a socket."""

    def fileno(self) -> int: ...


class Descriptor:
    """Owns a file descriptor: closes it once, and complains if nobody asked it to, by its name if it has one."""

    def __init__(self, number: int, name: str | None = None) -> None:
        self._number = number
        self._name = name

    def fileno(self) -> int:
        """Return the number; -1 once closed."""
        return self._number

    def close(self) -> None:
        """Close it. Closing again does nothing."""
        if self._number >= 0:
            number, self._number = self._number, -1
            os.close(number)

    def __del__(self) -> None:
        if self._number >= 0:
            name = self._name or f"descriptor {self._number}"
            warnings.warn(f"unclosed {name}", ResourceWarning, source=self, stacklevel=1)
            self.close()


class Part(Descriptor):
    """A descriptor of a handle that complains by itself."""

    def __del__(self) -> None:
        self.close()
