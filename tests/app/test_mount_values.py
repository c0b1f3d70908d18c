"""What `open_worker` is given to mount, and how it is written down for the worker."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from aions import Bind, Dev, Mount, MountAttribute, MountFlag, Namespace, Overlay, Proc, Propagation, Sysfs, Tmpfs
from aions._wire.messages import Attach

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
ROOT = os.geteuid() == 0


@pytest.mark.parametrize(
    ("mount", "written"),
    [
        (Bind("/a", "/b"), Attach("rbind", "/b", ("/a",), (), 0)),
        (Bind(b"/a\xff", Path("/b"), read_only=True), Attach("rbind", "/b", ("/a\udcff",), (), RDONLY)),
        (Bind("/a", "/b", recursive=False), Attach("bind", "/b", ("/a",), (), 0)),
        (Bind("a/../b", "/b"), Attach("rbind", "/b", (os.path.abspath("b"),), (), 0)),
        (Bind("/a", "//./x/.."), Attach("rbind", "/", ("/a",), (), 0)),
        (Tmpfs("/t"), Attach("tmpfs", "/t", (), ("mode=1777",), NOSUID | NODEV)),
        (
            Tmpfs("/t", size=5, mode=0o7, read_only=True),
            Attach("tmpfs", "/t", (), ("mode=7", "size=5"), RDONLY | NOSUID | NODEV),
        ),
        (Overlay("/o", ["/a", "/b"]), Attach("overlay", "/o", ("/a", "/b"), (), 0)),
        (
            Overlay("/o", ("/a",), upper="/u", work="/w", read_only=True),
            Attach("overlay", "/o", ("/a",), ("upperdir=/u", "workdir=/w"), RDONLY),
        ),
        (Proc(), Attach("proc", "/proc", (), (), NOSUID | NODEV | NOEXEC, ROOT)),
        (Proc("/p", fallback=True), Attach("proc", "/p", ("/proc",), (), NOSUID | NODEV | NOEXEC, ROOT)),
        (Proc(kernel_writable=True), Attach("proc", "/proc", (), (), NOSUID | NODEV | NOEXEC)),
        (Sysfs(read_only=True), Attach("sysfs", "/sys", (), (), RDONLY | NOSUID | NODEV | NOEXEC, ROOT)),
        (Sysfs(fallback=True), Attach("sysfs", "/sys", ("/sys",), (), NOSUID | NODEV | NOEXEC, ROOT)),
        (Sysfs(kernel_writable=True), Attach("sysfs", "/sys", (), (), NOSUID | NODEV | NOEXEC)),
        (Dev(), Attach("dev", "/dev", (), (), NOSUID)),
    ],
    ids=repr,
)
def test_what_is_written_for_the_worker(mount: Mount, written: Attach) -> None:
    assert mount._attach() == written


@pytest.mark.parametrize("mount", [Proc(), Sysfs()], ids=repr)
def test_what_is_about_the_network_is_told_apart_where_it_is_the_workers_own(mount: Mount) -> None:
    assert not mount._attach(Namespace.MOUNT).own_network
    assert mount._attach(Namespace.MOUNT | Namespace.NETWORK).own_network


@pytest.mark.parametrize("path", ["relative", "", "./x", "\0", "/a\0b", b"/\0"])
def test_targets_are_absolute_paths(path: Any) -> None:
    for mount in (Tmpfs(path), Bind("/", path), Proc(path), Dev(path), Sysfs(path), Overlay(path, ["/"])):
        with pytest.raises(ValueError, match=r"absolute path|null byte"):
            mount._attach()


@pytest.mark.parametrize("path", ["", b""])
def test_an_empty_source_is_not_the_working_directory(path: Any) -> None:
    for mount in (Bind(path, "/b"), Overlay("/o", ["/a", path]), Overlay("/o", ["/a"], upper=path, work=path)):
        with pytest.raises(ValueError, match="empty path"):
            mount._attach()


@pytest.mark.parametrize("options", [{"size": 0}, {"size": -1}, {"size": 2**63}, {"mode": -1}, {"mode": 0o10000}], ids=str)
def test_sizes_and_modes_that_the_kernel_would_bend(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"not -?[0-9]"):
        Tmpfs("/t", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lower", "options", "said"),
    [
        ([], {}, "lower directories"),
        ("/a", {}, "lower directories"),
        (["/a"], {"upper": "/u"}, "both upper and work"),
        (["/a"], {"work": "/w"}, "both upper and work"),
    ],
)
def test_overlays_that_make_no_sense(lower: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Overlay("/o", lower, **options)


def test_they_are_values() -> None:
    assert Bind("/a", "/b") == Bind("/a", "/b") != Bind("/a", "/b", read_only=True)
    assert pickle.loads(pickle.dumps(Tmpfs("/t", size=1))) == Tmpfs("/t", size=1)
    with pytest.raises(AttributeError):
        Dev().target = "/x"  # type: ignore[misc]


def test_flags_have_the_kernels_numbers() -> None:
    assert (MountFlag.BIND | MountFlag.REC).value == 0x5000
    assert MountAttribute.NOSYMFOLLOW.value == 0x200000
    assert [propagation.flag for propagation in Propagation] == [1 << 18, 1 << 19, 1 << 20, 1 << 17]
