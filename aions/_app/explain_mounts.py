"""Why the kernel refuses what has to do with mounts, roots, names, limits and cgroups, and the way out."""

from __future__ import annotations

from errno import (
    EACCES,
    EBADF,
    EBUSY,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
)
from typing import NamedTuple

from aions._wire.messages import (
    Attach,
    ChangeDirectory,
    ChangeRoot,
    JoinCgroup,
    Mount,
    MoveMount,
    NewMount,
    OpenTree,
    PivotRoot,
    Request,
    SetDomainName,
    SetHostName,
    SetLimit,
    SetMountAttributes,
    Unmount,
)


class Reason(NamedTuple):
    """Why the kernel says `errno` to a request, and the way out."""

    request: type[Request]
    errno: int
    cause: str
    remedy: str
    calls: str = ""


SECURITY_MODULE = (
    "a security module takes its capabilities (Docker's AppArmor profile; Ubuntu: kernel.apparmor_restrict_unprivileged_userns)"
)
ASK_THE_DOCTOR = " `aions doctor` tells what this machine forbids."
"""How a remedy ends for what the doctor may find."""

_MAY_NOT_MOUNT = f"The worker lacks CAP_SYS_ADMIN in the user namespace that owns its mount namespace, or {SECURITY_MODULE}"
_MAY_MOUNT = "Give it mounts of its own (Namespace.USER | Namespace.MOUNT), or run as root"
_LOCKED = "it is locked, because it comes from a more privileged namespace"
_HIDDEN = "without what is mounted below it would show what a more privileged namespace has hidden there"
_NO_DIRECTORY = (
    "No such directory, where the worker is.",
    "Give a path that exists in the worker's mount namespace and below its root.",
)
_MAY_NOT_NAME = (
    f"The worker lacks CAP_SYS_ADMIN in the user namespace that owns its UTS namespace, or {SECURITY_MODULE}.",
    f"Give it names of its own (Namespace.USER | Namespace.UTS), or run as root.{ASK_THE_DOCTOR}",
)
_LONG_NAME = ("The name is longer than 64 bytes.", "Take a shorter one.")
_UNKNOWN_TYPE = (
    "The kernel does not know a file system of this type; or its module is not loaded, which a plain user cannot have done.",
    "Look into /proc/filesystems; load the module (modprobe) as root of the host.",
)
_TOO_MANY = (
    "There are as many mounts in the mount namespace as there may be (fs.mount-max).",
    "Unmount some, bind with recursive=False, or raise the limit (sysctl -w fs.mount-max=…).",
)
_BAD_OPTION = "The file system does not take an option, or not with this value"
_NOT_OPEN = ("The descriptor is not open, or is not one of a mount.", "Pass a MountTree that was not closed.")
_NOT_A_PATH = (
    "A part of the path is no directory.",
    "See what is there in the worker's mount namespace, and below its root.",
)

MOUNT_REASONS = (
    Reason(
        Mount,
        EPERM,
        f"{_MAY_NOT_MOUNT}; or plain users may not mount this file system; or an attribute is to go that is locked, because a "
        "more privileged namespace has set it.",
        f"{_MAY_MOUNT}; as a plain user take one of the file systems that are made for it (tmpfs, overlay, proc, sysfs, FUSE)."
        f"{ASK_THE_DOCTOR}",
    ),
    Reason(
        Mount,
        EINVAL,
        f"There is no such file system, or an option that it does not know; nothing is mounted where flags are to change; a "
        f"mount to be moved is shared, or {_LOCKED}; or a copy {_HIDDEN}.",
        "Copy with MountFlag.REC; see what is mounted in /proc/PID/mountinfo of the worker.",
    ),
    Reason(
        Mount, EBUSY, "It is mounted there already, or files on it are open for writing.", "Mount it somewhere else, or once."
    ),
    Reason(Mount, ENODEV, *_UNKNOWN_TYPE),
    Reason(Mount, ENOSPC, *_TOO_MANY),
    Reason(
        Mount, ENOENT, "Source or target is not there, where the worker is.", "Make them first; bind_mount makes its target."
    ),
    Reason(Mount, ENOTDIR, *_NOT_A_PATH),
    Reason(
        Unmount,
        EINVAL,
        f"Nothing is mounted there; or {_LOCKED}.",
        "See /proc/PID/mountinfo of the worker; cover it with another.",
    ),
    Reason(
        Unmount,
        EBUSY,
        "It is in use: it has open files, a process has its working directory there, or something is mounted below it.",
        "Unmount what is below it first, or take it away with detach=True.",
    ),
    Reason(Unmount, EPERM, f"{_MAY_NOT_MOUNT}.", f"{_MAY_MOUNT}.{ASK_THE_DOCTOR}"),
    Reason(OpenTree, EPERM, f"{_MAY_NOT_MOUNT}.", f"{_MAY_MOUNT}.{ASK_THE_DOCTOR}"),
    Reason(OpenTree, EINVAL, f"A copy {_HIDDEN}; or it is unbindable.", "Copy with recursive=True."),
    Reason(OpenTree, ENOENT, *_NO_DIRECTORY),
    Reason(
        MoveMount,
        EINVAL,
        f"It is no mount, or one that is attached in another mount namespace; or {_LOCKED}; or it is under a shared mount; or "
        f"a "
        "directory was to be attached to a file, or a file to a directory.",
        "Attach a copy (open_tree), with propagation private or slave.",
    ),
    Reason(
        MoveMount,
        ELOOP,
        "The tree is attached already, and would come to lie on itself.",
        "Open another copy for each place.",
    ),
    Reason(MoveMount, EPERM, f"{_MAY_NOT_MOUNT}.", f"{_MAY_MOUNT}.{ASK_THE_DOCTOR}"),
    Reason(
        MoveMount, ENOENT, "The target is not there, where the worker is.", "Make it first; bind_mount does that by itself."
    ),
    Reason(MoveMount, ENOTDIR, *_NOT_A_PATH),
    Reason(MoveMount, EBADF, *_NOT_OPEN),
    Reason(MoveMount, ENOSPC, *_TOO_MANY),
    Reason(
        SetMountAttributes,
        EPERM,
        f"{_MAY_NOT_MOUNT}; or an attribute is to go that is locked, because a more privileged namespace has set it. For "
        "id-mapping it takes CAP_SYS_ADMIN where the file system was mounted, which on a file system of the host's only "
        "root has; and in the user namespace that is given.",
        f"{_MAY_MOUNT}; leave attributes set that were set outside.{ASK_THE_DOCTOR}",
    ),
    Reason(
        SetMountAttributes,
        EINVAL,
        "Nothing is mounted there. For id-mapping: the file system cannot, the mount is attached or mapped already, or the "
        "user namespace is the one in which it was mounted.",
        "For id-mapping take a copy (open_tree) and a user namespace whose maps are written.",
    ),
    Reason(SetMountAttributes, EBUSY, "Files on it are open for writing.", "Close them first, or make a read-only copy."),
    Reason(SetMountAttributes, ENOENT, *_NO_DIRECTORY),
    Reason(SetMountAttributes, EBADF, *_NOT_OPEN),
    Reason(NewMount, ENODEV, *_UNKNOWN_TYPE),
    Reason(NewMount, EINVAL, f"{_BAD_OPTION}.", "See what it says of that, above."),
    Reason(
        NewMount,
        EPERM,
        f"{_MAY_NOT_MOUNT}; or plain users may not mount this file system.",
        f"{_MAY_MOUNT}; as a plain user take one of the file systems that are made for it (tmpfs, overlay, proc, sysfs, FUSE)."
        f"{ASK_THE_DOCTOR}",
    ),
    Reason(
        PivotRoot,
        EINVAL,
        "Nothing is mounted on the new root, or the old one is not to be put below it; or mounts there are shared; or the "
        "worker has changed its root (chroot), or the machine runs from its initial ramdisk.",
        "Bind the new root on itself first (bind_mount), with propagation private or slave.",
    ),
    Reason(PivotRoot, EBUSY, "The new root is the root, or on the same mount.", "Bind it on itself first (bind_mount)."),
    Reason(PivotRoot, EPERM, f"{_MAY_NOT_MOUNT}.", f"{_MAY_MOUNT}.{ASK_THE_DOCTOR}"),
    Reason(PivotRoot, ENOENT, *_NO_DIRECTORY),
    Reason(ChangeRoot, ENOENT, *_NO_DIRECTORY),
    Reason(ChangeRoot, ENOTDIR, *_NO_DIRECTORY),
    Reason(
        ChangeRoot,
        EPERM,
        "The worker lacks CAP_SYS_CHROOT in its user namespace.",
        "Give it a user namespace of its own (Namespace.USER), or run as root.",
    ),
    Reason(ChangeDirectory, ENOENT, *_NO_DIRECTORY),
    Reason(ChangeDirectory, ENOTDIR, *_NO_DIRECTORY),
    Reason(SetHostName, EPERM, *_MAY_NOT_NAME),
    Reason(SetDomainName, EPERM, *_MAY_NOT_NAME),
    Reason(SetHostName, EINVAL, *_LONG_NAME),
    Reason(SetDomainName, EINVAL, *_LONG_NAME),
    Reason(
        SetLimit,
        EPERM,
        "A hard limit can be raised only with CAP_SYS_RESOURCE in the initial user namespace.",
        "Stay below the hard limit that the app has (resource.getrlimit), or run as root.",
    ),
    Reason(
        SetLimit, EINVAL, "There is no such limit, or the soft one is above the hard one.", "Give (soft, hard), soft first."
    ),
    Reason(
        JoinCgroup,
        EACCES,
        "The app may not write to the cgroup's cgroup.procs; or (version 2) not to that of the nearest cgroup which this one "
        "and the app's own are both in.",
        "Have the cgroup delegated (systemd-run --user --scope -p Delegate=yes), and start the app inside of it.",
    ),
    Reason(
        JoinCgroup, ENOENT, "There is no such cgroup.", "Make the directory first, below where a cgroup file system is mounted."
    ),
    Reason(
        JoinCgroup,
        EBUSY,
        "A cgroup of version 2 that controls resources of those below it cannot have processes itself.",
        "Join one of those below it.",
    ),
    Reason(JoinCgroup, ENOTDIR, "A part of the path is no directory.", "Give the directory of a cgroup, not a file in it."),
    Reason(
        JoinCgroup,
        EROFS,
        "The cgroup file system is mounted read-only, as it is in most containers.",
        "Have it mounted writable (Docker: --cgroupns=private and a writable /sys/fs/cgroup), or do without.",
    ),
    Reason(JoinCgroup, EOPNOTSUPP, "The cgroup is threaded, or its parent is: it takes no whole process.", "Join another."),
    Reason(JoinCgroup, ENOSPC, "The cgroup has no CPUs or no memory (cpuset).", "Write its cpuset.cpus and cpuset.mems first."),
    Reason(
        Attach,
        EROFS,
        "What is to be mounted on is not there, and cannot be made, because the root is read-only.",
        "Take a target that exists; or mount a writable file system (Tmpfs, Overlay) where it is to be made.",
    ),
    Reason(
        Attach,
        EACCES,
        "A directory on the way may not be entered; or what is to be mounted on is not there, and may not be made.",
        "Take a target that exists; or mount a Tmpfs where it is to be made.",
    ),
    Reason(
        Attach,
        ENOENT,
        "The source is not there, where the app is.",
        "Give a path that exists; relative ones begin at the app's.",
    ),
    Reason(Attach, ENOTDIR, *_NOT_A_PATH),
    Reason(Attach, ELOOP, "The target leads through too many symbolic links, or in a circle.", "Give a path without them."),
    Reason(
        Attach,
        EPERM,
        f"{_MAY_NOT_MOUNT}. A new proc takes a new pid namespace, a new sysfs a new network namespace, and each that nothing "
        "of the one outside is hidden by other mounts (as Docker does).",
        f"{_MAY_MOUNT}. Add Namespace.PID or Namespace.NETWORK; or have what there is bound instead "
        f"(fallback=True).{ASK_THE_DOCTOR}",
    ),
    Reason(Attach, ENODEV, *_UNKNOWN_TYPE),
    Reason(Attach, ENOSPC, *_TOO_MANY),
    Reason(
        Attach,
        EBUSY,
        "The upper or the work directory of an overlay is in use by another one.",
        "Give each overlay directories of its own.",
    ),
    Reason(
        Attach,
        EINVAL,
        f"{_BAD_OPTION}. Or the upper or work directory of an overlay is on a file system that cannot be one, or the two are "
        f"on different mounts; or, in a user namespace, a copy of a lower directory {_HIDDEN}.",
        "See what it says of that, above. Have overlays of directories without mounts below them, one by one.",
        "fsconfig",
    ),
    Reason(
        Attach,
        EINVAL,
        f"One of source and target is a directory and the other is not. Or a copy {_HIDDEN}. Or the root is in a chroot, or on "
        "the initial ramdisk.",
        "Mount directories on directories, and files on files. Bind with recursive=True.",
    ),
)
