"""Every message, declared once for both sides.

A pid is always one that the app sees. Namespaces travel as the kernel's flags (CLONE_NEW*), or as the kernel's names in
/proc ("net", "mnt", …) where one is meant. Strings that stand for bytes (paths, arguments, environments) are UTF-8 with
surrogate escapes.
"""

from __future__ import annotations

from aions._wire.message import Descriptor, Message

SERVING = b"aions: the forkserver serves\n"
REFUSED = b"aions: errno %d\n"
"""What a new forkserver writes to its stdout, by then a pipe to the app: that it serves, or why the kernel did not let it."""


class Request(Message):
    """What the app asks. Each is answered exactly once: by the reply it names, by `Failed` or by `Rejected`.

    Those that `take_long` are never answered within a tenth of a millisecond.
    """

    take_long = False


class Reply(Message):
    """What a worker answers."""


class Fork(Request):
    """Fork a worker that serves `socket`. `exit` is the pipe that gets its exit status; closed by the app, it ends.

    `process_group` and `session` are the app's. With `in_advance` nobody waits for it yet.
    """

    take_long = True

    in_advance: bool
    process_group: int
    session: int
    socket: Descriptor
    exit: Descriptor


class Kill(Request):
    """SIGKILL a process and all that descends from it. Only the forkserver, which sees them all, does this."""

    take_long = True

    pidfd: Descriptor


class Unshare(Request):
    """Make new namespaces and be in them. `Sealed` where nobody could write the maps of the user namespace among them."""

    namespaces: int


class StandIn(Request):
    """Make new namespaces, unless it is none, and, if `exposed`, let others look into this process, to write its maps.

    It first gives up all that it holds but the connection, and can serve nothing afterwards.
    """

    namespaces: int
    exposed: bool


class SetNamespace(Request):
    """Join by an nsfd (with one type, or 0 for whatever it is) or by a pidfd (with any number of types, at once).

    In another user namespace, become root, as by `BecomeRoot`, unless credentials are to be preserved.
    """

    namespaces: int
    preserve_credentials: bool
    target: Descriptor


class JoinNamespaces(Request):
    """Join several, each by an nsfd of its kind: all, or none, or end. In another user namespace, become root as above."""

    preserve_credentials: bool
    namespaces: tuple[int, ...]
    targets: tuple[Descriptor, ...]


class GetNamespaceID(Request):
    """Identify a namespace of a process; of the worker itself where pid is None."""

    pid: int | None
    namespace: str


class WriteMap(Request):
    """Write `file` ("uid_map", "gid_map" or "setgroups") of a process in one write.

    `setgroups` says what becomes of setgroups(2) inside: it is KEPT, DENIED before that, or denied IF_NEED_BE, where the write
    is refused otherwise.
    """

    KEPT = "kept"
    DENIED = "denied"
    IF_NEED_BE = "denied if need be"

    pid: int
    file: str
    text: str
    setgroups: str


class SetClockOffset(Request):
    """Write one line of the worker's own timens_offsets."""

    text: str


class SetPropagation(Request):
    """Change how mounts and unmounts spread from and to everything below the root (MS_PRIVATE, MS_SLAVE, …)."""

    propagation: int


class Spawn(Request):
    """Run a command, with an `environment` of NAME=value. `process_group` and `session` are the app's.

    `passed` become the numbers `pass_fds` inside.
    """

    take_long = True

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    process_group: int
    session: int
    exit: Descriptor
    stdin: Descriptor
    stdout: Descriptor
    stderr: Descriptor
    passed: tuple[Descriptor, ...]
    pass_fds: tuple[int, ...] = ()
    shell: bool = False
    directory: str | None = None
    umask: int = -1
    new_session: bool = False
    user: int | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None
    capabilities: int | None = None
    keep_capabilities: bool = False
    no_new_privs: bool = False
    may_wait: bool = False


class LeadSession(Request):
    """Lead a new session, with the slave of a pseudo-terminal (one or none) as its terminal.

    Each command is then in a process group of its own; it starts in the `foreground` of the terminal, or behind the worker.
    """

    foreground: bool
    terminal: tuple[Descriptor, ...]


class SetForeground(Request):
    """Put the last command into the foreground of the session's terminal, or else the worker."""

    command: bool


class Preload(Request):
    """Import modules, from the app's sys.path. Only the forkserver does this, for all workers that it forks afterwards."""

    take_long = True

    path: tuple[str, ...]
    modules: tuple[str, ...]


class CallFunction(Request):
    """Call a pickled function in the worker itself. `path` is the app's sys.path, `main` the file of its __main__.

    `call` and `long_call` are what `payload` makes of the pickle.
    """

    path: tuple[str, ...]
    main: str | None
    call: str
    long_call: tuple[Descriptor, ...]


class OpenSocket(Request):
    """Make a socket: in the worker's network namespace, or in the one that is given, where the worker is for that moment."""

    family: int
    type: int
    protocol: int
    namespace: tuple[Descriptor, ...]


class OpenUnixSocket(Request):
    """Make a unix socket, bind it to `local` with `mode`, listen, and connect it to `remote`: whatever is not None.

    Paths that begin with a zero byte are abstract; a socket that lies at `local` is removed first.
    """

    type: int
    local: str | None
    mode: int | None
    backlog: int | None
    remote: str | None
    namespace: tuple[Descriptor, ...]
    may_wait: bool = False


class OpenFile(Request):
    """Open a file. `may_wait`, in every request that has it, says whether it may wait for somebody: else it is `WouldWait`."""

    path: str
    flags: int
    mode: int
    may_wait: bool = False


class OpenNamespace(Request):
    """Open the worker's own namespace of a kind."""

    namespace: str


class NewNetwork(Request):
    """Make a network namespace that the worker is not in, with its loopback up if that is wanted."""

    take_long = True

    loopback: bool


class SetLoopbackUp(Request):
    """Set lo up in the worker's own network namespace."""


class ReadResolverFiles(Request):
    """Read what the resolver is configured by, where the worker is."""


class IsolateResolver(Request):
    """Make this fork resolve names for its network namespace alone.

    It gets mounts of its own, in which the host's resolver daemons cannot be reached. Over what is in /etc lie `files` with
    these contents, each in a memfd, and over these what is in /etc/netns/NETWORK_NAME.
    """

    network_name: str | None
    files: tuple[str, ...]
    contents: tuple[Descriptor, ...]


class ResolveName(Request):
    """Call getaddrinfo(3). None stands for NULL."""

    take_long = True

    host: str | None
    port: str | None
    family: int
    type: int
    protocol: int
    flags: int


class ResolveAddress(Request):
    """Call getnameinfo(3) for a numeric host. Only an IPv6 address has a `scope`; 0 is none."""

    take_long = True

    host: str
    port: int
    scope: int
    flags: int


class BecomeRoot(Request):
    """Take user and group 0, as asked, where they are mapped; drop the supplementary groups, where that is allowed."""

    user: bool
    group: bool


class BecomeOwner(Request):
    """Take a user and a group, and no other groups, so that a user namespace made next is theirs."""

    user: int
    group: int


class Restrict(Request):
    """Have no capabilities but those of a mask, ever again; keep those that are left across exec; never gain any."""

    capabilities: int | None
    keep_capabilities: bool
    no_new_privs: bool


class ReadProcess(Request):
    """Read a file of /proc/PID; of the worker itself where pid is None."""

    pid: int | None
    file: str


class GetRelatedNamespace(Request):
    """Identify the user namespace that owns one of a process (`relation` NS_GET_USERNS), or its parent (NS_GET_PARENT).

    It is opened by the pid, unless it is given.
    """

    namespace: str
    relation: int
    pid: int
    given: tuple[Descriptor, ...]


class GetOwnerUID(Request):
    """Name the user who made the user namespace of a process, which is opened by the pid, unless it is given."""

    pid: int
    given: tuple[Descriptor, ...]


class Mount(Request):
    """Call mount(2)."""

    source: str | None
    target: str
    filesystem: str | None
    flags: int
    data: str | None
    may_wait: bool = False


class Unmount(Request):
    target: str
    flags: int
    may_wait: bool = False


class OpenTree(Request):
    path: str
    flags: int
    may_wait: bool = False


class MoveMount(Request):
    """Attach a mount: that at the path `source`, or the detached `tree`."""

    source: str
    target: str
    tree: tuple[Descriptor, ...]
    may_wait: bool = False


class SetMountAttributes(Request):
    """Change a mount: that at a path, or else the first of `given`. Where `mapped`, the last of `given` is a user namespace."""

    path: str
    recursive: bool
    to_set: int
    to_clear: int
    propagation: int
    mapped: bool
    given: tuple[Descriptor, ...]
    may_wait: bool = False


class NewMount(Request):
    """Make a mount that is not attached. An option is NAME or NAME=value."""

    filesystem: str
    options: tuple[str, ...]
    attributes: int
    may_wait: bool = False


class PivotRoot(Request):
    """Make a directory the root. Without `put_old` the old root is unmounted.

    Here and below, a directory is looked up by its path, unless it is `given`; where that may have to wait it is `WouldWait`.
    """

    new_root: str
    put_old: str | None
    given: tuple[Descriptor, ...]


class ChangeRoot(Request):
    path: str
    given: tuple[Descriptor, ...]


class ChangeDirectory(Request):
    path: str
    given: tuple[Descriptor, ...]
    may_wait: bool = False


class SetHostName(Request):
    name: str


class SetDomainName(Request):
    name: str


class SetLimit(Request):
    """Limit a resource of the worker and of what it starts (RLIMIT_*)."""

    resource: int
    soft: int
    hard: int


class JoinCgroup(Request):
    directory: str


class Attach(Request):
    """As a step of `Prepare`: make a mount and attach it at an absolute path in the root, making what is missing of that path.

    The kinds are file systems, and "bind", "rbind" (which have a source), "dev" (a tmpfs with what is expected in /dev). An
    "overlay" has its lower directories as sources, the topmost first; a "proc" what to bind where a new one is refused, or
    nothing. What is attached at "/" becomes the root when all steps are done; until then sources are taken from the old one.

    A "proc" or "sysfs" that is `kernel_read_only` cannot be written to where it is about the machine, not about a process; with
    `own_network`, it can where it is about a network.
    """

    kind: str
    target: str
    sources: tuple[str, ...]
    options: tuple[str, ...]
    attributes: int
    kernel_read_only: bool = False
    own_network: bool = False


class Prepare(Request):
    """Serve several requests, each encoded as if it were sent by itself, until one is refused."""

    take_long = True

    steps: tuple[str, ...]
    may_wait: bool = True


class OpenSockets(Request):
    """Make a socket in each of several network namespaces, or none."""

    family: int
    type: int
    protocol: int
    namespaces: tuple[Descriptor, ...]


class Done(Reply):
    """It is done, and there is nothing to say about it."""


class Sealed(Reply):
    """It is not done, since the worker is sealed: only root could write its id maps."""


class WouldWait(Reply):
    """It is not begun, since it may have to wait for somebody. Asked of a process that others do not need, it would be."""


class Started(Reply):
    """A child of the worker runs."""

    pid: int
    pidfd: Descriptor


class Identified(Reply):
    """What a namespace is known by; `id` is None where the kernel has no NS_GET_ID."""

    device: int
    inode: int
    id: int | None


class Opened(Reply):
    descriptor: Descriptor


class ResolverFiles(Reply):
    """The names that files have in /etc, and a memfd with the contents of each: the app only passes them on."""

    files: tuple[str, ...]
    contents: tuple[Descriptor, ...]


class Resolved(Reply):
    """The addresses of a name, a column for each part; `ports` and what comes after it are those of the socket addresses."""

    families: tuple[int, ...]
    types: tuple[int, ...]
    protocols: tuple[int, ...]
    names: tuple[str, ...]
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    scopes: tuple[int, ...]


class Named(Reply):
    """The names of an address."""

    host: str
    service: str


class Unresolved(Reply):
    """The resolver's refusal: one of the C library's EAI_ numbers, which are less than zero, and its words."""

    code: int
    reason: str


class Called(Reply):
    """The outcome of a function, pickled, and made into these by `payload`."""

    outcome: str
    long_outcome: tuple[Descriptor, ...]


class Contents(Reply):
    """What a file says."""

    text: str


class User(Reply):
    uid: int


class Prepared(Reply):
    """How far `Prepare` has come: all is done where `errno` is 0, else `step` was refused. `notes` are for the user."""

    step: int
    errno: int
    call: str
    path: str | None
    hint: str | None
    notes: tuple[str, ...]


class OpenedInEach(Reply):
    """As many as were asked for, in the same order."""

    sockets: tuple[Descriptor, ...]


class Failed(Reply):
    """The kernel refused. `call` is the system call as strace would write it; `hint` what only the worker could know."""

    errno: int
    call: str
    path: str | None
    hint: str | None


class Rejected(Reply):
    """The request made no sense to the worker, or serving it raised what it should not."""

    reason: str


REQUESTS: dict[str, type[Request]] = {cls.__name__: cls for cls in Request.__subclasses__()}
REPLIES: dict[str, type[Reply]] = {cls.__name__: cls for cls in Reply.__subclasses__()}
