"""`Worker`: the handle of a process that exists to be in namespaces. Each method is a line or two; its subject has a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from os import PathLike
from subprocess import PIPE, CompletedProcess
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

import anyio

from aions._app import credentials, files, functions, making, map_reading, maps, membership, processes
from aions._app.capabilities import Capabilities
from aions._app.credentials import Credentials
from aions._app.descriptor import HasFileno
from aions._app.home import current_home
from aions._app.link import Link
from aions._app.mounting import Mounting
from aions._app.namespace_file import NamespaceFile
from aions._app.networking import Networking
from aions._app.processes import Process, Stream
from aions._app.scope import Scope
from aions._app.targets import Target
from aions._app.text import StrOrBytesPath
from aions._types import Clock, GroupMapping, NamespaceID, NamespaceLike, Namespaces, UserMapping

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Worker(Mounting, Networking):
    """A process with one thread, that makes namespace calls for the app and runs things where it is.

    Workers come from `open_worker` and from `Worker.fork`. One belongs to the event loop that it was opened in: in another it
    raises `RuntimeError`. It serves requests one by one, in the order in which they were made; for work side by side, fork
    it.

    Every method may raise `WorkerDied`, and `anyio.ClosedResourceError` once the worker is closed.

    Cancellation: a call that is cancelled returns at once; what it asked for may or may not happen. The worker goes on, once it
    is through with it: see `run_sync` for what may take for ever.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._is_first = not link.has_handle
        link.has_handle = True

    def __del__(self) -> None:
        if self._is_first and not self._link.closed and not self._link.client.lost and self._link.is_owner:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<aions.Worker pid={self.pid}{' closed' if self._link.closed else ''}>"

    @property
    def pid(self) -> int:
        """Its process id, as the app sees it."""
        return self._link.child.pid

    @property
    def pidfd(self) -> int:
        """A pidfd of it, which this handle owns; -1 once closed."""
        return self._link.child.pidfd.fileno()

    async def unshare(self, namespaces: Namespaces) -> None:
        """Move the worker into new namespaces, made by this call.

        New PID and TIME namespaces are for what it starts from then on: commands, and forks.

        Args:
            namespaces: one or more, as a `Namespace` (a union is one), the kernel's name, or an iterable of these.

        Raises:
            ValueError: none, or an unknown one.
            OSError: EPERM: no CAP_SYS_ADMIN, and no USER among them. ENOSPC: a quota on namespaces is used up. EINVAL: USER,
                while a function has left threads in the worker; PID, for the second time.

        Kernel: unshare(2).
        """
        await membership.unshare(self._link, namespaces)

    async def set_namespace(
        self, fd: int | HasFileno, namespace: Namespaces | None = None, *, preserve_credentials: bool = False
    ) -> None:
        """Move the worker into the namespace, or namespaces, that a descriptor stands for.

        Args:
            fd: a descriptor of a namespace (/proc/PID/ns/…), or a pidfd; it remains the caller's.
            namespace: of which type it must be; with a pidfd, the types to join, in one atomic step. None takes a namespace of
                any type.
            preserve_credentials: stay who it is in another user namespace. Otherwise the worker is root there, if 0 is mapped,
                and drops the app's other groups, if setgroups(2) is allowed.

        Raises:
            OSError: EINVAL: the wrong type, or the worker's own user namespace. EPERM: no CAP_SYS_ADMIN there. ESRCH: the
                pidfd's process has ended. EBADF: not open, or no namespace.

        Kernel: setns(2); with a pidfd since Linux 5.8.
        """
        await membership.set_namespace(self._link, fd, namespace, preserve_credentials)

    async def enter_namespace(self, pid: int, namespace: Namespaces, *, preserve_credentials: bool = False) -> None:
        """Move the worker into namespaces of a process: into all that are named, or into none.

        The process is held by a pidfd, so its pid cannot be used again meanwhile.

        Args:
            pid: as the app sees it.
            namespace: one or more types.
            preserve_credentials: as for `set_namespace`.

        Raises:
            OSError: ESRCH: no such process, or it ended meanwhile. EPERM: no CAP_SYS_ADMIN there. EINVAL: the worker's own user
                namespace.

        Kernel: setns(2) and pidfd_open(2), Linux 5.8.
        """
        await membership.enter_namespace(self._link, pid, namespace, preserve_credentials)

    async def enter(self, target: Target, namespaces: Namespaces | None = None, *, preserve_credentials: bool = False) -> None:
        """Move the worker into the namespaces of a target: into all that are named, or into none.

        Args:
            target: a pid as the app sees it, a process or a worker; or one namespace: a `NamespaceFile`, an open file, a path,
                a socket (its network namespace), or a name that `ip netns` knows. An int that is no pid but a descriptor (a
                pidfd, an nsfd) goes into a `FileDescriptor`. All remain the caller's.
            namespaces: of a process, which ones. Of one namespace, which kind it has to be; None takes any.
            preserve_credentials: as for `set_namespace`.

        Raises:
            ValueError: a process and no namespaces; a namespace of another kind.
            OSError: ENOENT: no such name or path; nothing is created. ESRCH: no such process. EINVAL: what was found is no
                namespace, or it is the worker's own user namespace. EPERM: no CAP_SYS_ADMIN there.

        Kernel: setns(2); ioctl_nsfs(2); SIOCGSKNS for sockets. Processes are held by pidfd, Linux 5.8.
        """
        await membership.enter(self._link, target, namespaces, preserve_credentials)

    async def open_namespace(self, namespace: NamespaceLike) -> NamespaceFile:
        """Open a namespace that the worker is in, so that it lives on when everybody has left it.

        Raises:
            ValueError: several kinds, or none.
            OSError: EMFILE.

        Kernel: namespaces(7).
        """
        return await making.open_own(self._link, namespace)

    async def new_namespace(self, namespace: NamespaceLike, *, loopback: bool = False) -> NamespaceFile:
        """Make a namespace with nobody in it, that lives as long as the handle (or a process or socket that got there).

        Args:
            namespace: the kind; not PID, which would end with its first process. In a USER namespace, the app's user is root.
            loopback: with NETWORK, set its loopback up.

        Raises:
            ValueError: PID; several kinds; `loopback` with another kind.
            OSError: as `unshare`.

        Kernel: unshare(2). A network namespace takes one request; other kinds, and network namespaces from where the worker may
            not come back to its own (a plain user's in the host's network), take a fork of the worker.
        """
        return await making.new_namespace(self._link, namespace, loopback)

    async def get_namespace_id(self, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
        """Identify a namespace of a process.

        Args:
            pid: as the app sees it; None means the worker itself.
            namespace: one type.

        Raises:
            OSError: ENOENT: no such process. EACCES: another user's (PTRACE_MODE_READ, ptrace(2)).

        Kernel: namespaces(7); `NamespaceID.id` by NS_GET_ID, Linux 6.18.
        """
        return await membership.get_namespace_id(self._link, pid, namespace)

    async def write_user_mappings(self, pid: int | None, mappings: Iterable[UserMapping]) -> None:
        """Write the uid map of a user namespace; this can be done once.

        Whichever process may writes it: the forkserver, a worker that this one was forked from, or the worker itself. Where
        none may, newuidmap(1) does, if it is about more than the app's own id.

        Args:
            pid: a process in the namespace, as the app sees it; None means the worker itself.
            mappings: what maps to what. A plain user may map one id, its own; and, by newuidmap, its subordinate ones.

        Raises:
            ValueError: no mapping, an overlap, or more than 340.
            OSError: EPERM: written before, or ids that are not the caller's to give.

        Kernel: user_namespaces(7).
        """
        await maps.write(self._link, pid, "uid_map", mappings, launch=launched)

    async def write_group_mappings(
        self, pid: int | None, mappings: Iterable[GroupMapping], deny_setgroups: bool = False
    ) -> None:
        """Write the gid map of a user namespace, as `write_user_mappings` does the uid map.

        Args:
            pid: a process in the namespace, as the app sees it; None means the worker itself.
            mappings: what maps to what. A plain user may map one id, its own; and, by newgidmap, its subordinate ones.
            deny_setgroups: forbid setgroups(2) in the namespace, for good. A plain user has to, to map its own group alone.

        Raises:
            ValueError: no mapping, an overlap, or more than 340.
            OSError: EPERM: written before, ids that are not the caller's to give, or setgroups is still allowed.

        Kernel: user_namespaces(7).
        """
        await maps.write(self._link, pid, "gid_map", mappings, deny_setgroups, launched)

    async def read_user_mappings(self, pid: int | None) -> list[UserMapping]:
        """Read the uid map of a user namespace.

        Args:
            pid: a process in the namespace, as the app sees it: `outside` is then in the app's own ids. None means the worker
                itself, and `outside` is in the ids of the parent of its namespace, as they were written.

        Raises:
            OSError: ENOENT: no such process.

        Kernel: user_namespaces(7).
        """
        return await map_reading.read(self._link, pid, "uid_map", UserMapping)

    async def read_group_mappings(self, pid: int | None) -> list[GroupMapping]:
        """Read the gid map of a user namespace, as `read_user_mappings` does the uid map."""
        return await map_reading.read(self._link, pid, "gid_map", GroupMapping)

    async def translate_user_id(self, user: int, source: int | None, target: int | None) -> int | None:
        """Say which number a user of one user namespace has in another; None, if it has none there, or does not exist.

        Args:
            user: the id in the namespace of `source`.
            source: a process, as the app sees it; None means the worker. `os.getpid()` stands for the app.
            target: the same for the other namespace.

        Raises:
            OSError: ENOENT: no such process. EACCES: another user's.
        """
        return await map_reading.translate(self._link, user, source, target, "uid_map", UserMapping)

    async def translate_group_id(self, group: int, source: int | None, target: int | None) -> int | None:
        """Say which number a group of one user namespace has in another, as `translate_user_id` does for a user."""
        return await map_reading.translate(self._link, group, source, target, "gid_map", GroupMapping)

    async def get_owner_uid(self, pid: int | None) -> int:
        """Say who owns a user namespace: the user who made it, and has all capabilities over it.

        Args:
            pid: a process in it, as the app sees it; None means the worker.

        Returns:
            The id of the user, as the app counts; 65534 if the app has no number for it.

        Raises:
            OSError: ENOENT: no such process. EACCES: another user's.

        Kernel: NS_GET_OWNER_UID, ioctl_nsfs(2).
        """
        return await membership.get_owner_uid(self._link, pid)

    async def get_owning_namespace(self, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
        """Identify the user namespace that owns a namespace: whose capabilities count in it.

        Args:
            pid: a process in the namespace, as the app sees it; None means the worker.
            namespace: one type. A user namespace is owned by its parent.

        Raises:
            OSError: EPERM: it is neither the app's own user namespace nor one below. ENOENT: no such process. EACCES: another
                user's.

        Kernel: NS_GET_USERNS, ioctl_nsfs(2).
        """
        return await membership.get_owning_namespace(self._link, pid, namespace)

    async def get_parent_namespace(self, pid: int | None, namespace: NamespaceLike) -> NamespaceID:
        """Identify the namespace that a PID or USER namespace was made in.

        Args:
            pid: a process in the namespace, as the app sees it; None means the worker.
            namespace: PID or USER; the others have no parents.

        Raises:
            ValueError: another type.
            OSError: EPERM: it is beyond the app's own namespace. ENOENT: no such process. EACCES: another user's.

        Kernel: NS_GET_PARENT, ioctl_nsfs(2).
        """
        return await membership.get_parent_namespace(self._link, pid, namespace)

    async def get_credentials(self, pid: int | None) -> Credentials:
        """Read who a process is and what it may: ids, groups, capabilities, no_new_privs.

        Args:
            pid: as the app sees it, with ids as the app counts; None means the worker itself, and ids as it counts.

        Raises:
            OSError: ENOENT: no such process.

        Kernel: proc_pid_status(5).
        """
        return await credentials.read(self._link, pid)

    async def restrict(
        self, *, capabilities: Capabilities | None = None, keep_capabilities: bool = False, no_new_privs: bool = False
    ) -> None:
        """Have the worker, and all that it starts from then on, give up privileges, for good.

        Args:
            capabilities: those that may be left; all others are dropped, also from the bounding set.
            keep_capabilities: let commands keep what is left, also those that are not root (ambient capabilities).
            no_new_privs: let no program give more: setuid bits and file capabilities do nothing.

        Raises:
            OSError: EPERM: to drop capabilities takes CAP_SETPCAP.

        Kernel: capabilities(7), PR_SET_NO_NEW_PRIVS.
        """
        await credentials.restrict(self._link, capabilities, keep_capabilities, no_new_privs)

    async def set_clock_offset(self, clock: Clock, seconds: int, nanoseconds: int = 0) -> None:
        """Set a clock of the time namespace that the worker has unshared, before anything runs in it.

        Args:
            clock: which one.
            seconds: how far it is ahead of the initial namespace's clock; less than zero, behind.
            nanoseconds: to add to that, 0 … 999999999.

        Raises:
            ValueError: nanoseconds out of range, or more seconds than the kernel counts.
            OSError: EACCES: no time namespace was unshared, or something runs in it already; or the app is a plain user's, and
                the worker was forked from one that had started something, or entered what others made. ERANGE: the clock would
                stand below zero, or too far ahead. EPERM: no CAP_SYS_TIME.

        Kernel: time_namespaces(7), Linux 5.6.
        """
        await membership.set_clock_offset(self._link, clock, seconds, nanoseconds)

    def fork(self) -> AbstractAsyncContextManager[Worker, None]:
        """Open another worker that starts out in this one's namespaces, in the new PID and TIME ones that it has unshared.

        The first fork after `unshare(Namespace.PID)` is the first process of that namespace: it collects orphans, and the
        namespace ends with it. A fork ends when the worker ends that it was forked from.

        Raises:
            OSError: ENOMEM: the first process of the worker's pid namespace has ended. EAGAIN: too many processes.
        """

        async def forked(stack: AsyncExitStack) -> Worker:
            worker = Worker(await self._link.fork())
            stack.push_async_callback(worker.aclose)
            return worker

        return Scope(forked)

    async def aclose(self) -> None:
        """End the worker and all that it has started, by SIGKILL, and wait until it is gone. Closing again does nothing."""
        await self._link.aclose()

    async def run_process(
        self,
        command: StrOrBytesPath | Sequence[StrOrBytesPath],
        *,
        input: bytes | None = None,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        check: bool = True,
        cwd: StrOrBytesPath | None = None,
        env: Mapping[str, str] | None = None,
        startupinfo: Any = None,
        creationflags: int = 0,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Iterable[str | int] | None = None,
        umask: int = -1,
        capabilities: Capabilities | None = None,
        keep_capabilities: bool = False,
        no_new_privs: bool = False,
    ) -> CompletedProcess[bytes]:
        """Run a command where the worker is, and wait for it: `anyio.run_process`, elsewhere.

        The command, `cwd` and a relative path are looked up in the worker's mount namespace. Without `cwd` it starts in the
        worker's working directory; without `env` it gets the app's environment; None as a stream means the app's own. Names of
        users and groups are looked up by the app. `capabilities`, `keep_capabilities` and `no_new_privs` are what `restrict`
        takes, for this command alone.

        It starts with all signals at their defaults and none blocked, in the app's process group: what a terminal sends to the
        app, it gets as well; and it can type into the app's terminal (TIOCSTI), unless `start_new_session` keeps it from that.
        Once the worker has entered a namespace that the app has not made, commands get a session of their own anyway, unless
        one of the streams is given and is a terminal (`stdin=sys.stdin`).

        Raises:
            OSError: ENOENT: no such program or directory there. ENOMEM: the worker's pid namespace has ended.
            subprocess.CalledProcessError: another status than 0, unless `check=False`.

        Cancellation: the command is killed.
        """
        if input is not None and stdin is not None:
            raise ValueError("only one of stdin and input is allowed")
        process = await self.open_process(
            command,
            stdin=PIPE if input else stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            startupinfo=startupinfo,
            creationflags=creationflags,
            start_new_session=start_new_session,
            pass_fds=pass_fds,
            user=user,
            group=group,
            extra_groups=extra_groups,
            umask=umask,
            capabilities=capabilities,
            keep_capabilities=keep_capabilities,
            no_new_privs=no_new_privs,
        )
        async with process:
            outputs = await processes.communicate(process, input)
        return processes.completed(command, process, outputs, check)

    async def open_process(
        self,
        command: StrOrBytesPath | Sequence[StrOrBytesPath],
        *,
        stdin: Stream = PIPE,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        cwd: StrOrBytesPath | None = None,
        env: Mapping[str, str] | None = None,
        startupinfo: Any = None,
        creationflags: int = 0,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Iterable[str | int] | None = None,
        umask: int = -1,
        capabilities: Capabilities | None = None,
        keep_capabilities: bool = False,
        no_new_privs: bool = False,
    ) -> Process:
        """Start a command where the worker is: `anyio.open_process`, elsewhere. See `run_process`.

        It runs until it ends or the worker is closed, also if nobody keeps the handle.
        """
        return await processes.open_process(
            self._link,
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            startupinfo=startupinfo,
            creationflags=creationflags,
            start_new_session=start_new_session,
            pass_fds=pass_fds,
            user=user,
            group=group,
            extra_groups=extra_groups,
            umask=umask,
            capabilities=capabilities,
            keep_capabilities=keep_capabilities,
            no_new_privs=no_new_privs,
        )

    async def open(self, path: StrOrBytesPath, flags: int, mode: int = 0o777) -> int:
        """Open a file where the worker is: `os.open`, elsewhere.

        Args:
            path: in the worker's mount namespace; a relative one is of its working directory.
            flags: os.O_RDONLY, …; O_CLOEXEC is set anyway.
            mode: of a file that is created, less the worker's umask.

        Returns:
            A descriptor, which is the caller's. It stays what it is wherever the worker goes.

        Raises:
            OSError: as open(2).

        Where the worker sees other files than the app, no magic link of /proc/PID (fd, root, cwd, exe, ns) is followed: ELOOP.

        Cancellation: what waits in open(2), as for the other end of a FIFO or for a file server, waits in a fork of the worker,
        which ends. Other calls do not wait with it.

        Kernel: open(2); openat2(2), Linux 5.6.
        """
        return await files.open_descriptor(self._link, path, flags, mode)

    @overload
    async def open_file(
        self,
        file: str | PathLike[str] | int,
        mode: OpenBinaryMode,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        closefd: bool = ...,
        opener: Callable[[str, int], int] | None = ...,
        *,
        limiter: anyio.CapacityLimiter | None = ...,
    ) -> anyio.AsyncFile[bytes]: ...

    @overload
    async def open_file(
        self,
        file: str | PathLike[str] | int,
        mode: OpenTextMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        closefd: bool = ...,
        opener: Callable[[str, int], int] | None = ...,
        *,
        limiter: anyio.CapacityLimiter | None = ...,
    ) -> anyio.AsyncFile[str]: ...

    async def open_file(
        self,
        file: str | PathLike[str] | int,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
        *,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> anyio.AsyncFile[Any]:
        """Open a file where the worker is: `anyio.open_file`, elsewhere. An int is a descriptor of the app's, as in anyio.

        Raises:
            OSError: as open(2).
            ValueError: a bad mode; an `opener`.

        Cancellation: as `open`.
        """
        return await files.open_file(self._link, file, mode, buffering, encoding, errors, newline, closefd, opener, limiter)

    async def run_sync(
        self,
        func: Callable[[*Args], T],
        *args: *Args,
        cancellable: bool = False,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> T:
        """Call a function in the worker's process: `anyio.to_process.run_sync`, elsewhere.

        Function, arguments and result are pickled. The function runs in the worker itself, so what it does to the process stays
        done (but for the signals that terminals send, SIGPIPE and SIGCHLD, and the mask of signals: these the worker sets
        again), and other calls wait for it. The environment is empty there: what the function needs of the app's has to be an
        argument. A process that it starts it should also wait for: between two calls the worker collects whatever has ended,
        and a later `Popen.wait()` finds nobody (and returns 0).

        Args:
            func: importable from the app's `sys.path` or `__main__`; with cloudpickle installed (`aions[cloudpickle]`), also
                lambdas, closures and functions of an interactive session.
            args: its arguments.
            cancellable: run it in a fork of the worker, which is killed when the call is cancelled; otherwise the call waits
                for the function, as in anyio.
            limiter: taken for the length of the call; None: the default one of `anyio.to_process` for a cancellable call, which
                takes a process, and none for any other.

        Raises:
            AionsError: a cancellable call would be the first process of a pid namespace that the worker has unshared.
            AionsError: what it returned or raised takes more than 256 MiB when it is pickled.
            pickle.PicklingError, AttributeError, TypeError: function, arguments or result cannot be pickled.
            Whatever the function raises, with the worker's traceback as a note.
        """
        return await functions.call(self._link, func, args, cancellable, limiter)


async def launched() -> Worker:
    """Fork a worker where the app is, for the setuid programs that write maps."""
    return Worker(await current_home().fork())
