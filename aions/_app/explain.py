"""From the kernel's refusal to an error that says what to do about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EINVAL,
    EMFILE,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    EPERM,
    ERANGE,
    ESRCH,
    ETOOMANYREFS,
    EUSERS,
)

from aions._app.explain_mounts import ASK_THE_DOCTOR, MOUNT_REASONS, SECURITY_MODULE
from aions._types import Namespace
from aions._wire.messages import (
    BecomeOwner,
    BecomeRoot,
    Fork,
    GetNamespaceID,
    GetOwnerUID,
    GetRelatedNamespace,
    IsolateResolver,
    NewNetwork,
    OpenSocket,
    OpenSockets,
    OpenUnixSocket,
    ReadProcess,
    Request,
    Restrict,
    SetClockOffset,
    SetLoopbackUp,
    SetNamespace,
    SetPropagation,
    Spawn,
    Unshare,
    WriteMap,
)

_USER = Namespace.USER.value
_PID = Namespace.PID.value


@dataclass(frozen=True)
class _Explanation:
    """Why the kernel says `errno` to `request`, and the way out.

    `with_any` narrows it by the namespaces asked for, `calls` by how the name of the refused call begins.
    """

    request: type[Request]
    errno: int
    cause: str
    remedy: str
    with_any: int = 0
    calls: str | tuple[str, ...] = ""

    def fits(self, request: Request, errno: int, call: str) -> bool:
        if not isinstance(request, self.request) or errno != self.errno or not call.startswith(self.calls):
            return False
        return not self.with_any or bool(getattr(request, "namespaces", 0) & self.with_any)


_QUOTA = (
    (
        "A quota is used up: one of /proc/sys/user/max_*_namespaces, here or in a parent user namespace, or the limit of 32 "
        "user or pid namespaces inside each other. It is not about disk space."
    ),
    "Close workers that are not needed, or raise the quota (sysctl user.max_user_namespaces=…).",
)
_DEAD_PID_NAMESPACE = (
    "The first process of the worker's pid namespace has ended, and with it the namespace: nothing can start in it any more.",
    "Open a new worker; keep the namespace's first process alive as long as the namespace is needed.",
)
_PROCESS_LIMIT = (
    "A limit on processes is reached (RLIMIT_NPROC, pids.max of the cgroup, /proc/sys/kernel/threads-max).",
    "Close workers that are not needed, or raise the limit.",
)
_NO_PRIVILEGE = (
    f"The worker lacks CAP_SYS_ADMIN in its user namespace, or {SECURITY_MODULE}.",
    f"Make a user namespace too (add Namespace.USER), which gives it all capabilities inside, or run as root.{ASK_THE_DOCTOR}",
)

_EXPLANATIONS = (
    _Explanation(Unshare, ENOSPC, *_QUOTA),
    _Explanation(Unshare, EUSERS, *_QUOTA),
    _Explanation(NewNetwork, ENOSPC, *_QUOTA),
    _Explanation(
        Unshare,
        EINVAL,
        "This kernel has not all of these namespaces (see /proc/self/ns); or the worker has more than one thread (left by a "
        "function that it ran), or has unshared its pid namespace already.",
        "Take a kernel that has them, or leave them out; join threads before the function returns; for another pid namespace, "
        "use a fork of the worker.",
    ),
    _Explanation(
        Unshare,
        EPERM,
        "User namespaces are forbidden here: the worker has changed its root (chroot), its own user or group id is mapped by "
        "no mapping of its user namespace, or a switch (Debian: kernel.unprivileged_userns_clone), a seccomp filter (Docker) "
        "or a security module says no.",
        "Map both the user and the group id before nesting. Change the root afterwards, or by pivot_root instead of chroot. "
        "On Debian, allow it (sysctl -w kernel.unprivileged_userns_clone=1); in Docker likewise (--security-opt "
        f"seccomp=unconfined).{ASK_THE_DOCTOR}",
        with_any=_USER,
    ),
    _Explanation(Unshare, EPERM, *_NO_PRIVILEGE),
    _Explanation(
        BecomeOwner,
        EPERM,
        "A user namespace for somebody else can only be made by who may become them: it takes CAP_SETUID and CAP_SETGID.",
        "Run as root; or leave the owner out, which is you then.",
    ),
    _Explanation(
        BecomeRoot,
        EPERM,
        f"To become root inside takes CAP_SETUID and CAP_SETGID, which a user namespace gives; but {SECURITY_MODULE}.",
        f"Map your own user and group (Identity.root, Identity.current).{ASK_THE_DOCTOR}",
    ),
    *(
        _Explanation(
            request,
            EPERM,
            "The worker lacks CAP_NET_ADMIN in the user namespace that owns the network namespace (CAP_SYS_ADMIN, to make "
            f"one); or {SECURITY_MODULE}.",
            f"Make it together with a user namespace (Namespace.USER | Namespace.NETWORK), or run as root.{ASK_THE_DOCTOR}",
        )
        for request in (SetLoopbackUp, NewNetwork)
    ),
    _Explanation(
        SetNamespace,
        EUSERS,
        "A time namespace takes only processes with one thread, and a function that the worker ran has left some.",
        "Join threads before the function returns.",
    ),
    _Explanation(
        SetNamespace,
        EINVAL,
        "The descriptor is of another type than asked for, or is a pidfd without any type named; or the worker is in that very "
        "user namespace already, or has more than one thread.",
        "Name the type that the descriptor has; for a pidfd, name at least one.",
    ),
    _Explanation(
        SetNamespace,
        EPERM,
        "The worker lacks CAP_SYS_ADMIN in its own user namespace, or in the one that owns the target.",
        "Join the user namespace that owns the target in the same call (add Namespace.USER), or run as root.",
    ),
    _Explanation(
        SetNamespace,
        EBADF,
        "The descriptor is not open, or refers to neither a namespace nor a process.",
        "Pass a descriptor of /proc/PID/ns/… or a pidfd.",
    ),
    _Explanation(SetNamespace, ENOMEM, *_DEAD_PID_NAMESPACE, with_any=_PID),
    _Explanation(
        SetNamespace, ESRCH, "The process has ended.", "A namespace without processes can be joined by a descriptor of it."
    ),
    _Explanation(
        Fork,
        EINVAL,
        "A module that was preloaded has started threads in the forkserver, which a fork would be without.",
        "Do not preload it: import it in the function that needs it.",
    ),
    _Explanation(Fork, ENOMEM, *_DEAD_PID_NAMESPACE),
    _Explanation(Spawn, ENOMEM, *_DEAD_PID_NAMESPACE),
    _Explanation(Fork, EAGAIN, *_PROCESS_LIMIT),
    _Explanation(Spawn, EAGAIN, *_PROCESS_LIMIT),
    _Explanation(
        WriteMap,
        EPERM,
        "The process is in no new user namespace, or its map was written before; or it maps ids that are not the writer's own, "
        "for which the writer needs CAP_SETUID or CAP_SETGID in the parent namespace, or id 0 there, for which it needs "
        f"CAP_SETFCAP; or a plain user maps a group while setgroups is allowed; or {SECURITY_MODULE}.",
        "Unshare Namespace.USER first. Write each map once; as a plain user map your own id and subordinate ones (as "
        f"Identity.subordinate does), and groups with deny_setgroups=True; as root, have CAP_SETFCAP.{ASK_THE_DOCTOR}",
    ),
    _Explanation(
        WriteMap,
        EINVAL,
        "The process is in no user namespace of its own, or outside ids are mapped by no mapping of the parent.",
        "Unshare Namespace.USER first; use outside ids that exist in the parent namespace.",
    ),
    _Explanation(
        SetClockOffset,
        EACCES,
        "The worker was forked from one that had started something, or entered what others made. Such a fork may not be looked "
        "into (PR_SET_DUMPABLE, prctl(2)), and a plain user's cannot set its clocks.",
        "Fork a worker that has not yet, unshare in the worker itself, or open one with clock_offsets.",
        calls="openat(",
    ),
    _Explanation(
        SetClockOffset,
        EACCES,
        "A process has started in the time namespace already, so that its clocks are fixed; or no time namespace was unshared.",
        "Set offsets right after unshare(Namespace.TIME), before running anything.",
    ),
    _Explanation(
        SetClockOffset,
        EPERM,
        "The worker lacks CAP_SYS_TIME in the user namespace that owns its time namespace.",
        "Unshare Namespace.USER and Namespace.TIME together, or run as root.",
    ),
    _Explanation(
        WriteMap,
        ENOENT,
        "There is no such process.",
        "Write the maps while the process lives.",
    ),
    _Explanation(
        WriteMap,
        EACCES,
        "The process belongs to another user, or may not be looked into (PR_SET_DUMPABLE, prctl(2)).",
        "Write its maps as that user, or as root.",
    ),
    _Explanation(
        SetClockOffset,
        ENOENT,
        "This kernel has no time namespaces.",
        "Take one that has them: Linux 5.6, with CONFIG_TIME_NS.",
    ),
    _Explanation(
        SetClockOffset,
        ERANGE,
        "With this offset the clock would stand below zero, or too far ahead.",
        "Take an offset that leaves the clock within 0 … 146 years.",
    ),
    _Explanation(
        GetNamespaceID,
        ENOENT,
        "There is no such process; or it has no namespace of that type yet (a pid namespace without a first process).",
        "Ask while the process lives.",
    ),
    _Explanation(
        GetNamespaceID,
        EACCES,
        "The process belongs to another user, or has more capabilities than the app (PTRACE_MODE_READ, ptrace(2)).",
        "Ask as that user, or as root with CAP_SYS_PTRACE.",
    ),
    _Explanation(
        SetPropagation,
        EPERM,
        f"The worker lacks CAP_SYS_ADMIN over its mount namespace; or {SECURITY_MODULE}.",
        f"Make a user namespace too (add Namespace.USER), or run as root.{ASK_THE_DOCTOR}",
    ),
    *(
        _Explanation(
            request,
            EPERM,
            "The worker lacks CAP_SYS_ADMIN over that network namespace, or over its own, to which it has to come back.",
            "Give the worker a network namespace of its own, made together with the user namespace that it is in, and make the "
            "others with it; or run as root.",
            calls="setns",
        )
        for request in (OpenSocket, OpenSockets, OpenUnixSocket)
    ),
    *(
        _Explanation(
            request,
            EPERM,
            "Sockets of this kind need a capability (CAP_NET_RAW) in the user namespace that owns the network namespace.",
            "Make the network namespace together with a user namespace, or run as root.",
        )
        for request in (OpenSocket, OpenSockets)
    ),
    _Explanation(
        IsolateResolver,
        EPERM,
        "To look up a name for another network than the host's, mounts are needed in which the host's resolver daemons are "
        "hidden, and the system allows none here (seccomp in Docker, AppArmor, or a quota).",
        "Allow mount namespaces, or use addresses instead of names.",
    ),
    _Explanation(
        Spawn,
        ENOENT,
        "No such program, interpreter (first line of a script), or working directory, where the worker is.",
        "Give a path that exists in the worker's mount namespace.",
    ),
    *(
        _Explanation(
            request,
            EPERM,
            "To drop a capability from the bounding set takes CAP_SETPCAP, and the worker has not got that.",
            "Open the worker in a user namespace (add Namespace.USER), or run as root; no_new_privs needs no capability.",
            calls="prctl(PR_CAPBSET_DROP",
        )
        for request in (Restrict, Spawn)
    ),
    _Explanation(
        Spawn,
        EPERM,
        "setgroups(2) is denied in the worker's user namespace, its gid map is not written, or the worker lacks CAP_SETGID.",
        "Leave extra_groups out, or take an identity that allows it: Identity.subordinate, or Identity.whole for root.",
        calls="setgroups(",
    ),
    _Explanation(
        Spawn,
        EPERM,
        "To become another user or group takes CAP_SETUID or CAP_SETGID, and the worker has not got that.",
        "Open the worker in a user namespace (add Namespace.USER), or run as root.",
        calls=("setregid(", "setreuid("),
    ),
    _Explanation(
        Spawn,
        EINVAL,
        "This user or group is mapped by no mapping of the worker's user namespace.",
        "Map it: Identity.subordinate maps the user's subordinate ids, Identity.whole (for root) every one. "
        "With aions nsenter, stay who you are (--preserve-credentials).",
        calls=("setgroups(", "setregid(", "setreuid("),
    ),
    *(
        _Explanation(
            request,
            ENOENT,
            "There is no such process.",
            "Ask while the process lives.",
        )
        for request in (ReadProcess, GetRelatedNamespace, GetOwnerUID)
    ),
    *(
        _Explanation(
            request,
            EACCES,
            "The process belongs to another user, or has more capabilities than the app (PTRACE_MODE_READ, ptrace(2)).",
            "Ask as that user, or as root with CAP_SYS_PTRACE.",
        )
        for request in (GetRelatedNamespace, GetOwnerUID)
    ),
    _Explanation(
        GetRelatedNamespace,
        EPERM,
        "The namespace to be named is neither the app's own nor one below it, or there is none above the initial one.",
        "Ask from a program that runs further up.",
    ),
    *(_Explanation(each.request, each.errno, each.cause, each.remedy, calls=each.calls) for each in MOUNT_REASONS),
    _Explanation(
        Request,
        ENOSYS,
        "This kernel has no such system call, or a seccomp filter (Docker) hides it.",
        "Use a newer kernel; in Docker, allow it (--security-opt seccomp=unconfined).",
    ),
    _Explanation(
        Request,
        EPERM,
        f"The worker lacks a capability for this, or a seccomp filter forbids it, or {SECURITY_MODULE}.",
        f"Open the worker in a user namespace (add Namespace.USER), or run as root.{ASK_THE_DOCTOR}",
    ),
    _Explanation(
        Request,
        EMFILE,
        "A table of descriptors is full (RLIMIT_NOFILE).",
        "Close what is not needed, or raise the limit before the first use of aions.",
    ),
    _Explanation(
        Request,
        ETOOMANYREFS,
        "A plain user's processes have more descriptors on their way to each other than one of them may have open "
        "(RLIMIT_NOFILE), and nobody takes them out: a worker that was asked for much is stopped, or the app has given it up.",
        "Close that worker, or raise the limit before the first use of aions.",
    ),
)


def explain(error: OSError, request: Request, call: str, worker: str, hint: str | None = None) -> OSError:
    """Add to an error what was tried where, why it may have failed, and what helps."""
    error.add_note(f"{call or type(request).__name__} was refused in {worker}.")
    if hint:
        error.add_note(hint)
    for explanation in _EXPLANATIONS:
        if explanation.fits(request, error.errno or 0, call):
            error.add_note(f"Probable cause: {explanation.cause}")
            error.add_note(f"Remedy: {explanation.remedy}")
            break
    return error


def refusal(errno: int, path: str | None) -> OSError:
    """Make the plain `OSError` that the kernel's refusal is in Python."""
    return OSError(errno, os.strerror(errno), path) if path else OSError(errno, os.strerror(errno))
