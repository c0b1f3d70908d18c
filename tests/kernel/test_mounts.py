"""Mounts, roots and names: each system call by itself, with what the kernel then says of the worker and of the host."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

import aions
from aions import GroupMapping, Identity, MountAttribute, MountFlag, Namespace, Propagation, UserMapping, Worker, open_worker
from tests.kernel.explained import named, refusal, works
from tests.kernel.mountinfo import mounted, mounted_on
from tests.kernel.targets import let_look_into, on_one_loop

pytestmark = on_one_loop

INSIDE = Namespace.USER | Namespace.MOUNT


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker that may mount, which has to work when the test is over. (The leak check sees to it that the host has none.)"""
    async with open_worker(unshare=INSIDE) as worker:
        yield worker
        assert await works(worker)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a file in it."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "file").write_text("original")
    (tmp_path / "to").mkdir()
    return tmp_path


async def read(worker: Worker, path: Path | str) -> str:
    return (await worker.run_process(["cat", str(path)])).stdout.decode()


async def test_mount_makes_a_file_system(worker: Worker, tmp_path: Path) -> None:
    await worker.mount("label", tmp_path, "tmpfs", MountFlag.NOSUID | MountFlag.NOEXEC, "size=1m,mode=700")
    (found,) = mounted_on(worker.pid, tmp_path)
    assert (found.filesystem, found.options >= {"rw", "nosuid", "noexec"}) == ("tmpfs", True)
    assert (await worker.run_process(["stat", "-c", "%a", tmp_path])).stdout == b"700\n"


async def test_mount_binds_and_makes_read_only(worker: Worker, directory: Path) -> None:
    await worker.mount(directory / "from", directory / "to", flags=MountFlag.BIND | MountFlag.REC)
    await worker.mount(None, str(directory / "to"), flags=MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY)
    assert await read(worker, directory / "to" / "file") == "original"
    assert mounted_on(worker.pid, directory / "to")[0].read_only


async def test_umount(worker: Worker, tmp_path: Path) -> None:
    for _ in range(2):
        await worker.mount(None, tmp_path, "tmpfs")
    for left in (1, 0):
        await worker.umount(tmp_path)
        assert len(mounted_on(worker.pid, tmp_path)) == left
    await worker.mount(None, tmp_path, "tmpfs")
    await worker.chdir(tmp_path)
    with refusal(errno.EBUSY, "umount2(", named(worker), "in use"):
        await worker.umount(tmp_path)
    await worker.umount(tmp_path, detach=True)
    assert mounted_on(worker.pid, tmp_path) == []
    await worker.chdir("/")
    with refusal(errno.EINVAL, "umount2(", named(worker), "Nothing is mounted"):
        await worker.umount(tmp_path)


async def test_umount_does_not_follow_links_unless_asked(worker: Worker, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    await worker.mount(None, target, "tmpfs")
    with pytest.raises(OSError, match="Invalid argument"):
        await worker.umount(link, follow_symlinks=False)
    await worker.umount(link)
    assert mounted_on(worker.pid, target) == []


async def test_bind_mount(worker: Worker, directory: Path) -> None:
    await worker.bind_mount(directory / "from", directory / "made" / "for it")
    await worker.bind_mount(directory / "from" / "file", directory / "to" / "new", read_only=True)
    assert await read(worker, directory / "made" / "for it" / "file") == "original"
    assert mounted_on(worker.pid, directory / "to" / "new")[0].read_only
    written = await worker.run_process(["sh", "-c", f"echo changed > '{directory}/to/new'"], check=False)
    assert b"Read-only" in written.stderr


async def test_a_read_only_bind_mount_is_so_all_the_way_down(worker: Worker, directory: Path) -> None:
    (directory / "from" / "below").mkdir()
    await worker.mount(None, directory / "from" / "below", "tmpfs")
    await worker.bind_mount(directory / "from", directory / "to", read_only=True)
    assert [mount.read_only for mount in mounted(worker.pid) if mount.target.startswith(str(directory / "to"))] == [True] * 2
    await worker.bind_mount(directory / "from", directory / "alone", recursive=False)
    assert [mount.target for mount in mounted(worker.pid) if "alone" in mount.target] == [str(directory / "alone")]


@pytest.mark.parametrize(("source", "target"), [("from", "/to"), ("/from", "to"), ("/from", "/"), ("/from", "/a/..")])
async def test_bind_mount_takes_absolute_paths_below_the_root(worker: Worker, source: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"no absolute path|becomes the root"):
        await worker.bind_mount(source, target)


async def test_a_tree_is_attached_in_another_mount_namespace(worker: Worker, directory: Path) -> None:
    """The two have no directory in common but the one that both were made with: the mounts of one do not show in the other."""
    await worker.mount(None, directory / "from", "tmpfs")
    await worker.run_process(["sh", "-c", f"echo inside > {directory}/from/file"])
    async with open_worker(unshare=INSIDE) as other, await worker.open_tree(directory / "from") as tree:
        assert await read(other, directory / "from" / "file") == "original"
        await other.move_mount(tree, directory / "to")
        assert await read(other, directory / "to" / "file") == "inside\n"
        assert mounted_on(worker.pid, directory / "to") == []
        with refusal(errno.ELOOP, "move_mount(", named(other), "attached already"):
            await other.move_mount(tree, directory / "to")
        with refusal(errno.EINVAL, "move_mount(", named(worker), "another mount namespace"):
            await worker.move_mount(tree, directory / "to")


async def test_a_tree_that_is_closed_is_gone(worker: Worker, directory: Path) -> None:
    tree = await worker.open_tree(directory / "from")
    await tree.aclose()
    tree.close()
    assert tree.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        await worker.move_mount(tree, directory / "to")


async def test_a_tree_has_the_mounts_below_it_or_not(worker: Worker, directory: Path) -> None:
    below = directory / "from" / "below"
    below.mkdir()
    await worker.mount(None, below, "tmpfs")
    for recursive, count in ((False, 1), (True, 2)):
        async with await worker.open_tree(directory / "from", recursive=recursive) as tree:
            await worker.move_mount(tree, directory / "to")
        assert len([mount for mount in mounted(worker.pid) if mount.target.startswith(str(directory / "to"))]) == count
        await worker.umount(directory / "to", detach=True)


async def test_a_tree_that_is_no_copy_is_the_mount_itself(worker: Worker, directory: Path) -> None:
    await worker.mount(None, directory / "from", "tmpfs")
    async with await worker.open_tree(directory / "from", clone=False) as tree:
        await worker.move_mount(tree, directory / "to")
    assert [len(mounted_on(worker.pid, directory / name)) for name in ("from", "to")] == [0, 1]
    await worker.move_mount(directory / "to", directory / "from")
    assert [len(mounted_on(worker.pid, directory / name)) for name in ("from", "to")] == [1, 0]


async def test_mount_setattr(worker: Worker, tmp_path: Path) -> None:
    await worker.mount(None, tmp_path, "tmpfs")
    await worker.run_process(["mkdir", tmp_path / "sub"])
    await worker.mount(None, tmp_path / "sub", "tmpfs")
    await worker.mount_setattr(tmp_path, MountAttribute.RDONLY | MountAttribute.NOATIME, recursive=True)
    for path in (tmp_path, tmp_path / "sub"):
        assert mounted_on(worker.pid, path)[0].options >= {"ro", "noatime"}
    await worker.mount_setattr(tmp_path, clear=MountAttribute.RDONLY)
    await worker.mount_setattr(tmp_path, MountAttribute.STRICTATIME, propagation="shared")
    (top,), (below,) = (mounted_on(worker.pid, path) for path in (tmp_path, tmp_path / "sub"))
    assert (top.read_only, below.read_only, "noatime" in top.options) == (False, True, False)
    assert (top.propagation.startswith("shared"), below.propagation) == (True, "")


async def test_mount_setattr_on_a_tree(worker: Worker, directory: Path) -> None:
    async with await worker.open_tree(directory / "from") as tree:
        await worker.mount_setattr(tree, MountAttribute.RDONLY, recursive=True)
        await worker.move_mount(tree.fileno(), directory / "to")
    assert mounted_on(worker.pid, directory / "to")[0].read_only


@pytest.mark.root
async def test_an_id_mapped_mount(directory: Path) -> None:
    owner = os.stat(directory / "from" / "file").st_uid
    identity = Identity([UserMapping(owner, 4242, 1)], [GroupMapping(0, 0, 1)])
    async with (
        open_worker(unshare=Namespace.USER, identity=identity) as mapper,
        open_worker(unshare=Namespace.MOUNT) as worker,
        await worker.open_tree(directory / "from") as tree,
    ):
        with open(f"/proc/{mapper.pid}/ns/user") as user_namespace:
            await worker.mount_setattr(tree, user_namespace=user_namespace)
        await worker.move_mount(tree, directory / "to")
        assert (await worker.run_process(["stat", "-c", "%u", directory / "to" / "file"])).stdout == b"4242\n"


@pytest.mark.plain_user
async def test_an_id_mapped_mount_of_a_file_system_of_the_hosts(worker: Worker, directory: Path) -> None:
    async with await worker.open_tree(directory / "from") as tree:
        with open("/proc/self/ns/user") as user_namespace, pytest.raises(PermissionError, match="not permitted"):
            await worker.mount_setattr(tree, user_namespace=user_namespace)


async def test_fsmount(worker: Worker, tmp_path: Path) -> None:
    async with await worker.fsmount("tmpfs", {"source": "label", "size": "1m"}, MountAttribute.NODEV) as tree:
        await worker.move_mount(tree, tmp_path)
    (found,) = mounted_on(worker.pid, tmp_path)
    assert (found.filesystem, "nodev" in found.options) == ("tmpfs", True)
    assert "label" in (await worker.run_process(["findmnt", "-no", "SOURCE", tmp_path])).stdout.decode()


async def test_fsmount_tells_what_the_file_system_says(worker: Worker) -> None:
    with refusal(errno.EINVAL, 'fsconfig("no such option", NULL)', named(worker), "The kernel says: tmpfs: Unknown parameter"):
        await worker.fsmount("tmpfs", {"no such option": None})
    with refusal(errno.ENODEV, 'fsopen("no such type")', named(worker), "/proc/filesystems"):
        await worker.fsmount("no such type")


async def test_set_propagation(worker: Worker) -> None:
    for propagation, shown in ((Propagation.SHARED, "shared:"), ("unbindable", "unbindable"), ("private", "")):
        await worker.set_propagation(propagation)
        assert all(mount.propagation.startswith(shown) for mount in mounted(worker.pid))
        assert bool(shown) == bool(mounted(worker.pid)[0].propagation)
    with pytest.raises(ValueError, match="'none' is not a valid Propagation"):
        await worker.set_propagation("none")


async def test_pivot_root(worker: Worker, tmp_path: Path) -> None:
    await worker.bind_mount("/", tmp_path)
    await worker.mount(None, tmp_path / "mnt", "tmpfs")
    async with worker.fork() as fork:
        await fork.unshare(Namespace.MOUNT)
        await fork.pivot_root(tmp_path, tmp_path / "mnt")
        assert {mount.target for mount in mounted(fork.pid)} >= {"/", "/mnt", "/mnt/proc"}
    before = len(mounted(worker.pid))
    await worker.pivot_root(tmp_path)
    assert len(mounted(worker.pid)) < before
    assert (await worker.run_process("pwd")).stdout == b"/\n"
    with refusal(errno.EINVAL, "pivot_root(", named(worker), "Nothing is mounted"):
        await worker.pivot_root("/usr")


async def test_chroot_and_chdir(worker: Worker, directory: Path) -> None:
    await worker.chdir(directory / "from")
    assert (await worker.run_process("pwd")).stdout.decode().strip() == str(directory / "from")
    async with worker.fork() as fork:
        await fork.bind_mount("/", directory / "to")
        await let_look_into(fork)
        await fork.chroot(directory / "to")
        assert (await fork.run_process(["readlink", "/proc/self/root"])).stdout.decode().strip() == "/"
        assert os.stat(f"/proc/{fork.pid}/root").st_ino == os.stat("/").st_ino
        assert os.readlink(f"/proc/{fork.pid}/root") == str(directory / "to")
    for act in (worker.chroot, worker.chdir):
        with refusal(errno.ENOENT, "ch", named(worker), "No such directory"):
            await act(directory / "none")
        with pytest.raises(NotADirectoryError):
            await act(directory / "from" / "file")


async def test_host_and_domain_name() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.UTS) as worker:
        await worker.sethostname("machine")
        await worker.setdomainname("domäne")
        assert (await worker.run_process("hostname; cat /proc/sys/kernel/domainname")).stdout.decode() == "machine\ndomäne\n"
        for act in (worker.sethostname, worker.setdomainname):
            with refusal(errno.EINVAL, "set", named(worker), "64 bytes"):
                await act("a" * 65)
    assert os.uname().nodename != "machine"


@pytest.mark.parametrize("move", ["chdir", "chroot"])
async def test_a_default_worker_that_has_gone_elsewhere_is_not_replaced(move: str) -> None:
    """Its successor would be where the app is, and do there what was meant for elsewhere."""
    if move == "chroot":
        await aions.unshare(Namespace.USER)
    await getattr(aions, move)("/usr")
    worker = await aions.current_worker()
    os.kill(worker.pid, signal.SIGKILL)
    await anyio.wait_readable(worker.pidfd)
    with pytest.raises(aions.WorkerDied):
        await aions.run_process(["true"])


@pytest.mark.plain_user
async def test_a_plain_user_on_the_host(directory: Path) -> None:
    async with open_worker() as worker:
        with refusal(errno.EPERM, "mount(", named(worker), "CAP_SYS_ADMIN", "Namespace.USER | Namespace.MOUNT"):
            await worker.mount(None, directory, "tmpfs")
        for act in (worker.open_tree(directory), worker.umount(directory), worker.fsmount("tmpfs"), worker.chroot("/")):
            with pytest.raises(PermissionError) as caught:
                await act
            assert "Remedy: " in "\n".join(caught.value.__notes__)
        with refusal(errno.EPERM, "sethostname(", named(worker), "Namespace.UTS"):
            await worker.sethostname("mine")


async def test_what_a_more_privileged_namespace_has_mounted_is_locked(directory: Path) -> None:
    """In the inner user namespace, the mounts of the outer one cannot be taken off, bared or made writable."""
    async with open_worker(unshare=INSIDE) as outer:
        await outer.mount(None, directory / "from", "tmpfs", MountFlag.RDONLY)
        await outer.mount(None, directory / "to", "tmpfs")
        async with outer.fork() as inner:
            await inner.unshare(INSIDE)
            await inner.write_user_mappings(None, [UserMapping(0, 0, 1)])
            with refusal(errno.EINVAL, "umount2(", named(inner), "locked", "more privileged"):
                await inner.umount(directory / "from")
            with refusal(errno.EPERM, "mount_setattr(", named(inner), "locked", "more privileged"):
                await inner.mount_setattr(directory / "from", clear=MountAttribute.RDONLY)
            with refusal(errno.EPERM, "mount(", named(inner), "locked"):
                await inner.mount(None, directory / "from", flags=MountFlag.REMOUNT | MountFlag.BIND)
            with refusal(errno.EINVAL, "open_tree(", named(inner), "hidden", "recursive"):
                await inner.open_tree(directory, recursive=False)


async def test_functions_of_the_package_act_on_the_current_worker(directory: Path) -> None:
    async with open_worker(unshare=INSIDE | Namespace.UTS) as worker:
        await aions.mount(None, directory / "to", "tmpfs")
        await aions.mount_setattr(directory / "to", MountAttribute.RDONLY)
        assert mounted_on(worker.pid, directory / "to")[0].read_only
        await aions.umount(directory / "to")
        await aions.bind_mount(directory / "from", directory / "to")
        async with await aions.open_tree(directory / "to") as tree:
            await aions.umount(directory / "to")
            await aions.move_mount(tree, directory / "to")
        async with await aions.fsmount("tmpfs") as tree:
            await aions.move_mount(tree, directory / "to")
        await aions.set_propagation("slave")
        assert [mount.filesystem for mount in mounted_on(worker.pid, directory / "to")][-1] == "tmpfs"
        await aions.sethostname("current")
        await aions.setdomainname("current")
        await aions.chdir(directory)
        await aions.bind_mount("/", directory / "to")
        await aions.chroot(directory / "to")
        assert (await aions.run_process("hostname")).stdout == b"current\n"
