"""Waiting until a network that ended is gone: until then names of interfaces are taken that led into it.

KERNEL: a network namespace is torn down in the background, up to some 50 ms after what held it has gone; the other ends of its
veth pairs go then, and devices that were moved into it come back. A directory of /proc/PID/net that is open remains that
network's, and does not hold it: what is opened in it is refused with ENXIO once nothing holds the network, and the list of
interfaces gets empty in the moment in which these go.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

import anyio

_ALWAYS_THERE = {"lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "sit0", "ip6tnl0", "ip6gre0", "ip6_vti0"}
"""What the kernel puts into each network, depending on the modules that are loaded."""

_HELD = 0.1
"""Seconds after which somebody else holds a network: what a process had open is let go some 30 ms after its end."""

_INTERVAL = 0.001


@asynccontextmanager
async def torn_down(pid: int) -> AsyncIterator[None]:
    """Have the process end in the block; after that the interfaces of its network are gone, unless somebody else holds it."""
    with ExitStack() as stack:
        interfaces = netfilter = -1
        with suppress(OSError):  # it has ended already, or this is another /proc
            interfaces = _directory(stack, f"/proc/{pid}/net/dev_snmp6")
            if not _ALWAYS_THERE.issuperset(os.listdir(interfaces)):
                netfilter = _directory(stack, f"/proc/{pid}/net/netfilter")
        yield
        if netfilter < 0:
            return
        with anyio.move_on_after(_HELD):
            await _until(lambda: not _is_held(netfilter))
        await _until(lambda: _is_held(netfilter) or not os.listdir(interfaces))


async def _until(is_so: Callable[[], bool]) -> None:
    """Wait for what nobody is told of."""
    while not is_so():  # noqa: ASYNC110
        await anyio.sleep(_INTERVAL)


def _directory(stack: ExitStack, path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _is_held(netfilter: int) -> bool:
    try:
        os.close(os.open("nf_log", os.O_RDONLY | os.O_CLOEXEC, dir_fd=netfilter))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    return True
