"""Serving several requests in one, mounts below a root that is to be among them.

Rule 1. A target is looked up by `openat2` inside the root: no symbolic link and no `..` leads out of it.
Rule 2. Whatever is mounted is made as a detached mount, and attached to a descriptor of its target: nothing can be put in the
        target's place between the look-up and the mount.
Rule 3. All mounts are made before the first is attached: their sources are what the worker saw before.
"""

from __future__ import annotations

import os
from errno import EPERM
from stat import S_ISDIR

from aions._sys import mounts
from aions._sys.calls import KernelError, call
from aions._sys.mounts import AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE
from aions._wire import codec
from aions._wire.fdsocket import Packet, close_all
from aions._wire.messages import REQUESTS, Attach, Prepare, Prepared, Sealed
from aions._worker import covers, devices, late, paths
from aions._worker.credentials import user_namespace
from aions._worker.loop import MustWait, Server, failure
from aions._worker.mounts import make_root
from aions._worker.targets import opened_or_made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers

_INITIAL_USER_NAMESPACE = "user:[4026531837]"
"""KERNEL: PROC_USER_INIT_INO."""

_OWN = {"proc": "pid", "sysfs": "network"}
"""The namespace that a file system shows."""

_LONGEST_OPTION = 255


def prepare(server: Server, request: Prepare) -> Prepared:
    if not request.may_wait and not paths.has_only_local_files(server):
        raise MustWait
    steps = [codec.decode(Packet(step.encode(), []), REQUESTS)[1] for step in request.steps]
    building = Building(server)
    try:
        for building.number, step in enumerate(steps):
            if isinstance(step, Attach):
                building.make(step)
            else:
                reply = server.handlers[type(step).__name__](server, step)
                if isinstance(reply, Sealed):  # SECURITY: what follows would be done in the namespaces of before
                    raise KernelError(EPERM, "unshare()")
        building.attach_all()
    except OSError as error:
        failed = failure(error)
        return Prepared(building.number, failed.errno, failed.call, failed.path, failed.hint, ())
    finally:
        building.close()
    return Prepared(building.number, 0, "", None, None, tuple(building.notes))


class Part:
    """A mount that was made and has its place to go to. `devices` are what belongs into a /dev."""

    def __init__(self, number: int, step: Attach, tree: int) -> None:
        self.number = number
        self.step = step
        self.target = step.target
        self.tree = tree
        self.devices: dict[str, int] = {}


class Building:
    """Makes mounts, then attaches them in order, below the root that there is or below a new one.

    `number` is that of the step which is being done, `notes` what the user should know in the end.
    """

    def __init__(self, server: Server) -> None:
        self.number = 0
        self.notes: list[str] = []
        self._server = server
        self._parts: list[Part] = []
        self._layers: list[int] = []
        self._directory = self._root = -1

    def make(self, step: Attach) -> None:
        """Make a mount."""
        if not self._parts:
            late.load()
            self._directory = _path_of(".")
        part = Part(self.number, step, self._made(step))
        self._parts.append(part)
        if step.kind == "dev":
            devices.open_all(part.devices)

    def attach_all(self) -> None:
        """Attach the mounts. A new root becomes the root when all are there."""
        if not self._parts:
            return
        self._root = _path_of("/")
        for part in self._parts:
            self.number = part.number
            if part.target == "/":
                mounts.move_mount(part.tree, "", AT_FDCWD, "/")
                os.dup2(part.tree, self._root, inheritable=False)
            else:
                self._attach_inside(part.tree, part.target)
            if part.devices:
                devices.fill(part.tree, part.devices)
            if part.step.kernel_read_only:
                covers.cover(part.tree, part.step.kind, part.step.own_network)
        self.number = self._parts[0].number
        if self._parts[0].target == "/":
            make_root(self._root, "/")
        else:
            _look_up_working_directory()

    def _attach_inside(self, tree: int, path: str) -> None:
        target = opened_or_made(self._root, path, S_ISDIR(os.fstat(tree).st_mode))
        try:
            mounts.move_mount(tree, "", target, "", shown=path)
        finally:
            os.close(target)

    def close(self) -> None:
        """Close the descriptors."""
        for part in self._parts:
            close_all([part.tree, *part.devices.values()])
        close_all(descriptor for descriptor in (self._root, self._directory, *self._layers) if descriptor >= 0)

    def _made(self, step: Attach) -> int:
        """Make a detached mount."""
        if step.kind in ("bind", "rbind"):
            return self._bound(step.sources[0], step.kind == "rbind", step.attributes)
        if step.kind == "dev":
            return mounts.new_mount("tmpfs", ("mode=755", *step.options), step.attributes)
        if step.kind == "overlay":
            is_plain = step.options or step.attributes & MOUNT_ATTR_RDONLY
            return self._overlay(step, step.options) if is_plain else self._overlay_on_tmpfs(step)
        try:
            return mounts.new_mount(step.kind, step.options, step.attributes)
        except KernelError as error:
            if error.errno != EPERM or not step.sources:
                raise
            return self._instead(step, error)

    def _instead(self, step: Attach, error: KernelError) -> int:
        """Bind what there is, where a new file system of that kind is refused."""
        (source,) = step.sources
        self.notes.append(
            f"{error.call} was refused, as it is where parts of {source} are hidden (Docker) or the {_OWN[step.kind]} "
            f"namespace is not new: {step.target} is the {source} that was there before."
        )
        return self._bound(source, True, step.attributes)

    def _bound(self, source: str, recursive: bool, attributes: int) -> int:
        """Copy a mount, with those below it, and set attributes on the copies."""
        tree = paths.opened_tree(self._server, source, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))
        try:
            if attributes:
                mounts.mount_setattr(tree, "", True, attributes, 0, 0, 0)
        except BaseException:
            os.close(tree)
            raise
        return tree

    def _overlay(self, step: Attach, options: tuple[str, ...]) -> int:
        """Make an overlay. KERNEL: an option has 255 bytes at most; `lowerdir+` (Linux 6.7) makes one of each directory."""
        layers = list(map(self._shortened, step.sources))
        joined = ":".join(_escaped(path).replace(":", "\\:") for path in layers)
        lower = [f"lowerdir={joined}"]
        if _is_too_long(joined):
            lower = [f"lowerdir+={path}" for path in layers]
        if user_namespace(self._server) != _INITIAL_USER_NAMESPACE:
            lower.append("userxattr")  # trusted.* is for root of the host, whatever ids are mapped here
        written = (option.partition("=") for option in options)
        upper = [f"{name}={_escaped(self._shortened(path))}" for name, _, path in written]
        return mounts.new_mount("overlay", [*lower, *upper], step.attributes)

    def _shortened(self, path: str) -> str:
        """Return a path that an option has room for."""
        paths.refuse_magic_links(self._server, path)
        if not _is_too_long(_escaped(path)):
            return path
        self._layers.append(_path_of(path))
        return f"/proc/self/fd/{self._layers[-1]}"

    def _overlay_on_tmpfs(self, step: Attach) -> int:
        """Make an overlay that keeps what is written to it in a tmpfs, which goes with it.

        KERNEL: the layers of an overlay are given by their paths, and have to be mounted somewhere. So the tmpfs is put on top
        of "/", where no path leads and where it is in nobody's way, and is the working directory; then it is taken off again.
        """
        scratch = mounts.new_mount("tmpfs", ["mode=755"], 0)
        try:
            mounts.move_mount(scratch, "", AT_FDCWD, "/")
            os.fchdir(scratch)
            try:
                os.mkdir("upper", 0o755)
                os.mkdir("work", 0o755)
                return self._overlay(step, ("upperdir=upper", "workdir=work"))
            finally:
                mounts.umount(".", mounts.MNT_DETACH)
                os.fchdir(self._directory)
        finally:
            os.close(scratch)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\")


def _is_too_long(value: str) -> bool:
    return len(os.fsencode(value)) > _LONGEST_OPTION


def _look_up_working_directory() -> None:
    """Go to the working directory again: something may lie on it now."""
    try:
        os.chdir(os.getcwd())
    except OSError:
        pass  # it has no path, or is not to be entered any more: this is not what was asked for


def _path_of(directory: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    return call(lambda: f'open("{directory}", O_PATH|O_DIRECTORY)', os.open, directory, flags, path=directory)


HANDLERS: Handlers = {"Prepare": prepare}
