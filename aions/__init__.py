"""aions: Linux namespaces for asyncio and trio programs.

Every namespace system call is made by a *worker*: a process with one thread that exists for nothing else. What follows is the
whole public surface. Where the code is:

    _app       your process: async, on anyio
    _worker    the workers and the forkserver: one thread, standard library only
    _wire      what the two say to each other
    _sys       the kernel
    _cli       the command line
"""

from aions._app.capabilities import Capability
from aions._app.credentials import Credentials
from aions._app.current import (
    current_worker,
    enter_namespace,
    get_credentials,
    get_namespace_id,
    get_owner_uid,
    get_owning_namespace,
    get_parent_namespace,
    open_process,
    read_group_mappings,
    read_user_mappings,
    restrict,
    run_process,
    run_sync,
    set_clock_offset,
    set_namespace,
    socket,
    translate_group_id,
    translate_user_id,
    unshare,
    write_group_mappings,
    write_user_mappings,
)
from aions._app.current_mounts import (
    bind_mount,
    chdir,
    chroot,
    fsmount,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    set_propagation,
    setdomainname,
    sethostname,
    umount,
)
from aions._app.diagnosis import diagnose
from aions._app.findings import Finding, Verdict
from aions._app.identity import Identity
from aions._app.mount_values import (
    Bind,
    Dev,
    Mount,
    MountAttribute,
    MountFlag,
    Overlay,
    Proc,
    Propagation,
    Sysfs,
    Tmpfs,
)
from aions._app.mounts import MountTree
from aions._app.opening import open_worker
from aions._app.processes import Process
from aions._app.worker import Worker
from aions._errors import AionsError, ProtocolError, WorkerDied
from aions._types import Clock, GroupMapping, Namespace, NamespaceID, UserMapping

__all__ = [
    "AionsError",
    "Bind",
    "Capability",
    "Clock",
    "Credentials",
    "Dev",
    "Finding",
    "GroupMapping",
    "Identity",
    "Mount",
    "MountAttribute",
    "MountFlag",
    "MountTree",
    "Namespace",
    "NamespaceID",
    "Overlay",
    "Proc",
    "Process",
    "Propagation",
    "ProtocolError",
    "Sysfs",
    "Tmpfs",
    "UserMapping",
    "Verdict",
    "Worker",
    "WorkerDied",
    "bind_mount",
    "chdir",
    "chroot",
    "current_worker",
    "diagnose",
    "enter_namespace",
    "fsmount",
    "get_credentials",
    "get_namespace_id",
    "get_owner_uid",
    "get_owning_namespace",
    "get_parent_namespace",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_process",
    "open_tree",
    "open_worker",
    "pivot_root",
    "read_group_mappings",
    "read_user_mappings",
    "restrict",
    "run_process",
    "run_sync",
    "set_clock_offset",
    "set_namespace",
    "set_propagation",
    "setdomainname",
    "sethostname",
    "socket",
    "translate_group_id",
    "translate_user_id",
    "umount",
    "unshare",
    "write_group_mappings",
    "write_user_mappings",
]
