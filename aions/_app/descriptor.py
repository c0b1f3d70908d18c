"""A file descriptor with an owner."""

from __future__ import annotations

import os
import warnings
from typing import Protocol


class HasFileno(Protocol):
    """Whatever has a descriptor: a file, a socket."""

    def fileno(self) -> int: ...


class Descriptor:
    """Owns a file descriptor: closes it once, and complains if nobody asked it to."""

    def __init__(self, number: int) -> None:
        self._number = number

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
            warnings.warn(f"unclosed descriptor {self._number}", ResourceWarning, source=self, stacklevel=1)
            self.close()
