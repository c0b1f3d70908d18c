"""open_worker with everything: root, mounts, proc, names, clocks, limits; and what is left where a step is refused."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aions import (
    Bind,
    Clock,
    Dev,
    Identity,
    Namespace,
    Overlay,
    Proc,
    Propagation,
    Sysfs,
    Tmpfs,
    Worker,
    open_worker,
)
from aions._app.identity import IdentityLike
from tests.kernel.conftest import can
from tests.kernel.explained import works
from tests.kernel.mountinfo import mounted, mounted_on
from tests.kernel.scripts import run_script
from tests.kernel.targets import EVERY_KIND, LOOKED_INTO, on_one_loop
from tests.kernel.trees import make_tree

INSIDE = Namespace.USER | Namespace.MOUNT
WITH_PID = INSIDE | Namespace.PID


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small system. Nothing in it is named proc, dev or tmp."""
    return make_tree(tmp_path_factory.mktemp("tree"))


async def output(worker: Worker, script: str) -> str:
    return (await worker.run_process(["sh", "-c", script])).stdout.decode()


def targets(worker: Worker) -> list[str]:
    return [mount.target for mount in mounted(worker.pid)]


@pytest.mark.needs("time_namespaces")
async def test_everything_at_once(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the app's")
    async with open_worker(
        unshare=EVERY_KIND,
        hostname="inside",
        root=tree,
        mount_proc=True,
        mounts=[Dev(), Tmpfs("/tmp"), Bind(tmp_path, "/srv/app's", read_only=True), Sysfs(fallback=True)],
        clock_offsets={Clock.BOOTTIME: 1e6},
        rlimits={resource.RLIMIT_CORE: 0},
    ) as worker:
        assert await output(worker, 'hostname; readlink /proc/self/root; cat "/srv/app\'s/file"; ls /tmp') == (
            "inside\n/\nthe app's"
        )
        assert float((await output(worker, "cat /proc/uptime")).split()[0]) > 1e6
        assert (await output(worker, "cat /proc/1/limits | while read l; do case $l in *core*) echo $l;; esac; done")).split()[
            4:6
        ] == ["0", "0"]
        assert set(targets(worker)) >= {"/", "/proc", "/dev", "/dev/null", "/dev/pts", "/tmp", "/srv/app's", "/sys"}


@on_one_loop
async def test_of_the_old_root_nothing_is_left(tree: Path) -> None:
    async with open_worker(unshare=WITH_PID, root=tree, mount_proc=True, preload=LOOKED_INTO) as worker:
        root, *others = mounted(worker.pid)
        assert (root.target, {mount.filesystem for mount in others}) == ("/", {"proc"})
        assert root.root == str(tree)
        assert os.stat(f"/proc/{worker.pid}/root").st_ino == tree.stat().st_ino
        assert (await output(worker, "ls /; cat /proc/1/status")).splitlines()[0] == "bin"
        assert (await worker.run_process("pwd")).stdout == b"/\n"
        with pytest.raises(FileNotFoundError):
            await worker.chdir(tree)
        assert await worker.run_sync(os.getpid) == 1


@on_one_loop
async def test_the_mounts_of_the_host_come_along_where_the_root_has_some(tmp_path: Path) -> None:
    async with open_worker(unshare=INSIDE, mounts=[Bind("/", "/", read_only=True), Tmpfs("/tmp")]) as worker:
        inside = {mount.target: mount for mount in mounted(worker.pid)}
        assert inside.keys() == {mount.target for mount in mounted()} | {"/tmp"}
        assert [target for target, mount in inside.items() if not mount.read_only] == ["/tmp"]
        assert await output(worker, "ls /tmp") == ""
        assert "Read-only file system" in await output(worker, f"touch {Path.home()}/x 2>&1 || true")


@on_one_loop
async def test_a_root_of_nothing(tree: Path) -> None:
    mounts = [Tmpfs("/", mode=0o755), *(Bind(path, f"/{path.name}") for path in tree.iterdir())]
    async with open_worker(unshare=INSIDE, mounts=mounts) as worker:
        assert (await output(worker, "ls /")).split() == sorted(path.name for path in tree.iterdir())
        assert mounted(worker.pid)[0].filesystem == "tmpfs"


@on_one_loop
async def test_an_overlay_as_the_root(tree: Path) -> None:
    async with open_worker(unshare=INSIDE, mounts=[Overlay("/", [tree])]) as worker:
        assert await output(worker, "echo new > /new; echo changed > /bin/true; cat /new /bin/true") == "new\nchanged\n"
        assert targets(worker) == ["/"]
    assert not (tree / "new").exists()
    assert (tree / "bin" / "true").stat().st_size > 100


@pytest.mark.parametrize("writable", ["tmpfs", "upper", "not at all"])
@on_one_loop
async def test_overlays(tmp_path: Path, writable: str) -> None:
    for name in ("a:b", "lower\\", "up\\er:", "work\\", "where"):
        (tmp_path / name).mkdir()
    (tmp_path / "a:b" / "both").write_text("upper")
    (tmp_path / "lower\\" / "both").write_text("lower")
    (tmp_path / "lower\\" / "only").write_text("only")
    choices: dict[str, dict[str, Any]] = {
        "tmpfs": {},
        "upper": {"upper": tmp_path / "up\\er:", "work": tmp_path / "work\\"},
        "not at all": {"read_only": True},
    }
    options = choices[writable]
    overlay = Overlay(tmp_path / "where", [tmp_path / "a:b", tmp_path / "lower\\"], **options)
    async with open_worker(unshare=INSIDE, mounts=[overlay]) as worker:
        assert await output(worker, f"cd {tmp_path}/where; cat both only") == "upperonly"
        written = await worker.run_process(["sh", "-c", f"echo new > {tmp_path}/where/new"], check=False)
        assert (written.returncode == 0) == (writable != "not at all")
        assert [mount.filesystem for mount in mounted(worker.pid) if mount.target == "/"] == [
            mounted_on("self", "/")[0].filesystem
        ]
    assert sorted(path.name for path in tmp_path.rglob("new")) == (["new"] if writable == "upper" else [])


@pytest.mark.parametrize(
    "identity",
    [Identity.root, Identity.current, pytest.param(Identity.whole, marks=pytest.mark.root)],
    ids=["root", "current", "whole"],
)
@on_one_loop
async def test_in_an_overlay_directories_of_the_lower_ones_can_be_made_anew(tmp_path: Path, identity: IdentityLike) -> None:
    """What hides a lower directory is an extended attribute, which in a user namespace has another name."""
    (tmp_path / "lower" / "directory" / "below").mkdir(parents=True)
    async with open_worker(unshare=INSIDE, identity=identity, mounts=[Overlay(tmp_path, [tmp_path / "lower"])]) as worker:
        assert await output(worker, f"cd {tmp_path}; rm -r directory && mkdir directory && ls directory") == ""
    assert (tmp_path / "lower" / "directory" / "below").exists()


@on_one_loop
async def test_an_overlay_of_more_directories_than_one_option_has_room_for(tmp_path: Path) -> None:
    layers = [tmp_path / f"{'long' * 10}{number}" for number in range(20)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / "file").write_text(str(number))
        (layer / f"file{number}").write_text("")
    async with open_worker(unshare=INSIDE, mounts=[Overlay(tmp_path, layers)]) as worker:
        assert await output(worker, f"cat {tmp_path}/file") == "0"
        assert len((await output(worker, f"ls {tmp_path}")).split()) == 21


@pytest.mark.parametrize("name", ["long" * 60, "é" * 120, "\\" * 200])
@pytest.mark.parametrize("writable", [False, True], ids=["on a tmpfs", "upper"])
@on_one_loop
async def test_an_overlay_of_directories_whose_path_one_option_has_no_room_for(
    tmp_path: Path, name: str, writable: bool
) -> None:
    below = tmp_path / name / "more"
    for part in ("lower", "upper", "work"):
        (below / part).mkdir(parents=True)
    (below / "lower" / "file").write_text("lower")
    options: dict[str, Any] = {"upper": below / "upper", "work": below / "work"} if writable else {}
    async with open_worker(unshare=INSIDE, mounts=[Overlay("/srv", [below / "lower"], **options)]) as worker:
        assert await output(worker, "cd /srv; cat file; echo new > new; ls") == "lowerfile\nnew\n"
    assert (below / "upper" / "new").exists() == writable


@on_one_loop
async def test_what_is_in_dev() -> None:
    async with open_worker(unshare=INSIDE, mounts=[Dev()]) as worker:
        assert (await output(worker, "ls /dev")).split() == sorted(
            [
                "core",
                "fd",
                "full",
                "null",
                "ptmx",
                "pts",
                "random",
                "shm",
                "stderr",
                "stdin",
                "stdout",
                "tty",
                "urandom",
                "zero",
            ]
        )
        assert await output(worker, "echo x > /dev/null; head -c3 /dev/zero | wc -c; echo y | cat /dev/stdin; ls /dev/pts") == (
            "3\ny\nptmx\n"
        )
        assert await output(worker, "touch /dev/shm/x; stat -c %a /dev/shm") == "1777\n"
        terminal = "import os, pty; one, other = pty.openpty(); print(os.ttyname(other))"
        assert (await worker.run_process(["python3", "-c", terminal])).stdout == b"/dev/pts/0\n"


@on_one_loop
async def test_tmpfs_options(tmp_path: Path) -> None:
    mounts = [Tmpfs(tmp_path, size=1 << 20, mode=0o700), Tmpfs(tmp_path / "ro", read_only=True)]
    async with open_worker(unshare=INSIDE, mounts=mounts) as worker:
        assert await output(worker, f"stat -c %a {tmp_path}; stat -f -c '%b %S' {tmp_path}") == "700\n256 4096\n"
        assert [mounted_on(worker.pid, path)[0].read_only for path in (tmp_path, tmp_path / "ro")] == [False, True]
        assert mounted_on(worker.pid, tmp_path)[0].options >= {"nosuid", "nodev"}


@on_one_loop
async def test_mounts_are_made_in_order_and_parents_inside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    mounts = [
        Tmpfs(tmp_path / "new"),
        Bind(tmp_path / "file", tmp_path / "new" / "deep" / "down" / "file"),
        Bind(tmp_path / "file", tmp_path / "new" / "file with a blank"),
        Tmpfs(tmp_path / "new" / "deep"),
    ]
    async with open_worker(unshare=INSIDE, mounts=mounts) as worker:
        assert await output(worker, f"cd {tmp_path}/new; cat 'file with a blank'; ls deep") == "content"
    assert list((tmp_path / "new").iterdir()) == []


@on_one_loop
async def test_a_target_of_which_a_thousand_parents_are_missing(tmp_path: Path) -> None:
    deep = f"{tmp_path}{'/a' * 1500}"
    async with open_worker(unshare=INSIDE, mounts=[Tmpfs(tmp_path), Tmpfs(deep)]) as worker:
        assert mounted(worker.pid)[-1].target == deep


@on_one_loop
async def test_sources_are_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("content")
    mounts = [Tmpfs(tmp_path), Bind(tmp_path / "one", tmp_path / "one"), Bind(tmp_path, tmp_path / "all")]
    async with open_worker(unshare=INSIDE, mounts=mounts) as worker:
        assert await output(worker, f"cd {tmp_path}; cat one/file all/one/file; ls") == "contentcontentall\none\n"


@on_one_loop
async def test_the_working_directory_is_under_what_was_mounted_on_it(tmp_path: Path) -> None:
    program = """
        import anyio, os, sys
        from aions import Namespace, Tmpfs, open_worker

        async def main():
            os.chdir(sys.argv[1])
            unshare = Namespace.USER | Namespace.MOUNT
            async with open_worker(unshare=unshare, mounts=[Tmpfs(sys.argv[1])]) as worker:
                print((await worker.run_process("pwd; ls")).stdout.decode(), end="")

        anyio.run(main)
        """
    assert run_script(tmp_path, program, tmp_path) == [str(tmp_path)]


@on_one_loop
async def test_mount_proc_elsewhere_and_read_only(tmp_path: Path) -> None:
    mounts = [Proc("/proc", read_only=True)]
    async with open_worker(unshare=WITH_PID, mount_proc=tmp_path, mounts=mounts) as worker:
        assert (await output(worker, f"cat {tmp_path}/1/comm")) == Path(f"/proc/{worker.pid}/comm").read_text()
        assert mounted_on(worker.pid, "/proc")[-1].read_only


MASKED = """
import sys, warnings
import anyio
from aions import Namespace, Proc, open_worker

async def main():
    options = {"mount_proc": True} if sys.argv[1] == "fallback" else {"mounts": [Proc()]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async with open_worker(unshare=Namespace.USER | Namespace.MOUNT | Namespace.PID, **options) as worker:
                print(*(await worker.run_process("cat /proc/self/mountinfo; ls /proc/fs | wc -l")).stdout.decode().split()[-1:])
        except PermissionError as error:
            print(" ".join(error.__notes__))
    print(*(f"{each.category.__name__} {each.message}" for each in caught))

anyio.run(main)
"""


@pytest.mark.parametrize("how", ["fallback", "strict"])
@on_one_loop
async def test_where_parts_of_proc_are_hidden(tmp_path: Path, how: str) -> None:
    """As in Docker: there, the kernel refuses a new proc in a user namespace."""
    docker = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /proc/fs; exec "$@"', "sh"]
    first, second = run_script(tmp_path, MASKED, how, under=docker)
    if how == "fallback":
        assert first == "0", "what hides it is still there"
        assert second.startswith("RuntimeWarning fsmount(proc")
        assert "/proc is the /proc that was there before" in second
    else:
        assert "fsmount(proc" in first
        assert "Docker" in first
        assert "fallback=True" in first
        assert second == ""


async def test_a_fallback_warns_whoever_opens_the_worker() -> None:
    with pytest.warns(RuntimeWarning, match=r"the network namespace is not new: /sys is the /sys that") as caught:
        async with open_worker(unshare=INSIDE, mounts=[Sysfs(fallback=True)]) as worker:
            assert mounted_on(worker.pid, "/sys")
    assert [warning.filename for warning in caught] == [__file__]


@on_one_loop
async def test_host_names() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.UTS, hostname="näme") as worker:
        assert (await worker.run_process("hostname")).stdout.decode() == "näme\n"


@pytest.mark.needs("time_namespaces")
@on_one_loop
async def test_clock_offsets() -> None:
    offsets = {Clock.MONOTONIC: 1000.25, Clock.BOOTTIME: 86400 * 365}
    async with open_worker(unshare=Namespace.USER | Namespace.TIME, clock_offsets=offsets) as worker:
        ahead = await worker.run_sync(time.monotonic) - time.monotonic()
        assert ahead == pytest.approx(1000.25, abs=0.2)
        assert (await worker.run_process(["cat", f"/proc/{worker.pid}/timens_offsets"])).stdout.split() == (
            b"monotonic 1000 250000000 boottime 31536000 0".split()
        )


@on_one_loop
async def test_limits() -> None:
    async with open_worker(unshare=WITH_PID, rlimits={resource.RLIMIT_NOFILE: (50, 100), resource.RLIMIT_CORE: 0}) as worker:
        assert await output(worker, "ulimit -Sn; ulimit -Hn; ulimit -c") == "50\n100\n0\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) != (50, 100)
    with pytest.raises(OSError, match="Invalid argument"):
        async with open_worker(rlimits={resource.RLIMIT_CORE: (1, 0)}):
            raise AssertionError


@on_one_loop
async def test_limits_are_raised_with_the_privileges_of_the_app() -> None:
    """Inside a user namespace nobody could: it takes CAP_SYS_RESOURCE in the initial one, which not every root has."""
    more = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1] + 1
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_MSGQUEUE: more}
    if can("prlimit", f"--msgqueue={more}", "true"):
        async with open_worker(unshare=INSIDE, rlimits=limits) as worker:
            assert await worker.run_sync(resource.getrlimit, resource.RLIMIT_MSGQUEUE) == (more, more)
        return
    with pytest.raises(PermissionError) as caught:
        async with open_worker(unshare=INSIDE, rlimits=limits):
            raise AssertionError
    assert "It was step 2 of 3: SetLimit" in caught.value.__notes__[-1]
    assert "CAP_SYS_RESOURCE" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("propagation", list(Propagation), ids=lambda propagation: propagation.value)
@on_one_loop
async def test_propagation(propagation: Propagation) -> None:
    async with open_worker(unshare=INSIDE, propagation=propagation.value) as worker:
        words = {Propagation.SHARED: "shared:", Propagation.UNBINDABLE: "unbindable"}
        assert all(mount.propagation.startswith(words.get(propagation, "")) for mount in mounted(worker.pid))


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "a host name without UTS": (r"add Namespace\.UTS", {"unshare": INSIDE, "hostname": "x"}),
    "clocks without TIME": (r"add Namespace\.TIME", {"unshare": INSIDE, "clock_offsets": {Clock.BOOTTIME: 1}}),
    "a root without MOUNT": (r"add Namespace\.MOUNT", {"unshare": "user", "root": "/"}),
    "mounts without MOUNT": (r"add Namespace\.MOUNT", {"mounts": [Tmpfs("/tmp")]}),
    "proc without MOUNT": (r"add Namespace\.MOUNT", {"unshare": "pid", "mount_proc": True}),
    "a relative target": ("no absolute path", {"unshare": INSIDE, "mounts": [Tmpfs("tmp")]}),
    "two roots": ("the first, and the only one", {"unshare": INSIDE, "root": "/", "mounts": [Tmpfs("/")]}),
    "a late root": ("the first, and the only one", {"unshare": INSIDE, "mounts": [Proc(), Tmpfs("//")]}),
    "a shared root": ("private or slave", {"unshare": INSIDE, "root": "/usr", "propagation": "shared"}),
    "a root that may be shared": ("private or slave", {"unshare": INSIDE, "root": "/usr", "propagation": None}),
    "an unknown propagation": ("not a valid Propagation", {"unshare": INSIDE, "propagation": "rprivate"}),
    "an empty root": ("empty path", {"unshare": INSIDE, "root": ""}),
    "an empty cgroup": ("empty path", {"cgroup": ""}),
    "a limit below none": ("not -2", {"rlimits": {resource.RLIMIT_CORE: -2}}),
    "a limit that is too high": ("not 9223372036854775808", {"rlimits": {resource.RLIMIT_CORE: (0, 2**63)}}),
    "an endless offset": ("finite", {"unshare": "time", "clock_offsets": {Clock.BOOTTIME: float("inf")}}),
    "an offset that is no number": ("finite", {"unshare": "time", "clock_offsets": {Clock.BOOTTIME: float("nan")}}),
    "a null byte": ("null byte", {"unshare": INSIDE, "root": "/\0"}),
}


@pytest.mark.parametrize(("said", "options"), BAD.values(), ids=BAD)
@on_one_loop
async def test_what_makes_no_sense_is_refused_before_anything_is_done(said: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=said):
        async with open_worker(**options):
            raise AssertionError


REFUSED: dict[str, tuple[int, str, str, Callable[[Path], dict[str, Any]]]] = {
    "no such root": (errno.ENOENT, "open_tree(", "step 2 of 2", lambda path: {"root": path / "none"}),
    "a file as root": (errno.EINVAL, "move_mount(", "step 2 of 2", lambda path: {"root": path / "file"}),
    "no such source": (
        errno.ENOENT,
        "open_tree(",
        "step 3 of 4",
        lambda path: {"mounts": [Tmpfs("/tmp"), Bind(path / "none", "/tmp/x"), Tmpfs("/tmp")]},
    ),
    "a directory on a file": (errno.EINVAL, "move_mount(", "step 2", lambda path: {"mounts": [Tmpfs(path / "file")]}),
    "a file in the way": (errno.ENOTDIR, "openat2(", "step 2", lambda path: {"mounts": [Tmpfs(path / "file" / "below")]}),
    "a read-only root": (
        errno.EROFS,
        "mkdirat(",
        "step 3",
        lambda path: {"mounts": [Bind(path, "/", read_only=True), Tmpfs("/new")]},
    ),
    "links in a circle": (errno.ELOOP, "openat2(", "step 2", lambda path: {"mounts": [Tmpfs(path / "circle")]}),
    "an upper directory and a work directory on two mounts": (
        errno.EINVAL,
        "fsconfig(",
        "step 2",
        lambda path: {"mounts": [Overlay("/tmp", [path], upper=path, work="/dev/shm")]},
    ),
    "an upper directory that is none": (
        errno.ENOENT,
        "fsconfig(",
        "step 2",
        lambda path: {"mounts": [Overlay("/tmp", [path], upper=path / "none", work=path / "none")]},
    ),
}


@pytest.mark.parametrize(("number", "call", "step", "options"), REFUSED.values(), ids=REFUSED)
@on_one_loop
async def test_a_refusal_names_the_step_and_leaves_nothing(
    tmp_path: Path, number: int, call: str, step: str, options: Callable[[Path], dict[str, Any]]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.rglob("*"))
    async with open_worker() as bystander:
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            async with open_worker(unshare=INSIDE, **options(tmp_path)):
                raise AssertionError
        assert (caught.value.errno, caught.value.__notes__[0].startswith(call)) == (number, True), caught.value.__notes__
        assert step in caught.value.__notes__[-1]
        assert "Remedy: " in "\n".join(caught.value.__notes__) or number == errno.ENOENT
        assert await works(bystander)
    assert sorted(tmp_path.rglob("*")) == before


@on_one_loop
async def test_an_overlay_of_what_has_locked_mounts_below_it() -> None:
    """The host's root, in a user namespace: /proc and others lie on it, and are locked."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        async with open_worker(unshare=INSIDE, mounts=[Overlay("/", ["/"])]):
            raise AssertionError
    assert "one by one" in "\n".join(caught.value.__notes__)


@pytest.mark.root
@on_one_loop
async def test_root_has_an_overlay_of_the_whole_host(tmp_path: Path) -> None:
    mounts = [Overlay("/", ["/"]), Proc(), Dev(), Sysfs()]
    async with open_worker(unshare=Namespace.MOUNT | Namespace.PID, mounts=mounts) as worker:
        await worker.run_process(["touch", "/etc/aions-test", tmp_path / "file"])
    assert not Path("/etc/aions-test").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@on_one_loop
async def test_root_needs_no_user_namespace(tree: Path) -> None:
    async with open_worker(
        unshare=EVERY_KIND & ~Namespace.USER, hostname="x", root=tree, mount_proc=True, mounts=[Dev(), Tmpfs("/tmp")]
    ) as worker:
        assert await output(worker, "hostname; id -u; readlink /proc/self/root") == "x\n0\n/\n"


@on_one_loop
async def test_a_fork_has_it_all(tree: Path) -> None:
    async with open_worker(unshare=WITH_PID, root=tree, mount_proc=True) as worker, worker.fork() as fork:
        assert targets(fork) == targets(worker)
        assert await output(fork, "pwd; ls -d /proc/1") == "/\n/proc/1\n"


@on_one_loop
async def test_two_hundred_openings_leave_nothing(tree: Path, tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        return mounted(), sorted(tree.rglob("*")), sorted(tmp_path.rglob("*"))

    for name in ("dev", "proc", "tmp", "upper", "work", "target"):
        (tmp_path / name).mkdir()
    before = state()
    overlay = Overlay("/", [tmp_path, tree], upper=None)
    for _ in range(200):
        async with open_worker(
            unshare=WITH_PID, mount_proc=True, mounts=[overlay, Dev(), Tmpfs("/tmp"), Bind(tree, "/target")]
        ):
            pass
    assert state() == before
