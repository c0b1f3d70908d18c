"""What a forkserver imports once it has served its first request, which is not to wait for it."""

from __future__ import annotations


def load() -> None:
    """Import what may still be needed.

    SECURITY: a worker does it before it enters a namespace, changes its root, or mounts anything, since what it imported
    afterwards could come from somebody else's file system.
    """
    import aions._worker.commands
    import aions._worker.functions
    import aions._worker.rehearsal  # noqa: F401
