"""Functions that tests have workers call: in a module of their own, which a worker imports without the test framework."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import threading
import time
from typing import Any, NoReturn

STATE: list[int] = []
"""What earlier calls have left in this process."""


def mount_tmpfs(directory: str) -> None:
    """Mount an empty file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)


def remember(number: int) -> list[int]:
    STATE.append(number)
    return STATE


def call_by_name(module: str, function: str) -> object:
    """Call a function of a module that the app does not import."""
    return getattr(importlib.import_module(module), function)()


def both(first: Any, second: Any = None) -> tuple[Any, Any]:
    return first, second


def leave_an_orphan() -> int:
    """Fork twice; return the pid of the grandchild, whose parent has ended before it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild:
            os.write(write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    pid = int(os.read(read, 20))
    os.close(read)
    return pid


def fork_and_return_twice() -> int:
    """Return in the worker and in a fork of it, as code does that forgets that it is the child."""
    return os.fork()


def collect_a_child(fifo: str) -> int:
    """Let go who reads a fifo, and collect whatever child of this process ends first, before anybody learns of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    open(fifo, "w").close()
    return os.waitstatus_to_exitcode(os.wait()[1])


def leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def join_a_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def leave_inheritable_descriptors() -> None:
    """Leave some, with low and with high numbers, as careless code does."""
    pipe = os.pipe()
    for number in (*pipe, os.dup2(pipe[0], 40), os.dup2(pipe[0], 90)):
        os.set_inheritable(number, True)


def be_where_the_c_library_cannot_close_ranges() -> None:
    """Have posix_spawn(3) as it is in musl and in an older glibc."""
    from aions._worker import commands

    vars(commands)["CAN_CLOSE_FROM"] = False


def leave_room_for_two_descriptors() -> None:
    """Use up the table of descriptors, which is made small for that, but for those that looking at /proc takes."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            last = os.open("/dev/null", os.O_RDONLY)
    except OSError:
        os.closerange(last - 1, last + 1)


def exit_at_once(status: int) -> NoReturn:
    os._exit(status)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_wait(descriptor_path: str) -> None:
    """Say through a fifo that the call has begun, and never return."""
    with open(descriptor_path, "w") as fifo:
        fifo.write(str(os.getpid()))
    while True:
        signal.pause()


def write_and_wait_for(began: str, go_on: str) -> int:
    """Say through one fifo that the call has begun, and return once the other one is closed."""
    with open(began, "w") as fifo:
        fifo.write(str(os.getpid()))
    with open(go_on) as fifo:
        fifo.read()
    return remember(1)[-1]


class NeedsTwo(Exception):
    """Pickles, but cannot be made again from what was pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def fail(message: str) -> NoReturn:
    raise LookupError(message)


def fail_twice() -> NoReturn:
    try:
        fail("first")
    except LookupError as error:
        raise RuntimeError("second") from error


def fail_with_what_does_not_pickle() -> NoReturn:
    raise NeedsTwo("one", "two")


def fail_with_a_thing_inside() -> NoReturn:
    raise ValueError("it has a lock", threading.Lock())


def fail_with(kind: type[BaseException]) -> NoReturn:
    raise kind("on purpose")


def result_that_does_not_pickle() -> object:
    return threading.Lock()


class Stubborn:
    """Pickles with an error that does not pickle either."""

    def __reduce__(self) -> NoReturn:
        raise NeedsTwo("no", "never")


def stubborn_result() -> Stubborn:
    return Stubborn()


def spoil_signals() -> None:
    """Change what the worker's own loop lives on."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])


def aions_sees(kind: str) -> str:
    """Use the package inside the worker."""
    import aions

    return repr(aions.Namespace(kind))


def namespaces(names: list[str]) -> dict[str, str]:
    """Read links of /proc/self/ns. KERNEL: a process that is not dumpable may do that, but not list the directory."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in names}


def prctl(option: int, argument: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _do_nothing(dumpable: int) -> None:
    """Instead of PR_SET_DUMPABLE."""


def be_looked_into(unseal: bool) -> None:
    """Let others trace this process; and look into it, and into its forks, if it is sealed and `unseal` says so."""
    try:
        prctl(0x59616D61, 2**64 - 1)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY: where Yama is, it lets only ancestors trace
    except OSError:
        pass  # there is no Yama
    if unseal:
        from aions._sys import libc

        libc.set_dumpable = _do_nothing  # of this process alone; no file is read, since the worker may not see any
        prctl(4, 1)  # PR_SET_DUMPABLE


def death_signal() -> int:
    """Return the signal that the end of the parent brings."""
    found = ctypes.c_int()
    prctl(2, ctypes.addressof(found))
    return found.value


def clear_death_signal() -> None:
    prctl(1, 0)


def lose_the_way_back() -> None:
    """Have the third setns(2) from now on fail: to go somewhere and come back takes one to try, one to go, one to return."""
    import errno

    from aions._sys import libc

    setns, calls = libc._setns, 0

    def refusing(descriptor: int, flags: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return setns(descriptor, flags)

    libc._setns = refusing  # type: ignore[assignment]
