"""Calls about mounts: what they are called where they are refused. What they do is for tests/kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aions._sys import mounts
from aions._sys.calls import KernelError
from aions._sys.mounts import AT_FDCWD

NONE = "/no/such/path"

REFUSED: dict[str, tuple[set[int], str, Callable[[], object]]] = {
    "mount": (
        {errno.ENOENT, errno.EPERM},
        f'mount("source", "{NONE}", NULL, 0x1000, "data")',
        lambda: mounts.mount("source", NONE, None, 0x1000, "data"),
    ),
    "umount": ({errno.ENOENT, errno.EPERM}, f'umount2("{NONE}", 0x2)', lambda: mounts.umount(NONE, 2)),
    "pivot_root": ({errno.ENOENT, errno.EPERM}, f'pivot_root("{NONE}", ".")', lambda: mounts.pivot_root(NONE, ".")),
    "open_tree": ({errno.ENOENT}, f'open_tree(AT_FDCWD, "{NONE}", 0x80000)', lambda: mounts.open_tree(NONE, 0)),
    "move_mount": (
        {errno.ENOENT, errno.EPERM},
        f'move_mount(-1, "", AT_FDCWD, "{NONE}", 0x4)',
        lambda: mounts.move_mount(-1, "", AT_FDCWD, NONE),
    ),
    "mount_setattr": (
        {errno.ENOENT, errno.EPERM},
        f'mount_setattr(AT_FDCWD, "{NONE}", 0x8000, {{set=0x1, clear=0x2, propagation=0x0, userns_fd=0}})',
        lambda: mounts.mount_setattr(AT_FDCWD, NONE, True, 1, 2, 0, 0),
    ),
    "fsopen": ({errno.ENODEV, errno.EPERM}, 'fsopen("no such")', lambda: mounts.new_mount("no such", [], 0)),
    "openat2": (
        {errno.ENOENT},
        'openat2(AT_FDCWD, "no such", {flags=0o10000000, resolve=RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS})',
        lambda: mounts.open_in_root(AT_FDCWD, "no such", os.O_PATH),
    ),
    "setdomainname": ({errno.EINVAL, errno.EPERM}, 'setdomainname("aaaaa', lambda: mounts.setdomainname("a" * 65)),
}


@pytest.mark.parametrize(("errnos", "text", "call"), REFUSED.values(), ids=REFUSED)
def test_a_refused_call_is_named(errnos: set[int], text: str, call: Callable[[], object]) -> None:
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.errno in errnos
    assert caught.value.call.startswith(text)


def test_what_is_opened_in_a_root_is_inside(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/../../etc")
    (tmp_path / "etc").mkdir()
    root = os.open(tmp_path, os.O_PATH)
    for path in ("link", "/link", "../../etc", "link/../etc"):
        found = mounts.open_in_root(root, path, os.O_PATH)
        assert os.readlink(f"/proc/self/fd/{found}") == str(tmp_path / "etc")
        assert not os.get_inheritable(found)
        os.close(found)
    os.close(root)


def test_no_magic_link_is_followed() -> None:
    root = os.open("/", os.O_PATH)
    with pytest.raises(KernelError) as caught:
        mounts.open_in_root(root, "proc/self/cwd", os.O_PATH)
    assert caught.value.errno == errno.ELOOP
    os.close(root)
