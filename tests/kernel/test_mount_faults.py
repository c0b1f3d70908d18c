"""Whatever the kernel refuses while something is mounted: an error with its errno, and nothing half-made in the worker."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aions import Namespace, Worker, open_worker
from tests.kernel.explained import works
from tests.kernel.mountinfo import mounted
from tests.kernel.targets import let_look_into, on_one_loop
from tests.kernel.test_faults import refusing, settled_descriptors

Act = Callable[[Worker, Path], Awaitable[object]]


async def open_and_close_tree(worker: Worker, directory: Path) -> None:
    async with await worker.open_tree(directory):
        pass


async def make_and_close_tree(worker: Worker, _directory: Path) -> None:
    async with await worker.fsmount("tmpfs", {"size": "1m"}):
        pass


ACTS: dict[str, Act] = {
    "bind": lambda worker, directory: worker.bind_mount(directory, directory / "new", read_only=True),
    "open_tree": open_and_close_tree,
    "fsmount": make_and_close_tree,
    "mount": lambda worker, directory: worker.mount(None, directory, "tmpfs"),
    "pivot": lambda worker, _directory: worker.pivot_root("/usr"),
    "sethostname": lambda worker, _directory: worker.sethostname("name"),
}

REFUSALS = [
    ("bind", "open_tree", "ENOMEM"),
    ("bind", "open_tree", "ENOSYS"),
    ("bind", "mount_setattr", "EPERM"),
    ("bind", "openat2", "EMFILE"),
    ("bind", "openat2", "ENOSYS"),
    ("bind", "move_mount", "ENOSPC"),
    ("bind", "mkdirat", "EDQUOT"),
    ("open_tree", "open_tree", "EMFILE"),
    ("open_tree", "sendmsg", "ENOBUFS"),
    ("fsmount", "fsopen", "ENOSYS"),
    ("fsmount", "fsconfig", "ENOMEM"),
    ("fsmount", "fsmount", "ENFILE"),
    ("mount", "mount", "ENOMEM"),
    ("pivot", "pivot_root", "EPERM"),
    ("sethostname", "sethostname", "EPERM"),
]


@pytest.mark.needs("strace")
@pytest.mark.parametrize(("act", "refused", "name"), REFUSALS)
@on_one_loop
async def test_a_refusal_leaves_nothing_half_made(tmp_path: Path, act: str, refused: str, name: str) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT | Namespace.UTS) as worker:
        assert await works(worker)
        await let_look_into(worker)
        before = await settled_descriptors(worker), mounted(worker.pid), os.readlink(f"/proc/{worker.pid}/cwd")
        async with refusing(worker.pid, refused, f"error={name}:when=1"):
            with pytest.raises(OSError, match=r"\[Errno") as caught:
                await ACTS[act](worker, tmp_path)
        assert errno.errorcode[caught.value.errno or 0] == name
        assert caught.value.__notes__
        if name == "ENOSYS":
            assert "newer kernel" in "\n".join(caught.value.__notes__)
        assert (await settled_descriptors(worker), mounted(worker.pid), os.readlink(f"/proc/{worker.pid}/cwd")) == before
        assert await works(worker)


@pytest.mark.needs("strace")
@on_one_loop
async def test_a_look_up_that_a_rename_elsewhere_disturbs_is_made_again(tmp_path: Path) -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT) as worker:
        await let_look_into(worker)
        async with refusing(worker.pid, "openat2", "error=EAGAIN:when=1..5"):
            await worker.bind_mount("/usr", tmp_path)
        assert [mount.target for mount in mounted(worker.pid)][-1] == str(tmp_path)
