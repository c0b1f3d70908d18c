"""Each refusal of the kernel that we know of says why it may have happened and what helps."""

from __future__ import annotations

import itertools
import os
from errno import EACCES, EAGAIN, EBADF, EINVAL, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, ESRCH, EUSERS

import pytest

from aions import Namespace
from aions._app.explain import explain, refusal
from aions._app.explain_mounts import MOUNT_REASONS
from aions._wire.messages import (
    BecomeRoot,
    Fork,
    GetNamespaceID,
    GetOwnerUID,
    NewNetwork,
    OpenSocket,
    OpenTree,
    Request,
    SetClockOffset,
    SetHostName,
    SetLoopbackUp,
    SetNamespace,
    SetPropagation,
    Spawn,
    Unshare,
    WriteMap,
)

USER, MOUNT, PID, NETWORK, TIME = (
    kind.value for kind in (Namespace.USER, Namespace.MOUNT, Namespace.PID, Namespace.NETWORK, Namespace.TIME)
)

SPAWN = Spawn(
    arguments=("true",),
    environment=(),
    process_group=0,
    session=0,
    exit=0,
    stdin=0,
    stdout=0,
    stderr=0,
    passed=(),
)
UID_MAP = WriteMap(1, "uid_map", "0 0 1\n", WriteMap.KEPT)
GID_MAP = WriteMap(1, "gid_map", "0 0 1\n", WriteMap.DENIED)


def notes(request: Request, errno: int, call: str = "call(2)") -> str:
    return "\n".join(explain(refusal(errno, None), request, call, "worker 7").__notes__)


@pytest.mark.parametrize(
    ("request_", "errno", "words"),
    [
        (Unshare(USER), ENOSPC, ["max_*_namespaces", "32", "not about disk space"]),
        (Unshare(NETWORK), ENOSPC, ["max_*_namespaces", "not about disk space"]),
        (Unshare(PID), ENOSPC, ["max_*_namespaces", "32", "not about disk space"]),
        (SetNamespace(TIME, False, 0), EUSERS, ["one thread"]),
        (Unshare(USER), EINVAL, ["more than one thread"]),
        (Unshare(USER | NETWORK), EINVAL, ["more than one thread"]),
        (Unshare(PID), EINVAL, ["unshared its pid namespace already"]),
        (SetNamespace(USER, False, 0), EINVAL, ["more than one thread", "user namespace already", "another type"]),
        (SetNamespace(MOUNT, False, 0), EINVAL, ["more than one thread", "another type"]),
        (SetNamespace(0, False, 0), EINVAL, ["pidfd"]),
        (Unshare(NETWORK), EPERM, ["CAP_SYS_ADMIN", "Namespace.USER"]),
        (Unshare(MOUNT | PID), EPERM, ["CAP_SYS_ADMIN", "Namespace.USER"]),
        (Unshare(TIME), EINVAL, ["kernel has not all", "a kernel that has them"]),
        (Unshare(USER), EPERM, ["chroot", "no mapping", "seccomp", "Docker", "pivot_root", "unprivileged_userns_clone=1"]),
        (Unshare(USER | NETWORK), EPERM, ["chroot", "no mapping", "seccomp", "Docker", "aions doctor"]),
        (SetNamespace(NETWORK, False, 0), EPERM, ["CAP_SYS_ADMIN"]),
        (UID_MAP, EPERM, ["written before", "kernel.apparmor_restrict_unprivileged_userns", "CAP_SETFCAP", "aions doctor"]),
        (UID_MAP, EACCES, ["another user"]),
        (BecomeRoot(True, True), EPERM, ["CAP_SETUID", "kernel.apparmor_restrict_unprivileged_userns", "aions doctor"]),
        (SetLoopbackUp(), EPERM, ["CAP_NET_ADMIN", "kernel.apparmor_restrict_unprivileged_userns", "aions doctor"]),
        (NewNetwork(True), EPERM, ["CAP_NET_ADMIN", "kernel.apparmor_restrict_unprivileged_userns", "aions doctor"]),
        (SetHostName("x"), EPERM, ["CAP_SYS_ADMIN", "kernel.apparmor_restrict_unprivileged_userns", "aions doctor"]),
        (SetClockOffset(""), ENOENT, ["no time namespaces"]),
        (GetOwnerUID(1, ()), EPERM, ["seccomp", "aions doctor"]),
        (GID_MAP, EPERM, ["setgroups", "kernel.apparmor_restrict_unprivileged_userns"]),
        (SetPropagation(0), EPERM, ["CAP_SYS_ADMIN", "kernel.apparmor_restrict_unprivileged_userns"]),
        (Fork(False, 0, 0, 0, 0), ENOMEM, ["first process", "pid namespace", "new worker"]),
        (SPAWN, ENOMEM, ["first process", "pid namespace", "new worker"]),
        (SetClockOffset(""), EACCES, ["started in the time namespace"]),
    ],
)
def test_the_refusals_of_the_table_have_their_cause_and_remedy(request_: Request, errno: int, words: list[str]) -> None:
    text = notes(request_, errno)
    assert [word for word in words if word not in text] == []
    assert text.count("\nProbable cause: ") == text.count("\nRemedy: ") == 1


def test_others_have_them_too() -> None:
    for request, errno in (
        (SetNamespace(NETWORK, False, 0), EBADF),
        (SetNamespace(NETWORK, False, 0), ESRCH),
        (SetNamespace(PID, False, 0), ENOMEM),
        (Fork(False, 0, 0, 0, 0), EAGAIN),
        (UID_MAP, EINVAL),
        (SetClockOffset(""), EPERM),
        (GetNamespaceID(1, "net"), ENOENT),
        (GetNamespaceID(1, "net"), EACCES),
        (OpenSocket(0, 0, 0, ()), EPERM),
        (SPAWN, ENOENT),
        (Unshare(USER), EMFILE),
        (Fork(False, 0, 0, 0, 0), EMFILE),
        (SPAWN, EMFILE),
        (OpenSocket(0, 0, 0, ()), EMFILE),
    ):
        text = notes(request, errno)
        assert text.count("\nProbable cause: ") == text.count("\nRemedy: ") == 1, (request, errno)


def test_what_is_about_mounts_has_one_reason_each() -> None:
    said = [(reason.request, reason.errno, reason.calls) for reason in MOUNT_REASONS]
    assert len(said) == len(set(said))
    for reason in MOUNT_REASONS:
        values = {"bool": False, "int": 0, "str": "", "Descriptor": 0}
        fields = {name: values.get(kind, None if "None" in kind else ()) for name, kind in reason.request.fields.items()}
        text = notes(reason.request(**fields), reason.errno, reason.calls or "call(2)")
        assert f"Probable cause: {reason.cause}\nRemedy: {reason.remedy}" in text


def test_a_call_that_the_kernel_has_not() -> None:
    assert "seccomp" in notes(OpenTree("/", 0), ENOSYS)


def test_a_refusal_that_we_do_not_know_says_what_was_tried_and_where() -> None:
    assert notes(SetClockOffset(""), EIO) == "call(2) was refused in worker 7."


def test_where_the_call_is_not_known_the_request_is_named() -> None:
    assert explain(refusal(EIO, None), Unshare(USER), "", "the forkserver").__notes__ == [
        "Unshare was refused in the forkserver."
    ]


def test_the_hint_of_the_worker_comes_before_the_guess() -> None:
    error = explain(refusal(EINVAL, None), Unshare(USER), "unshare(CLONE_NEWUSER)", "worker 7", "It has 3 threads.")
    assert error.__notes__[:2] == ["unshare(CLONE_NEWUSER) was refused in worker 7.", "It has 3 threads."]
    assert error.__notes__[2].startswith("Probable cause: ")


def test_an_error_is_the_very_one_that_python_makes_of_the_errno() -> None:
    kinds = {EPERM: PermissionError, EACCES: PermissionError, ENOENT: FileNotFoundError, ESRCH: ProcessLookupError}
    for errno, path in itertools.product([*kinds, EINVAL, ENOSPC, EUSERS, ENOMEM], [None, "/proc/1/uid_map"]):
        error = explain(refusal(errno, path), Unshare(USER), "call(2)", "worker 7")
        assert type(error) is kinds.get(errno, OSError)
        assert (error.errno, error.strerror, error.filename) == (errno, os.strerror(errno), path)
