"""The Python interpreter that workers run, as a file that nothing can change by way of them.

SECURITY: /proc/PID/exe of a process leads to its program, wherever that is. A worker is closed to others; but a script that is
run where it is, and whose first line names /proc/self/exe, becomes a process with the same program, which is not closed. If it
runs as the owner of that file, it could change the file's mode, and its contents once nobody runs it any more (CVE-2019-5736).
"""

from __future__ import annotations

import _socket as socket
import os
import sys

from aions._sys import libc, mounts
from aions._sys.libc import CLONE_NEWNS, CLONE_NEWUSER
from aions._sys.mounts import MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE
from aions._wire import fdsocket

DONE = "read-only"
"""The last argument of an interpreter that runs from such a file already."""


def run_from_read_only_copy() -> None:
    """Start this program again, from a copy of its interpreter's mount; return where that is not needed, or cannot be.

    It is not needed for a file that somebody else owns: whoever runs as the app's user cannot change that.
    """
    if sys.argv[-1] == DONE or not sys.orig_argv:
        return
    path = os.readlink("/proc/self/exe")
    try:
        if os.stat(path).st_uid != os.geteuid() and not os.access(path, os.W_OK):
            return
        copy = _copied(path)
        environment = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}  # which Python has added
        os.execve(copy, [*sys.orig_argv, DONE], environment)  # noqa: S606
    except OSError:
        return  # an older kernel, or whoever may not mount here: it can give its workers no namespaces either


def _copied(path: str) -> int:
    try:
        return _copy(path)
    except OSError:
        return _copied_by_fork(path)


def _copy(path: str) -> int:
    tree = mounts.open_tree(path, OPEN_TREE_CLONE)
    mounts.mount_setattr(tree, "", False, MOUNT_ATTR_RDONLY, 0, 0, 0)
    return tree


def _copied_by_fork(path: str) -> int:
    """Have a fork make it for a plain user, in namespaces of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNS)
            fdsocket.send(theirs, b"copy", [_copy(path)])
        finally:
            os._exit(0)
    theirs.close()
    packet = fdsocket.receive(ours)
    ours.close()
    os.waitpid(pid, 0)
    if packet is None:
        raise OSError
    return packet.descriptors[0]
