"""Capabilities as a flag."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Capability(enum.Flag, boundary=enum.KEEP):
    """The privileges that root is made of; several are joined with `|`. `Capability(0)` is none.

    The names are the kernel's, without CAP_. One that is newer than this list is kept as its number.

    Kernel: capabilities(7).
    """

    CHOWN = 1 << 0
    DAC_OVERRIDE = 1 << 1
    DAC_READ_SEARCH = 1 << 2
    FOWNER = 1 << 3
    FSETID = 1 << 4
    KILL = 1 << 5
    SETGID = 1 << 6
    SETUID = 1 << 7
    SETPCAP = 1 << 8
    LINUX_IMMUTABLE = 1 << 9
    NET_BIND_SERVICE = 1 << 10
    NET_BROADCAST = 1 << 11
    NET_ADMIN = 1 << 12
    NET_RAW = 1 << 13
    IPC_LOCK = 1 << 14
    IPC_OWNER = 1 << 15
    SYS_MODULE = 1 << 16
    SYS_RAWIO = 1 << 17
    SYS_CHROOT = 1 << 18
    SYS_PTRACE = 1 << 19
    SYS_PACCT = 1 << 20
    SYS_ADMIN = 1 << 21
    SYS_BOOT = 1 << 22
    SYS_NICE = 1 << 23
    SYS_RESOURCE = 1 << 24
    SYS_TIME = 1 << 25
    SYS_TTY_CONFIG = 1 << 26
    MKNOD = 1 << 27
    LEASE = 1 << 28
    AUDIT_WRITE = 1 << 29
    AUDIT_CONTROL = 1 << 30
    SETFCAP = 1 << 31
    MAC_OVERRIDE = 1 << 32
    MAC_ADMIN = 1 << 33
    SYSLOG = 1 << 34
    WAKE_ALARM = 1 << 35
    BLOCK_SUSPEND = 1 << 36
    AUDIT_READ = 1 << 37
    PERFMON = 1 << 38
    BPF = 1 << 39
    CHECKPOINT_RESTORE = 1 << 40


Capabilities = Capability | Iterable[Capability]
"""Capabilities, in whichever form is at hand."""


def mask(capabilities: Capabilities | None) -> int | None:
    """Return the bits that the kernel knows capabilities by."""
    if capabilities is None:
        return None
    combined = Capability(0)
    for capability in [capabilities] if isinstance(capabilities, Capability) else capabilities:
        combined |= capability
    return combined.value
