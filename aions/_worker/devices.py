"""What every program expects in /dev."""

from __future__ import annotations

import os

from aions._sys import mounts
from aions._sys.mounts import MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_LINKS = {
    "core": "/proc/kcore",
    "fd": "/proc/self/fd",
    "ptmx": "pts/ptmx",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}
_TERMINALS = ("newinstance", "ptmxmode=0666", "mode=0620")
_NOSUID_NOEXEC = 0x02 | 0x08


def open_all(found: dict[str, int]) -> None:
    """Copy the devices of the worker's own /dev, as detached mounts; a plain user cannot make any.

    SECURITY: read-only, since their modes and owners are those of the machine. Devices can be written to all the same.
    """
    for name in _DEVICES:
        found[name] = mounts.open_tree(f"/dev/{name}", OPEN_TREE_CLONE)
        mounts.mount_setattr(found[name], "", False, MOUNT_ATTR_RDONLY, 0, 0, 0)


def fill(dev: int, found: dict[str, int]) -> None:
    """Fill an attached tmpfs: devices, links, room for shared memory, and terminals of its own."""
    for name, device in found.items():
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, dir_fd=dev))
        mounts.move_mount(device, "", dev, name)
    for name, leads_to in _LINKS.items():
        os.symlink(leads_to, name, dir_fd=dev)
    for name, mode in (("pts", 0o755), ("shm", 0o1777)):
        os.mkdir(name, dir_fd=dev)
        os.chmod(name, mode, dir_fd=dev)  # whatever the umask is
    terminals = mounts.new_mount("devpts", _TERMINALS, _NOSUID_NOEXEC)
    try:
        mounts.move_mount(terminals, "", dev, "pts")
    finally:
        os.close(terminals)
