"""Finding, and making, what something is to be mounted on, inside a root that may be hostile."""

from __future__ import annotations

import os
import posixpath
from errno import EEXIST, EINVAL, ELOOP, ENOENT

from aions._sys import mounts
from aions._sys.calls import KernelError, call

_MAX_ATTEMPTS = 10_000
"""More look-ups than the longest path takes that there is nothing of, unless somebody else removes what is made."""


def opened_or_made(root: int, path: str, is_directory: bool) -> int:
    """Open what a path leads to inside a root, as a path only; make it, and what is missing above it.

    A symbolic link that leads nowhere is followed: what it should lead to is made, inside the root. (In many a system
    /etc/resolv.conf leads into a /run that is empty before it is booted.)
    """
    wanted = [(path, is_directory)]
    for _ in range(_MAX_ATTEMPTS):
        try:
            found = mounts.open_in_root(root, wanted[-1][0], os.O_PATH)
        except KernelError as error:
            if error.errno != ENOENT:
                raise
            wanted.append((_split(wanted[-1][0])[0], True))
            continue
        wanted.pop()
        if not wanted:
            return found
        try:
            wanted[-1] = _made_or_followed(found, *wanted[-1])
        finally:
            os.close(found)
    raise KernelError(ELOOP, f'openat2("{path}")', path)


def _made_or_followed(directory: int, path: str, is_directory: bool) -> tuple[str, bool]:
    """Make what a directory lacks; return what to look up next: it, or where a symbolic link in its place leads."""
    parent, name = _split(path)
    try:
        _make(directory, name, is_directory, path)
    except KernelError as error:
        if error.errno != EEXIST:
            raise
        path = posixpath.join(parent, _link(directory, name))
    return path, is_directory


def _split(path: str) -> tuple[str, str]:
    parent, name = posixpath.split(path.rstrip("/"))
    return parent or "/", name


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
