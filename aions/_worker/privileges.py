"""Giving up privileges: in the worker itself, for good, or in the fork that is to become a command."""

from __future__ import annotations

from aions._sys import capabilities
from aions._wire.messages import Done, Restrict, Spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers, Server


def are_touched(request: Spawn | Restrict) -> bool:
    """Whether there is anything to do."""
    return request.capabilities is not None or request.keep_capabilities or request.no_new_privs


def prepare(request: Spawn | Restrict) -> None:
    """Do what must be done while this process is still who it was: another user has no capabilities."""
    if request.capabilities is not None:
        for number in capabilities.bounding():
            if not request.capabilities >> number & 1:
                capabilities.drop_bounding(number)
    if request.keep_capabilities:
        capabilities.keep_past_root()


def settle(request: Spawn | Restrict) -> None:
    """Do what must be done once it is who it is to be. KERNEL: what is not inheritable any more is not ambient either."""
    if request.capabilities is not None or request.keep_capabilities:
        permitted, inheritable = capabilities.held()
        if request.capabilities is not None:
            permitted &= request.capabilities
        capabilities.hold(permitted, permitted if request.keep_capabilities else inheritable & permitted)
        if request.keep_capabilities:
            for number in range(permitted.bit_length()):
                if permitted >> number & 1:
                    capabilities.set_ambient(number)
    if request.no_new_privs:
        capabilities.set_no_new_privs()


def restrict(server: Server, request: Restrict) -> Done:
    prepare(request)
    settle(request)
    server.renew()
    return Done()


HANDLERS: Handlers = {"Restrict": restrict}
