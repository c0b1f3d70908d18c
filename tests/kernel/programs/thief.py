"""What stands inside and is hostile: tries to get into every process of aions that it sees, until its input ends.

It is run as a command, `python -c SOURCE`, so it has nothing but the standard library. It prints a line for each attempt that
succeeded, and at the end how often it has looked at a process.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Callable

Attempt = Callable[[int], bool]

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_GETFD = 438
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
ITS_MARK = b"/rekrow_"[::-1]  # what their command lines have in them, and this one has not


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def command_line(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def takes_a_descriptor(pid: int) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        for number in range(20):
            taken = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
            if taken >= 0:
                os.close(taken)
                return True
        return False
    finally:
        os.close(pidfd)


def traces(pid: int) -> bool:
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0:
        return False
    libc.ptrace(PTRACE_INTERRUPT, pid, None, None)
    try:
        while os.waitpid(pid, WALL | os.WNOHANG)[0] == 0:  # a tracee has to be stopped to be let go
            pass
    except ChildProcessError:
        return True
    libc.ptrace(PTRACE_DETACH, pid, None, None)
    return True


def reads_memory(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        file.read()
    ours = ctypes.create_string_buffer(8)
    own, its = Part(ctypes.addressof(ours), 8), Part(ctypes.addressof(ours), 8)
    ctypes.set_errno(0)
    got = libc.process_vm_readv(pid, ctypes.byref(own), 1, ctypes.byref(its), 1, 0)
    return got > 0 or ctypes.get_errno() == 14  # EFAULT: it may, and there is nothing at that address


def opens(name: str, flags: int = os.O_RDONLY) -> Attempt:
    def attempt(pid: int) -> bool:
        os.close(os.open(f"/proc/{pid}/{name}", flags))
        return True

    return attempt


def looks_into(name: str) -> Attempt:
    def attempt(pid: int) -> bool:
        os.stat(f"/proc/{pid}/{name}/.")
        return True

    return attempt


def follows_a_descriptor(pid: int) -> bool:
    for number in os.listdir(f"/proc/{pid}/fd"):
        os.readlink(f"/proc/{pid}/fd/{number}")
        return True
    return False


ATTEMPTS = {
    "a descriptor": takes_a_descriptor,
    "memory, by a call": reads_memory,
    "memory": opens("mem", os.O_RDWR),
    "its environment": opens("environ"),
    "where a descriptor leads": follows_a_descriptor,
    "its root": looks_into("root"),
    "its directory": looks_into("cwd"),
    "a namespace": opens("ns/net"),
    "control": traces,
}


def tell(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


def main() -> None:
    looked = 0
    own = str(os.getpid())
    tell("ready")
    while not select.select([0], [], [], 0)[0]:
        for name in os.listdir("/proc"):
            if not name.isdigit() or name == own:
                continue
            pid = int(name)
            try:
                if ITS_MARK not in command_line(pid):
                    continue
            except OSError:
                continue
            looked += 1
            for what, attempt in ATTEMPTS.items():
                try:
                    if attempt(pid) and ITS_MARK in command_line(pid):  # not if it has become a command
                        tell("taken:", what)
                except OSError:
                    pass
    tell("looked", looked)


main()
