"""Finding, and making, what something is to be mounted on, inside a root that may be hostile."""

from __future__ import annotations

import os
import posixpath
from errno import EEXIST, EINVAL, ELOOP, ENOENT

from aions._sys import mounts
from aions._sys.calls import KernelError, call

_MAX_ATTEMPTS = 40
"""As many symbolic links as the kernel follows."""


def opened_or_made(root: int, path: str, is_directory: bool) -> int:
    """Open what a path leads to inside a root, as a path only; make it, and what is missing above it.

    A symbolic link that leads nowhere is followed: what it should lead to is made, inside the root. (In many a system
    /etc/resolv.conf leads into a /run that is empty before it is booted.)
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            return mounts.open_in_root(root, path, os.O_PATH)
        except KernelError as error:
            if error.errno != ENOENT:
                raise
        parent, name = posixpath.split(path.rstrip("/"))
        directory = opened_or_made(root, parent or "/", True)
        try:
            _make(directory, name, is_directory, path)
        except KernelError as error:
            if error.errno != EEXIST:
                raise
            path = posixpath.join(parent, _link(directory, name))
        finally:
            os.close(directory)
    raise KernelError(ELOOP, f'openat2("{path}")', path)


def _make(directory: int, name: str, is_directory: bool, path: str) -> None:
    if is_directory:
        call(lambda: f'mkdirat("{path}")', _mkdir, directory, name, path=path)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(call(lambda: f'openat("{path}", O_CREAT|O_EXCL)', _open, directory, name, flags, path=path))


def _mkdir(directory: int, name: str) -> None:
    os.mkdir(name, 0o755, dir_fd=directory)


def _open(directory: int, name: str, flags: int) -> int:
    return os.open(name, flags, 0o644, dir_fd=directory)


def _link(directory: int, name: str) -> str:
    """Return what a symbolic link says; the name itself where it is, by now, something else."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (EINVAL, ENOENT):
            raise
        return name
