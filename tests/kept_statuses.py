"""Whether the kernel keeps the exit status of a process for its pidfds (Linux 6.15)."""

from __future__ import annotations

import functools
import os
import subprocess

from aions._app.child import _kept_status


@functools.cache
def are_kept() -> bool:
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
    try:
        return _kept_status(pidfd) == 0
    except OSError:
        return False
    finally:
        os.close(pidfd)
