"""What a namespace is known by."""

from __future__ import annotations

import os
from errno import ENOENT

import pytest

from aions._sys import namespaces, proc
from aions._sys.calls import KernelError


def test_a_namespace_is_known_by_device_and_inode() -> None:
    proc_fd = proc.open_proc()
    for name in ("net", "mnt", "pid", "user"):
        status = os.stat(f"/proc/self/ns/{name}")
        for pid in ("self", os.getpid()):
            device, inode, number = namespaces.identify(proc_fd, pid, name)
            assert (device, inode) == (status.st_dev, status.st_ino)
            assert number is None or number > 0
    os.close(proc_fd)


def test_different_namespaces_have_different_ids() -> None:
    proc_fd = proc.open_proc()
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    numbers = [namespaces.identify(proc_fd, "self", name)[2] for name in names]
    os.close(proc_fd)
    assert None in numbers or len(set(numbers)) == len(names)


def test_a_namespace_that_is_none_is_refused() -> None:
    proc_fd = proc.open_proc()
    with pytest.raises(KernelError) as caught:
        namespaces.identify(proc_fd, "self", "nothing")
    os.close(proc_fd)
    assert (caught.value.errno, caught.value.filename) == (ENOENT, "/proc/self/ns/nothing")
