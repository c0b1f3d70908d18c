"""Processes and namespaces that aions did not make, and what util-linux and /proc say about them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from aions import Namespace, Worker
from tests.kernel import called

KINDS = list(Namespace)
"""All eight, one by one."""

EVERY_KIND = Namespace(sum(kind.value for kind in KINDS))
"""All eight in one."""

on_one_loop = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
"""For the many cases of what does not differ between event loops, since only the worker and the kernel have to do with it."""

PATIENCE = 10.0
"""Seconds after which what is waited for is taken not to happen."""

OPTIONS = {
    Namespace.CGROUP: "--cgroup",
    Namespace.IPC: "--ipc",
    Namespace.MOUNT: "--mount",
    Namespace.NETWORK: "--net",
    Namespace.PID: "--pid",
    Namespace.TIME: "--time",
    Namespace.USER: "--user",
    Namespace.UTS: "--uts",
}
"""What unshare(1) and nsenter(1) call each kind."""


LOOKED_INTO = [] if os.geteuid() == 0 else ["tests.kernel.programs.unsealed"]
"""What workers preload so that this process may look into them and their forks, as root may anyway."""


@contextmanager
def target(kinds: Namespace, *options: str, owner: int | None = None) -> Iterator[int]:
    """Have unshare(1), run by a user, put a process into new namespaces; give its pid once it stands in them."""
    fork = ["--fork"] if Namespace.PID in kinds else []
    command = ["unshare", *(OPTIONS[kind] for kind in kinds), *fork, *options, "sh", "-c", "echo ready; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, user=owner) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()) if fork else process.pid
        pidfd = os.pidfd_open(pid)
        try:
            yield pid
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@contextmanager
def target_as_root(kinds: Namespace) -> Iterator[int]:
    """The same in a user namespace as well, where the process is root: anybody may make and join these."""
    with target(kinds | Namespace.USER, "--map-root-user") as pid:
        yield pid


async def let_look_into(worker: Worker) -> None:
    """Have a worker let this process look into it, by /proc and by strace(1), as root may anyway."""
    await worker.run_sync(called.be_looked_into, os.geteuid() != 0)


async def name_of_worker(worker: Worker, kind: Namespace) -> str:
    """Read a namespace's name in /proc; where only root may look, by a descriptor that the worker hands out."""
    try:
        return name_of(worker.pid, kind)
    except PermissionError:
        async with await worker.open_namespace(kind) as file:
            return os.readlink(f"/proc/self/fd/{file.fileno()}")


async def names_of_worker(worker: Worker) -> dict[Namespace, str]:
    """Read the names of all eight namespaces of a worker."""
    return {kind: await name_of_worker(worker, kind) for kind in KINDS}


def name_of(pid: int | str, kind: Namespace) -> str:
    """Read a namespace's name where the kernel writes it: "net:[4026531840]"."""
    return os.readlink(f"/proc/{pid}/ns/{kind.kernel_name}")


def names_of(pid: int | str) -> dict[Namespace, str]:
    """Read the names of all eight namespaces of a process."""
    return {kind: name_of(pid, kind) for kind in KINDS}


def readlink_all(pid: int | str = "self") -> list[str]:
    """Return the command whose output `names_in` takes."""
    return ["readlink", *(f"/proc/{pid}/ns/{kind.kernel_name}" for kind in KINDS)]


def names_in(output: bytes) -> dict[Namespace, str]:
    """Read the output of `readlink_all`."""
    return dict(zip(KINDS, output.decode().split(), strict=True))


def in_namespaces_of(pid: int, kinds: Namespace, *command: str) -> bytes:
    """Have nsenter(1) run a command in namespaces of a process, and return what it prints."""
    keep = ["--preserve-credentials"] if Namespace.USER in kinds else []
    return subprocess.run(
        ["nsenter", "--target", str(pid), *keep, *(OPTIONS[kind] for kind in kinds), *command], capture_output=True, check=True
    ).stdout


def inode_by_lsns(pid: int, kind: Namespace) -> int:
    """Have lsns(1) say in which namespace a process is.

    It reads all of /proc, and fails without a word when any process ends meanwhile.
    """
    command = ["lsns", "--noheadings", "--output", "NS", "--task", str(pid), "--type", kind.kernel_name]
    for _ in range(10):
        found = subprocess.run(command, capture_output=True, check=False)
        if found.returncode == 0:
            break
    return int(found.stdout)


def has_processes(name: str) -> bool:
    """Whether any process that can be seen is in the namespace of this name."""
    kind = name.partition(":")[0]
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(directory / "ns" / kind) == name:
                return True
        except OSError:
            pass
    return False


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended, collected or not."""
    return bool(select.select([pidfd], [], [], 0)[0])


def is_gone(pid: int) -> bool:
    """Whether no process has this pid, or only one that has ended: collecting orphans is the machine's own business."""
    try:
        return status_field(pid, "State").startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that no descriptor tells."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


def status_field(pid: int | str, field: str) -> str:
    """Read one line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))
