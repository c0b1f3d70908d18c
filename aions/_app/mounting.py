"""What a `Worker` can do about mounts, roots and names: a method for each system call, with the kernel's name."""

from __future__ import annotations

from collections.abc import Mapping

from aions._app import mounts, preparing, roots
from aions._app.descriptor import HasFileno
from aions._app.link import Link
from aions._app.mount_values import Bind, MountAttribute, MountFlag, Propagation
from aions._app.mounts import MountTree
from aions._app.text import StrOrBytesPath

_NO_FLAGS = MountFlag(0)
_NO_ATTRIBUTES = MountAttribute(0)


class Mounting:
    """The part of `Worker` that is about mounts. Paths are those of the worker, relative ones in its working directory.

    All of it takes CAP_SYS_ADMIN (EPERM): in the user namespace that owns the worker's mount namespace, which for a plain user
    is one of its own (`open_worker(unshare=Namespace.USER | Namespace.MOUNT)`). What is mounted stays in the worker's mount
    namespace only where propagation is private, as `open_worker` makes it.
    """

    _link: Link

    async def mount(
        self,
        source: StrOrBytesPath | None,
        target: StrOrBytesPath,
        filesystem: str | None = None,
        flags: MountFlag = _NO_FLAGS,
        data: str | None = None,
    ) -> None:
        """Mount a file system, or change, copy or move a mount, as the flags say.

        Args:
            source: a device or directory; None where there is none.
            target: what to mount on.
            filesystem: its type, such as "tmpfs".
            flags: `MountFlag`s.
            data: options of the file system, separated by commas.

        Raises:
            OSError: EPERM: no CAP_SYS_ADMIN; a file system that plain users may not mount; a flag that is locked, because a
                more privileged namespace has set it. EINVAL: no such file system there, or a copy that would bare what is
                locked.
                ENODEV: a type that the kernel does not know. EBUSY: it is mounted there already.

        Kernel: mount(2), user_namespaces(7).
        """
        await mounts.mount(self._link, source, target, filesystem, flags, data)

    async def umount(
        self, target: StrOrBytesPath, *, detach: bool = False, force: bool = False, follow_symlinks: bool = True
    ) -> None:
        """Unmount what is mounted on a path.

        Args:
            target: the path.
            detach: take it away at once, and let go of it when nobody uses it any more (MNT_DETACH).
            force: give up what is under way on a dead server (MNT_FORCE).
            follow_symlinks: whether the last part of the path may be a symbolic link (UMOUNT_NOFOLLOW).

        Raises:
            OSError: EINVAL: nothing is mounted there, or it is locked, because it comes from a more privileged namespace.
                EBUSY: in use. EPERM: no CAP_SYS_ADMIN.

        Kernel: umount2(2).
        """
        await mounts.umount(self._link, target, detach, force, follow_symlinks)

    async def bind_mount(
        self, source: StrOrBytesPath, target: StrOrBytesPath, *, read_only: bool = False, recursive: bool = True
    ) -> None:
        """Have a file or directory appear at another place, as `Bind` does in `open_worker`.

        Args:
            source: an absolute path.
            target: an absolute path, where what is missing of it is made.
            read_only: so that nothing can be written there, nor on the mounts below it.
            recursive: with the mounts below it.

        Raises:
            ValueError: a relative path, or "/" as the target.
            OSError: as `open_tree`, `mount_setattr` and `move_mount`.

        Kernel: open_tree(2), mount_setattr(2), move_mount(2); Linux 5.12.
        """
        await preparing.bind_mount(self._link, Bind(source, target, read_only=read_only, recursive=recursive))

    async def open_tree(self, path: StrOrBytesPath, *, clone: bool = True, recursive: bool = True) -> MountTree:
        """Open a mount as a descriptor: a copy of it that is attached nowhere, or (without `clone`) itself.

        Args:
            path: a directory or file.
            clone: copy it. The copy can be changed with `mount_setattr`, and attached with `move_mount` by any worker that may
                mount where it is.
            recursive: copy the mounts below it as well.

        Raises:
            OSError: ENOENT: no such path. EPERM: no CAP_SYS_ADMIN. EINVAL: a copy without what is mounted below would bare what
                a more privileged namespace has hidden.

        Kernel: open_tree(2), Linux 5.2.
        """
        return await mounts.open_tree(self._link, path, clone, recursive)

    async def move_mount(self, source: StrOrBytesPath | int | HasFileno, target: StrOrBytesPath) -> None:
        """Attach a detached mount, or move one that is attached.

        Args:
            source: a `MountTree` (or another descriptor of a mount), which remains the caller's; or the path of a mount.
            target: what to attach it to.

        Raises:
            OSError: ENOENT: no such target. ENOTDIR: one is a directory, the other is not. EINVAL: no mount, attached already,
                locked, or under a shared mount. EPERM: no CAP_SYS_ADMIN.

        Kernel: move_mount(2), Linux 5.2.
        """
        await mounts.move_mount(self._link, source, target)

    async def mount_setattr(
        self,
        mount: StrOrBytesPath | int | HasFileno,
        set: MountAttribute = _NO_ATTRIBUTES,
        clear: MountAttribute = _NO_ATTRIBUTES,
        *,
        propagation: Propagation | str | None = None,
        user_namespace: int | HasFileno | None = None,
        recursive: bool = False,
    ) -> None:
        """Change attributes of a mount: of all below it as well, or (where one is refused) of none.

        Args:
            mount: its path, or a descriptor, as of `open_tree`.
            set: what it is to have.
            clear: what it is not to have any more.
            propagation: how mounts below it spread.
            user_namespace: a descriptor of a user namespace, by whose maps the mount's owners show (an id-mapped mount). The
                mount must be a detached copy, and the worker needs CAP_SYS_ADMIN in that user namespace, too.
            recursive: include the mounts below it.

        Raises:
            OSError: EINVAL: no mount is there; for id-mapping: a file system that cannot, an attached mount, or the initial
                namespace. EPERM: no CAP_SYS_ADMIN (for id-mapping, where the file system was mounted), or an attribute is
                locked, because a more privileged namespace has set it. EBUSY: files are open for writing.

        Kernel: mount_setattr(2), Linux 5.12.
        """
        await mounts.mount_setattr(self._link, mount, set, clear, propagation, user_namespace, recursive)

    async def fsmount(
        self, filesystem: str, options: Mapping[str, str | None] | None = None, attributes: MountAttribute = _NO_ATTRIBUTES
    ) -> MountTree:
        """Make a file system, as a mount that is attached nowhere.

        Args:
            filesystem: its type, such as "tmpfs".
            options: what it takes: "source" is what mount(2) calls so; None is an option without a value.
            attributes: of the mount.

        Raises:
            OSError: ENODEV: a type that the kernel does not know. EINVAL: an option that it does not take; what it says of that
                is in the notes. EPERM: no CAP_SYS_ADMIN, or a file system that plain users may not mount.

        Kernel: fsopen(2), fsconfig(2), fsmount(2); Linux 5.2.
        """
        return await mounts.fsmount(self._link, filesystem, options or {}, attributes)

    async def set_propagation(self, propagation: Propagation | str) -> None:
        """Set how mounts and unmounts spread from and to other mount namespaces, for the root and all mounts below it.

        For a part of them, use `mount_setattr`.

        Raises:
            ValueError: not "private", "slave", "shared" or "unbindable".
            OSError: EPERM: no CAP_SYS_ADMIN. EINVAL: the root is no mount (after chroot).

        Kernel: mount_namespaces(7).
        """
        await mounts.set_propagation(self._link, propagation)

    async def pivot_root(self, new_root: StrOrBytesPath, put_old: StrOrBytesPath | None = None) -> None:
        """Make a mount the root of the worker's mount namespace.

        Every process of that namespace which has the old root gets the new one: give the worker a mount namespace of its own.

        Args:
            new_root: a directory on which something is mounted.
            put_old: a directory below it, on which the old root is mounted then. None unmounts the old root, and goes to "/".

        Raises:
            OSError: EINVAL: nothing is mounted on `new_root`; mounts there are shared; the worker is in a chroot, or on the
                initial ramdisk. EBUSY: it is the root already. EPERM: no CAP_SYS_ADMIN.

        Kernel: pivot_root(2).
        """
        await roots.pivot_root(self._link, new_root, put_old)

    async def chroot(self, path: StrOrBytesPath) -> None:
        """Have the worker's paths begin at a directory. The working directory stays, and mounts do: it confines nobody.

        Raises:
            OSError: ENOENT, ENOTDIR: no such directory. EPERM: no CAP_SYS_CHROOT.

        Kernel: chroot(2).
        """
        await roots.chroot(self._link, path)

    async def chdir(self, path: StrOrBytesPath) -> None:
        """Set the worker's working directory, in which commands start.

        Raises:
            OSError: ENOENT, ENOTDIR: no such directory. EACCES: it must not be entered.

        Kernel: chdir(2).
        """
        await roots.chdir(self._link, path)

    async def sethostname(self, name: str) -> None:
        """Set what the machine is called in the worker's UTS namespace.

        Raises:
            OSError: EINVAL: longer than 64 bytes. EPERM: no CAP_SYS_ADMIN over that namespace.

        Kernel: sethostname(2), uts_namespaces(7).
        """
        await roots.sethostname(self._link, name)

    async def setdomainname(self, name: str) -> None:
        """Set the NIS domain name in the worker's UTS namespace. (It has nothing to do with DNS.)

        Raises:
            OSError: EINVAL: longer than 64 bytes. EPERM: no CAP_SYS_ADMIN over that namespace.

        Kernel: setdomainname(2), uts_namespaces(7).
        """
        await roots.setdomainname(self._link, name)
