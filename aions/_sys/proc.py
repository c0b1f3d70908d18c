"""What /proc tells and takes, always through a descriptor of it.

Every worker inherits a descriptor of one from the forkserver. So it sees the processes and the pids that the app sees, whatever
mount or pid namespace it is in, and whether or not there is a /proc at all where it is.
"""

from __future__ import annotations

import errno
import os

from aions._sys import libc
from aions._sys.calls import KernelError, call


class Opened:
    """Have a path below /proc open for the length of a `with` block. (A class: importing contextlib takes too long.)"""

    def __init__(self, proc: int, path: str, flags: int) -> None:
        full = f"/proc/{path}"
        self._descriptor = call(
            lambda: f'openat(AT_FDCWD, "{full}", {flags:#o})', _openat, proc, path, flags | os.O_CLOEXEC, path=full
        )

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)


def _openat(directory: int, path: str, flags: int) -> int:
    return os.open(path, flags, dir_fd=directory)


def open_proc() -> int:
    """Open /proc for the functions of this module."""
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def read(proc: int, path: str) -> str:
    """Read a small file."""
    return read_bytes(proc, path).decode()


def read_bytes(proc: int, path: str) -> bytes:
    """Read one that is not all text."""
    with Opened(proc, path, os.O_RDONLY) as descriptor:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


def write(proc: int, path: str, text: str) -> None:
    """Write a file in one write(2), as uid_map and its like want it."""
    with Opened(proc, path, os.O_WRONLY) as descriptor:
        write_to(descriptor, path, text)


def write_to(descriptor: int, path: str, text: str) -> None:
    """Write a file that is open; errors call it by its path below /proc."""
    call(
        lambda: f"write({descriptor}</proc/{path}>, {text!r:.200})",
        os.write,
        descriptor,
        text.encode(),
        path=f"/proc/{path}",
    )


def may_write_maps(proc: int) -> bool:
    """Whether this process may open its own id maps for writing, as all but those of a plain user that are not dumpable may."""
    try:
        os.close(os.open("self/uid_map", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc))
    except OSError:
        return False
    return True


def open_clock_offsets(proc: int) -> int:
    """Open this process's timens_offsets, to write them later; return -1 where that cannot be."""
    try:
        return os.open("self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return -1


def thread_count(proc: int) -> int:
    """Count the threads of this process, also those that Python does not know of."""
    return os.stat("self/task", dir_fd=proc).st_nlink - 2


def close_all_but(proc: int, *kept: int) -> None:
    """Close every descriptor except these and `proc`, whatever the kernel has."""
    first = 0
    for descriptor in sorted({proc, *kept}):
        if first < descriptor:  # of nothing, os.closerange makes everything
            os.closerange(first, descriptor)
        first = descriptor + 1
    try:
        libc.close_from(first)
    except OSError:  # ENOSYS, or a seccomp filter; os.closerange would now try two billion numbers
        for descriptor in open_descriptors(proc):
            if descriptor >= first:
                _close(descriptor)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # it was what the list was read by


def open_descriptors(proc: int) -> list[int]:
    """Return the numbers of all descriptors that this process has open, and of one that was open for this call only."""
    with Opened(proc, "self/fd", os.O_RDONLY | os.O_DIRECTORY) as directory:
        return list(map(int, os.listdir(directory)))


def pid_of(proc: int, pidfd: int) -> int:
    """Return the pid behind a pidfd, as this /proc counts; -1 once the process is reaped."""
    lines = read(proc, f"self/fdinfo/{pidfd}").splitlines()
    return int(next(line for line in lines if line.startswith("Pid:")).split()[1])


def own_pid(proc: int) -> int:
    """Return the pid of this process, as this /proc counts."""
    return int(os.readlink("self", dir_fd=proc))


def own_children(proc: int) -> list[int]:
    """Return the children of this process, which has one thread."""
    return [int(pid) for pid in read(proc, "thread-self/children").split()]


def children(proc: int, pid: int | str) -> list[int]:
    """Return the children of a process, those of all its threads; none once it is gone."""
    found: list[int] = []
    try:
        for task in _tasks(proc, pid):
            found += map(int, read(proc, f"{pid}/task/{task}/children").split())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
    return found


def _tasks(proc: int, pid: int | str) -> list[str]:
    with Opened(proc, f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        return os.listdir(descriptor)


def is_still(proc: int, pid: int) -> bool:
    """Return whether a process does nothing (any more): each of its threads is stopped or has ended."""
    try:
        return all(_state(proc, f"{pid}/task/{task}") in "TtXZ" for task in _tasks(proc, pid))
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return True


def _state(proc: int, path: str) -> str:
    """Return what a process or thread does, as a letter. Its name, before that, may have anything in it."""
    return read_bytes(proc, f"{path}/stat").rpartition(b")")[2].split()[0].decode()
