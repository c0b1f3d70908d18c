"""What a worker keeps of where the forkserver is: the processes that the app sees, and what tells whether it is still there."""

from __future__ import annotations

import _socket as socket
import os

from aions._sys import libc, mounts
from aions._sys import proc as procfs
from aions._sys.calls import KernelError, Log
from aions._sys.libc import CLONE_NEWNS, CLONE_NEWUSER
from aions._sys.mounts import AT_RECURSIVE, OPEN_TREE_CLONE
from aions._wire import fdsocket

_NOSUID_NODEV_NOEXEC = 0x02 | 0x04 | 0x08


class Home:
    """A descriptor of a /proc of the forkserver's pid namespace, and by what that is known, and its files."""

    def __init__(self, proc: int | None = None) -> None:
        self.proc = procfs.open_proc() if proc is None else proc
        self.pid_namespace = os.readlink("self/ns/pid", dir_fd=self.proc)
        self._files = self._files_now()
        self._for_workers: Home | None = None

    def is_pid_namespace(self) -> bool:
        """Whether pids mean to this process what they mean to the app."""
        return self.pid_namespace == os.readlink("self/ns/pid", dir_fd=self.proc)

    def is_pid_namespace_for_children(self) -> bool:
        """Whether they will to what it starts."""
        try:
            return self.pid_namespace == os.readlink("self/ns/pid_for_children", dir_fd=self.proc)
        except FileNotFoundError:
            return False  # a new one, without a first process yet

    def is_in_pid_namespace_for_children(self) -> bool:
        """Whether this process is in the pid namespace that its children will be in."""
        try:
            for_children = os.readlink("self/ns/pid_for_children", dir_fd=self.proc)
        except FileNotFoundError:
            return False
        return for_children == os.readlink("self/ns/pid", dir_fd=self.proc)

    def has_same_files(self) -> bool:
        """Whether paths mean to this process what they mean to the app."""
        return self._files == self._files_now()

    def _files_now(self) -> tuple[str, int, int]:
        """Return what tells the mount namespace and the root from others."""
        root = os.stat("/")
        return os.readlink("self/ns/mnt", dir_fd=self.proc), root.st_dev, root.st_ino

    def for_workers(self) -> Home:
        """Return what workers get of this: the same processes, by a descriptor that leads to nothing else.

        SECURITY: from a descriptor of the /proc that is mounted in the app's file system, `..` leads to the app's root.
        """
        if self._for_workers is None:
            self._for_workers = Home(_detached_proc(self.proc))
            self._for_workers._for_workers = self._for_workers
        return self._for_workers


def _detached_proc(proc: int) -> int:
    """Make a /proc that is mounted nowhere. For a plain user a fork makes it, in namespaces of its own."""
    lines, Log.lines = Log.lines, None  # these calls belong to no request
    try:
        for make in (_new_proc, _copy_of_proc, _copy_of_proc_by_fork):
            try:
                return make()
            except OSError:
                pass  # not allowed, or not known to this kernel
    finally:
        Log.lines = lines
    # Whoever may make none may move to no other mount namespace either: a worker stays where the app is.
    return os.dup(proc)


def _new_proc() -> int:
    """Make one that has processes only, and nothing of the kernel's. Linux 5.8."""
    return mounts.new_mount("proc", ("subset=pid",), _NOSUID_NODEV_NOEXEC)


def _copy_of_proc() -> int:
    return mounts.open_tree("/proc", OPEN_TREE_CLONE | AT_RECURSIVE)


def _copy_of_proc_by_fork() -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
        if pid == 0:
            _send_copy_of_proc(theirs)
        theirs.close()
        packet = fdsocket.receive(ours)
        os.waitpid(pid, 0)
        if packet is None or not packet.descriptors:
            raise KernelError(1, "unshare()")
        return packet.descriptors[0]
    finally:
        ours.close()
        theirs.close()


def _send_copy_of_proc(to: socket.socket) -> None:
    """Copy the mount and send it, in the fork."""
    try:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNS)
        fdsocket.send(to, b"proc", [_copy_of_proc()])
    finally:
        os._exit(0)
