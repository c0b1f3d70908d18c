"""A namespace in the hands of the app: it lives as long as this is open, with or without processes in it."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings

from anyio import ClosedResourceError
from anyio.abc import AsyncResource
from anyio.lowlevel import checkpoint

from aions._app.descriptor import Part
from aions._types import Namespace, NamespaceID

_NS_GET_NSTYPE = 0xB703
_NS_GET_ID = 0x8008B70D


class NamespaceFile(AsyncResource):
    """Keeps a namespace alive. Comes from `open_namespace` and `new_namespace`, and is closed by `async with` or `aclose`.

    Whatever takes a descriptor takes it, since it has a `fileno()`; it belongs to no event loop and to no worker.

    Kernel: namespaces(7).
    """

    def __init__(self, descriptor: int, name: str | None = None) -> None:
        self._descriptor = Part(-1)
        try:
            self._type = namespace_type(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = Part(descriptor)
        self._name = name

    def __del__(self) -> None:
        if self.fileno() >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __repr__(self) -> str:
        return f"<aions.NamespaceFile {self.id if self.fileno() >= 0 else f'{self.type.kernel_name} closed'}>"

    def fileno(self) -> int:
        """Return the number of the descriptor, which remains this handle's; -1 once closed."""
        return self._descriptor.fileno()

    @property
    def type(self) -> Namespace:
        """Which of the eight kinds it is."""
        return self._type

    @property
    def name(self) -> str | None:
        """The iproute2 name that it was opened by. Host names are then looked up with what is in /etc/netns/NAME."""
        return self._name

    @property
    def id(self) -> NamespaceID:
        """What tells the namespace from all others."""
        self.check_open()
        status = os.fstat(self.fileno())
        try:
            number = int.from_bytes(fcntl.ioctl(self.fileno(), _NS_GET_ID, bytes(8)), "little")
        except OSError:  # ENOTTY: a kernel before 6.18
            return NamespaceID(self._type, status.st_dev, status.st_ino)
        return NamespaceID(self._type, status.st_dev, status.st_ino, number)

    def check_open(self) -> None:
        """Refuse to go on once it is closed."""
        if self.fileno() < 0:
            raise ClosedResourceError

    def close(self) -> None:
        """Close it at once. Closing again does nothing."""
        self._descriptor.close()

    async def aclose(self) -> None:
        """Close it. Closing again does nothing."""
        self.close()
        await checkpoint()


def namespace_type(descriptor: int, path: str | None = None) -> Namespace:
    """Ask what kind of namespace a descriptor is of.

    Raises:
        OSError: EINVAL: it is of none. EBADF: it is not open.
    """
    try:
        return Namespace(fcntl.ioctl(descriptor, _NS_GET_NSTYPE))
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
    refusal = OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    refusal.add_note("It is no namespace.")
    raise refusal


def networks(namespace: NamespaceFile | None) -> tuple[int, ...]:
    """Return what a request carries for the network namespace that it is about, if that is another than the worker's.

    Raises:
        TypeError: it is none that is held by a descriptor.
        ValueError: it is a namespace of another kind.
        anyio.ClosedResourceError: it is closed.
    """
    if namespace is None:
        return ()
    if not isinstance(namespace, NamespaceFile):
        raise TypeError(f"{namespace!r} is no NamespaceFile: open_namespace makes one of whatever stands for a namespace")
    if namespace.type is not Namespace.NETWORK:
        raise ValueError(f"{namespace!r} is no network namespace")
    namespace.check_open()
    return (namespace.fileno(),)
