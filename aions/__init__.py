"""aions: Linux namespaces for asyncio and trio programs.

Every namespace system call is made by a *worker*: a process with one thread that exists for nothing else. What follows is the
whole public surface. Where the code is:

    _app       your process: async, on anyio
    _worker    the workers and the forkserver: one thread, standard library only
    _wire      what the two say to each other
    _sys       the kernel
    _cli       the command line
"""

from aions._app.current import (
    connect_tcp,
    connect_unix,
    create_connected_udp_socket,
    create_connected_unix_datagram_socket,
    create_tcp_listener,
    create_udp_socket,
    create_unix_datagram_socket,
    create_unix_listener,
    current_worker,
    enter,
    enter_namespace,
    get_namespace_id,
    getaddrinfo,
    getnameinfo,
    new_namespace,
    open,
    open_file,
    open_namespace,
    open_process,
    run_process,
    run_sync,
    set_clock_offset,
    set_namespace,
    socket,
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
from aions._app.namespace_file import NamespaceFile
from aions._app.opening import open_worker
from aions._app.processes import Process
from aions._app.worker import Worker
from aions._errors import AionsError, ProtocolError, WorkerDied
from aions._types import Clock, FileDescriptor, GroupMapping, Namespace, NamespaceID, UserMapping

__all__ = [
    "AionsError",
    "Bind",
    "Clock",
    "Dev",
    "FileDescriptor",
    "GroupMapping",
    "Mount",
    "MountAttribute",
    "MountFlag",
    "MountTree",
    "Namespace",
    "NamespaceFile",
    "NamespaceID",
    "Overlay",
    "Proc",
    "Process",
    "Propagation",
    "ProtocolError",
    "Sysfs",
    "Tmpfs",
    "UserMapping",
    "Worker",
    "WorkerDied",
    "bind_mount",
    "chdir",
    "chroot",
    "connect_tcp",
    "connect_unix",
    "create_connected_udp_socket",
    "create_connected_unix_datagram_socket",
    "create_tcp_listener",
    "create_udp_socket",
    "create_unix_datagram_socket",
    "create_unix_listener",
    "current_worker",
    "enter",
    "enter_namespace",
    "fsmount",
    "get_namespace_id",
    "getaddrinfo",
    "getnameinfo",
    "mount",
    "mount_setattr",
    "move_mount",
    "new_namespace",
    "open",
    "open_file",
    "open_namespace",
    "open_process",
    "open_tree",
    "open_worker",
    "pivot_root",
    "run_process",
    "run_sync",
    "set_clock_offset",
    "set_namespace",
    "set_propagation",
    "setdomainname",
    "sethostname",
    "socket",
    "umount",
    "unshare",
    "write_group_mappings",
    "write_user_mappings",
]
