"""Where mounts go: inside the root whatever lies there (R39), and never to the host, be its mounts shared or not (R37)."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from aions import Bind, Namespace, Tmpfs, open_worker
from aions._sys.calls import KernelError
from aions._worker.targets import opened_or_made
from tests.kernel.mountinfo import mounted
from tests.kernel.programs.counts import times
from tests.kernel.scripts import run_script
from tests.kernel.targets import on_one_loop
from tests.worker.apart import fork

INSIDE = Namespace.USER | Namespace.MOUNT
RENAME_EXCHANGE = 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root in which every link wants out, next to what they want to reach."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    root = tmp_path / "root"
    (root / "deep" / "down").mkdir(parents=True)
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "deep" / "up").symlink_to("../../../../../../../../../../../.." + str(outside))
    (root / "deep" / "down" / "back").symlink_to("../../../outside/new/")
    (root / "file").symlink_to(outside / "file")
    (root / "magic").symlink_to("/proc/self/root")
    (root / "chain").symlink_to("absolute/../absolute")
    return root


ATTACKS = {
    "/absolute": "{outside}",
    "/relative": "/outside",
    "/absolute/new": "{outside}/new",
    "/deep/up": "{outside}",
    "/deep/down/back": "/outside/new",
    "/deep/down/back/further": "/outside/new/further",
    "/../../../../outside": "/outside",
    "/deep/../../../outside/x": "/outside/x",
    "/chain": "{parent}/absolute",
    "/magic/1": "/proc/self/root/1",
}
"""What is asked for, and where inside the root it leads, as if the root were all there is."""


@pytest.mark.parametrize(("target", "leads_to"), ATTACKS.items(), ids=ATTACKS)
@on_one_loop
async def test_no_link_and_no_dots_lead_out_of_the_root(root: Path, target: str, leads_to: str) -> None:
    outside = root.parent / "outside"
    if target == "/chain":
        (root / str(outside)[1:]).mkdir(parents=True)
    expected = leads_to.format(outside=outside, parent=outside.parent)
    async with open_worker(unshare=INSIDE, root=root, mounts=[Tmpfs(target)]) as worker:
        assert [mount.target for mount in mounted(worker.pid)] == ["/", expected]
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (root / expected[1:]).is_dir()


@on_one_loop
async def test_a_file_is_bound_where_a_link_leads_inside_the_root(root: Path) -> None:
    """As /etc/resolv.conf, which leads into a /run that is empty, or to a file outside of the tree that is meant for inside."""
    source = root.parent / "source"
    source.write_text("bound")
    (root / "resolv.conf").symlink_to("../run/resolver/stub.conf")
    mounts = [Bind(source, "/file"), Bind(source, "/resolv.conf")]
    async with open_worker(unshare=INSIDE, root=root, mounts=mounts) as worker:
        assert [mount.target for mount in mounted(worker.pid)][1:] == [
            str(root.parent / "outside" / "file"),
            "/run/resolver/stub.conf",
        ]
    assert (root.parent / "outside" / "file").read_text() == "untouched"


def exchange_for_ever(one: bytes, other: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    while not libc.renameat2(-100, one, -100, other, RENAME_EXCHANGE):
        pass
    raise OSError(ctypes.get_errno(), "renameat2")


@pytest.fixture
def swapped(root: Path) -> Iterator[Path]:
    """A root in which a directory and a link that leads out change places without end."""
    (root / "target").mkdir()
    names = [os.fsencode(root / name) for name in ("target", "relative")]
    pid, complaints = fork(lambda: exchange_for_ever(*names))
    yield root
    os.kill(pid, signal.SIGKILL)
    os.close(complaints)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("path", ["target", "target/new/further", "deep/../target"])
def test_what_is_swapped_meanwhile_leads_nowhere_else(swapped: Path, path: str) -> None:
    """Directories are removed again each time, so that they have to be made each time."""
    inside, outside = 0, swapped.parent / "outside"
    root = os.open(swapped, os.O_PATH)
    for _ in range(times("symlink swaps")):
        try:
            found = opened_or_made(root, path, is_directory=True)
        except KernelError:
            continue
        where = os.readlink(f"/proc/self/fd/{found}").removesuffix(" (deleted)")
        os.close(found)
        assert where.startswith(f"{swapped}/")
        inside += 1
        for made in (outside, swapped / "outside", swapped / "target"):
            for name in ("new/further", "new"):
                try:
                    os.rmdir(made / name)
                except OSError:
                    pass
    os.close(root)
    assert [entry.name for entry in outside.iterdir()] == ["file"]
    assert inside


@on_one_loop
async def test_openings_while_links_are_swapped(swapped: Path) -> None:
    for _ in range(max(3, times("symlink swaps") // 100)):
        async with open_worker(unshare=INSIDE, root=swapped, mounts=[Tmpfs("/target"), Tmpfs("/target/new")]) as worker:
            first, *others = (mount.target for mount in mounted(worker.pid))
            assert first == "/"
            assert len(others) == 2
    assert [entry.name for entry in (swapped.parent / "outside").iterdir()] == ["file"]


SHARED = """
import sys
from pathlib import Path
import anyio
from aions import Bind, Namespace, Proc, Tmpfs, open_worker

def mounts():
    return Path("/proc/self/mountinfo").read_text()

async def main():
    directory, options = Path(sys.argv[1]), {"propagation": sys.argv[2]}
    before = mounts()
    assert all(" shared:" in line for line in before.splitlines())
    places = [directory / str(number) for number in range(50)]
    unshare = Namespace.MOUNT | Namespace.PID
    async with open_worker(unshare=unshare, mounts=[Tmpfs(directory), *map(Tmpfs, places)], **options) as worker:
        for place in places:
            await worker.mount(None, place, "tmpfs")
        print(len(Path(f"/proc/{worker.pid}/mountinfo").read_text().splitlines()) - len(before.splitlines()))
        assert mounts() == before
        await worker.umount(directory, detach=True)
        assert mounts() == before
    async with open_worker(unshare=unshare, root="/", mount_proc=True, **options) as worker:
        assert mounts() == before
        await worker.run_process(["mount", "-t", "tmpfs", "none", "/tmp"])
    assert mounts() == before

anyio.run(main)
"""


@pytest.mark.parametrize("propagation", ["private", "slave"])
@on_one_loop
async def test_a_hundred_mounts_do_not_show_on_a_shared_root(tmp_path: Path, propagation: str) -> None:
    """The program has a mount namespace of its own in which all is shared, as on most hosts; the host's is left alone."""
    host = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared"]
    assert run_script(tmp_path, SHARED, tmp_path, propagation, under=host) == ["101"]


@on_one_loop
async def test_slave_mounts_come_in_and_do_not_go_out(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        import anyio
        from aions import Namespace, open_worker

        async def main():
            for propagation in ("private", "slave"):
                async with open_worker(unshare=Namespace.MOUNT, propagation=propagation) as worker, open_worker() as host:
                    await host.mount(None, sys.argv[1], "tmpfs")
                    print(sys.argv[1] in Path(f"/proc/{worker.pid}/mountinfo").read_text())
                    await host.umount(sys.argv[1], detach=True)

        anyio.run(main)
        """
    host = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared"]
    assert run_script(tmp_path, program, tmp_path, under=host) == ["False", "True"]
