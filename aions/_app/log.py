"""The system calls of workers, as lines of the logger `aions`, where somebody listens at DEBUG."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_logger = logging.getLogger("aions")


def is_wanted() -> bool:
    """Whether workers are to write down what they call."""
    return _logger.isEnabledFor(logging.DEBUG)


def write(worker: str, lines: Iterable[str]) -> None:
    """Log what a worker has called. SECURITY: it may stand in somebody else's namespaces, and write terminal sequences."""
    for line in lines:
        text = line if line.isprintable() else ascii(line)
        _logger.debug("%s: %s", worker, text)
