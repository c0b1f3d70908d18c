"""What can go wrong that the kernel has no errno for.

    AionsError
    ├── WorkerDied       the worker's process has ended; it takes no more calls
    └── ProtocolError    one side sent what the other cannot accept

Everything else keeps the type that the field knows it by. The kernel's refusal is a plain `OSError` (and so, by its errno, a
`PermissionError`, a `ProcessLookupError`, …) whose notes name the system call, the worker, the cause and the remedy. A bad
argument is a `ValueError` or a `TypeError`, raised before anything is sent. A handle that was closed raises
`anyio.ClosedResourceError`.
"""

from __future__ import annotations


class AionsError(Exception):
    """The root of the errors that are aions's own."""


class WorkerDied(AionsError):
    """A worker, or the forkserver, ended while it was needed.

    `status` is its exit status as `subprocess` counts it (negative: the signal that killed it), or None where nobody was left
    to collect it. What it had been asked to do may or may not have happened.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProtocolError(AionsError):
    """A message could not be sent, or what arrived is not one that can be accepted here.

    Its descriptors have been closed. `request_id` is the request that it belongs to, 0 where that could not be read.
    """

    def __init__(self, message: str, request_id: int = 0) -> None:
        super().__init__(message)
        self.request_id = request_id
