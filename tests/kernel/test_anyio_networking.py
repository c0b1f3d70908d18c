"""A worker is anyio, elsewhere: the same names, parameters, types and behaviour, in the worker's namespaces."""

from __future__ import annotations

import errno
import inspect
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import (
    ConnectedUDPSocket,
    ConnectedUNIXDatagramSocket,
    SocketAttribute,
    SocketStream,
    UDPSocket,
    UNIXDatagramSocket,
    UNIXSocketStream,
)
from anyio.streams.stapled import MultiListener

import aions
from aions import Namespace, Worker, open_worker
from tests.kernel.called import mount_tmpfs
from tests.kernel.explained import works
from tests.kernel.targets import let_look_into, on_one_loop

MIRRORED = [
    "connect_tcp",
    "connect_unix",
    "create_connected_udp_socket",
    "create_connected_unix_datagram_socket",
    "create_tcp_listener",
    "create_udp_socket",
    "create_unix_datagram_socket",
    "create_unix_listener",
    "getaddrinfo",
    "getnameinfo",
    "open_file",
]

OWN = {"namespace": None}
"""What ours take beyond anyio's parameters, and by default."""


def facts(parameter: inspect.Parameter) -> tuple[object, ...]:
    return parameter.name, parameter.kind, parameter.default, set(parameter.annotation.replace("anyio.", "").split(" | "))


@pytest.mark.parametrize("name", MIRRORED)
def test_the_parameters_are_those_of_anyio(name: str) -> None:
    theirs = inspect.signature(getattr(anyio, name)).parameters
    ours = dict(inspect.signature(getattr(aions, name)).parameters)
    own = {name: ours.pop(name) for name in OWN if name in ours}
    assert [facts(each) for each in ours.values()] == [facts(each) for each in theirs.values()]
    assert list(own) == ([] if name == "open_file" else list(OWN))
    assert all(own[name].default is OWN[name] and own[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)


@pytest.mark.parametrize("name", MIRRORED)
def test_the_result_is_that_of_anyio(name: str) -> None:
    theirs = inspect.signature(getattr(anyio, name)).return_annotation
    ours = inspect.signature(getattr(aions, name)).return_annotation.removeprefix("anyio.")
    assert ours == re.sub(r"^Awaitable\[(.*)\]$", r"\1", theirs)


INSIDE = Namespace.USER | Namespace.NETWORK | Namespace.MOUNT


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker in network and mount namespaces of its own, with its loopback up and a /tmp that nobody else sees."""
    async with open_worker(unshare=INSIDE) as worker:
        await worker.run_process(["ip", "link", "set", "lo", "up"])
        await worker.run_sync(mount_tmpfs, "/tmp")
        await worker.run_process("echo '127.0.0.1 both\n::1 both' > /tmp/hosts && mount --bind /tmp/hosts /etc/hosts")
        yield worker


pytestmark = pytest.mark.needs("ip")


async def shout(stream: SocketStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data.upper())


async def shouted(stream: anyio.abc.ByteStream) -> bytes:
    async with stream:
        await stream.send(b"hello")
        with anyio.fail_after(10):
            return await stream.receive()


def port(listener: MultiListener[SocketStream]) -> int:
    (number,) = {each.extra(SocketAttribute.local_port) for each in listener.listeners}
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "both"])
async def test_tcp(worker: Worker, host: str) -> None:
    async with await worker.create_tcp_listener(local_host=host) as listener, anyio.create_task_group() as tasks:
        assert isinstance(listener, MultiListener)
        tasks.start_soon(listener.serve, shout)
        stream = await worker.connect_tcp(host, port(listener))
        assert isinstance(stream, SocketStream)
        assert stream.extra(SocketAttribute.remote_port) == port(listener)
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not os.get_blocking(raw.fileno())
        assert await shouted(stream) == b"HELLO"
        with pytest.raises(OSError, match="All connection attempts failed"):
            await anyio.connect_tcp("127.0.0.1", port(listener))
        tasks.cancel_scope.cancel()


async def test_without_a_host_a_listener_has_both_families(worker: Worker) -> None:
    async with await worker.create_tcp_listener() as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, shout)
        for host in ("127.0.0.1", "::1"):
            assert await shouted(await worker.connect_tcp(host, port(listener))) == b"HELLO"
        tasks.cancel_scope.cancel()


@on_one_loop
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, ("0.0.0.0", 80)), (socket.AF_INET6, ("::", 80))], ids=["IPv4", "IPv6"]
)
async def test_a_listener_of_one_family(worker: Worker, family: socket.AddressFamily, address: tuple[str, int]) -> None:
    async with await worker.create_tcp_listener(family=family, local_port=80) as listener:  # type: ignore[arg-type]
        assert [each.extra(SocketAttribute.local_address) for each in listener.listeners] == [address]
        other = {socket.AF_INET: "::1", socket.AF_INET6: "127.0.0.1"}[socket.AddressFamily(family)]
        with pytest.raises(OSError, match="All connection attempts failed"):
            await worker.connect_tcp(other, 80)


@on_one_loop
async def test_a_port_is_the_same_on_all_addresses_of_a_name(worker: Worker) -> None:
    """Also if the one that the first address gets is taken on the second."""
    await worker.run_process("echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range")
    taken = [await worker.socket(), await worker.socket(socket.AF_INET6)]
    taken[0].bind(("127.0.0.1", 40001))
    taken[1].bind(("::1", 40002))
    async with await worker.create_tcp_listener(local_host="both") as listener:
        hosts = {each.extra(SocketAttribute.local_address)[0] for each in listener.listeners}
        assert hosts == {"127.0.0.1", "::1"}
        assert port(listener) in {40000, 40003}
    for sock in taken:
        sock.close()


@on_one_loop
async def test_the_backlog_reaches_the_kernel(worker: Worker) -> None:
    async with await worker.create_tcp_listener(local_host="127.0.0.1", backlog=7):
        shown = (await worker.run_process(["ss", "-Hltn"])).stdout.split()
        assert shown[2] == b"7"


@on_one_loop
async def test_ports_can_be_shared_if_that_is_asked_for(worker: Worker) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            stack.push_async_exit(await worker.create_tcp_listener(local_port=80, reuse_port=True))
            stack.push_async_exit(await worker.create_udp_socket(socket.AF_INET, local_port=53, reuse_port=True))


@on_one_loop
async def test_the_local_address_of_a_connection_can_be_chosen(worker: Worker) -> None:
    async with await worker.create_tcp_listener() as listener:
        stream = await worker.connect_tcp("127.0.0.1", port(listener), local_host="127.0.0.5", local_port=1234)
        async with stream:
            assert stream.extra(SocketAttribute.local_address) == ("127.0.0.5", 1234)


async def test_udp(worker: Worker) -> None:
    async with await worker.create_udp_socket(local_host="127.0.0.1", local_port=53) as server:
        assert isinstance(server, UDPSocket)
        assert server.extra(SocketAttribute.local_address) == ("127.0.0.1", 53)
        async with await worker.create_connected_udp_socket("127.0.0.1", 53, local_port=1234) as client:
            assert isinstance(client, ConnectedUDPSocket)
            assert client.extra(SocketAttribute.remote_address) == ("127.0.0.1", 53)
            with anyio.fail_after(10):
                await client.send(b"question")
                data, source = await server.receive()
                assert (data, source) == (b"question", ("127.0.0.1", 1234))
                await server.sendto(b"answer", *source)
                assert await client.receive() == b"answer"


@on_one_loop
async def test_udp_of_either_family(worker: Worker) -> None:
    async with await worker.create_udp_socket(socket.AF_INET6) as sock:
        assert sock.extra(SocketAttribute.local_address)[0] == "::"
    async with await worker.create_connected_udp_socket("::1", 9, local_host="::1", local_port=5) as connected:
        assert connected.extra(SocketAttribute.local_address) == ("::1", 5)
    with pytest.raises(ValueError, match='Either "family" or "local_host" must be given'):
        await worker.create_udp_socket()


async def test_interfaces_are_those_of_the_namespace(worker: Worker) -> None:
    """The index of an interface in the app's own network is another, or there is none."""
    await worker.run_process(
        "for i in 1 2 3 4 5; do ip link add filler$i type veth; done; ip link add inside type veth"
        " && ip link set inside up && ip link set veth5 up && ip address add fe80::5/64 dev inside nodad"
    )
    index = int((await worker.run_process(["ip", "-o", "link", "show", "inside"])).stdout.split(b":")[0])
    async with await worker.create_udp_socket(local_host="fe80::5%inside", local_port=7) as sock:
        assert sock.extra(SocketAttribute.local_address) == (f"fe80::5%{index}", 7)
    async with await worker.create_udp_socket(local_host=f"fe80::5%{index}", local_port=7):
        pass


KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]


@pytest.mark.parametrize("kind", KINDS, ids=["stream", "seqpacket"])
@pytest.mark.parametrize("path", ["/tmp/listener", "\0listener", b"/tmp/b\xffytes"], ids=["path", "abstract", "bytes"])
async def test_unix_streams(worker: Worker, path: str | bytes, kind: Any) -> None:
    async with await worker.create_unix_listener(path, mode=0o600, kind=kind) as listener, anyio.create_task_group() as tasks:
        assert listener.extra(SocketAttribute.family) == socket.AF_UNIX
        tasks.start_soon(listener.serve, shout)
        stream = await worker.connect_unix(path, kind)
        assert isinstance(stream, UNIXSocketStream)
        assert stream.extra(SocketAttribute.raw_socket).getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == kind
        assert await shouted(stream) == b"HELLO"
        with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            await anyio.connect_unix(path, kind)
        tasks.cancel_scope.cancel()


async def test_unix_streams_carry_descriptors(worker: Worker) -> None:
    listener = await worker.create_unix_listener("/tmp/listener")
    async with listener, await worker.connect_unix("/tmp/listener") as ours, await listener.accept() as theirs:
        assert isinstance(theirs, UNIXSocketStream)
        with open("/dev/null") as null:
            await ours.send_fds(b"here", [null])
        message, (descriptor,) = await theirs.receive_fds(10, 1)
        assert (message, os.readlink(f"/proc/self/fd/{descriptor}")) == (b"here", "/dev/null")
        os.close(descriptor)


@on_one_loop
async def test_unix_paths_are_the_workers(worker: Worker, tmp_path: Path) -> None:
    async with await worker.create_unix_listener("/tmp/listener", mode=0o612):
        assert not Path("/tmp/listener").exists()
        status = await worker.run_sync(os.stat, "/tmp/listener")
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o612


@on_one_loop
async def test_what_lies_where_a_listener_goes(worker: Worker) -> None:
    for _ in range(2):  # a socket is taken away
        async with await worker.create_unix_listener("/tmp/listener"):
            pass
    await worker.run_process("echo precious > /tmp/file")
    with pytest.raises(OSError, match="in use") as caught:
        await worker.create_unix_listener("/tmp/file")
    assert caught.value.filename == "/tmp/file"
    assert (await worker.run_process(["cat", "/tmp/file"])).stdout == b"precious\n"


async def test_unix_datagrams(worker: Worker) -> None:
    async with await worker.create_unix_datagram_socket(local_path="/tmp/server", local_mode=0o600) as server:
        assert isinstance(server, UNIXDatagramSocket)
        client = await worker.create_connected_unix_datagram_socket("/tmp/server", local_path="\0client")
        async with client:
            assert isinstance(client, ConnectedUNIXDatagramSocket)
            await client.send(b"question")
            with anyio.fail_after(10):
                data, source = await server.receive()
                assert (data, os.fsencode(source)) == (b"question", b"\0client")
                raw = server.extra(SocketAttribute.raw_socket)
                raw.sendto(b"answer", b"\0client")
                assert await client.receive() == b"answer"
    async with await worker.create_unix_datagram_socket() as unbound:
        assert unbound.extra(SocketAttribute.local_address) == ""


async def test_connecting_waits_for_a_listener_whose_queue_is_full(worker: Worker) -> None:
    async with await worker.create_unix_listener("/tmp/listener", backlog=0) as listener, anyio.create_task_group() as tasks:
        first = await worker.connect_unix("/tmp/listener")
        done = anyio.Event()

        async def connect() -> None:
            async with await worker.connect_unix("/tmp/listener"):
                done.set()

        tasks.start_soon(connect)
        assert await works(worker)
        assert not done.is_set()
        async with first, await listener.accept():
            with anyio.fail_after(10):
                await done.wait()


@pytest.mark.parametrize("connected", [False, True])
@on_one_loop
async def test_the_mode_of_a_datagram_socket(worker: Worker, connected: bool) -> None:
    async with await worker.create_unix_datagram_socket(local_path="/tmp/server", local_mode=0o612):
        path = "/tmp/server"
        if connected:
            path = "/tmp/client"
            await (
                await worker.create_connected_unix_datagram_socket("/tmp/server", local_path=path, local_mode=0o612)
            ).aclose()
        assert stat.S_IMODE((await worker.run_sync(os.stat, path)).st_mode) == 0o612


@on_one_loop
async def test_the_backlog_of_a_unix_listener(worker: Worker) -> None:
    """There is room for many; a number beyond an int is none too much."""
    for backlog in (65536, 2**33):
        async with await worker.create_unix_listener("\0listener", backlog=backlog), AsyncExitStack() as stack:
            with anyio.fail_after(5):
                for _ in range(10):
                    await stack.enter_async_context(await worker.connect_unix("\0listener"))


@on_one_loop
async def test_options_of_sockets(worker: Worker) -> None:
    async with await worker.create_tcp_listener(local_host="127.0.0.1") as listener:
        raw = listener.listeners[0].extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not raw.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    for family in (socket.AF_INET, socket.AF_INET6):
        client = await worker.create_connected_udp_socket("both", 9, family=family, reuse_port=True)
        async with client:
            assert client.extra(SocketAttribute.family) == family
            assert client.extra(SocketAttribute.raw_socket).getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


@pytest.mark.parametrize("local_host", ["127.0.0.1", "::1"])
@on_one_loop
async def test_a_local_host_chooses_the_family(worker: Worker, local_host: str) -> None:
    """There is one attempt, not one for each of the addresses."""
    with pytest.raises(OSError, match="All connection attempts failed") as caught:
        await worker.connect_tcp("both", 1, local_host=local_host)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@on_one_loop
async def test_a_unix_socket_that_cannot_be_bound_is_not_kept_by_the_worker(worker: Worker) -> None:
    await let_look_into(worker)
    before = len(os.listdir(f"/proc/{worker.pid}/fd"))
    for call in (worker.create_unix_listener("/tmp/no/socket"), worker.connect_unix("/tmp/nothing")):
        with pytest.raises(FileNotFoundError):
            await call
    assert len(os.listdir(f"/proc/{worker.pid}/fd")) == before


REFUSALS: list[tuple[str, Callable[[Worker], Awaitable[Any]], type[OSError], str]] = [
    ("no such path", lambda worker: worker.connect_unix("/tmp/nothing"), FileNotFoundError, "/tmp/nothing"),
    ("no such directory", lambda worker: worker.create_unix_listener("/tmp/no/socket"), FileNotFoundError, "/tmp/no/socket"),
    ("nobody listens", lambda worker: worker.connect_unix("\0nobody"), ConnectionRefusedError, "@nobody"),
    (
        "no such datagram path",
        lambda worker: worker.create_connected_unix_datagram_socket("/tmp/nothing"),
        FileNotFoundError,
        "/tmp/nothing",
    ),
]


@pytest.mark.parametrize(("call", "kind", "path"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
@on_one_loop
async def test_refusals_of_unix_sockets(
    worker: Worker, call: Callable[[Worker], Awaitable[Any]], kind: type[OSError], path: str
) -> None:
    with pytest.raises(kind) as caught:
        await call(worker)
    assert caught.value.filename == path
    assert any("was refused in worker" in note for note in caught.value.__notes__)
    assert await works(worker)


@on_one_loop
@pytest.mark.parametrize("path", ["/" + "x" * 107, "\0" + "x" * 108])
async def test_a_path_that_is_too_long(worker: Worker, path: str) -> None:
    for connect in (worker.connect_unix, anyio.connect_unix):
        with pytest.raises(OSError, match=r"^AF_UNIX path too long$"):
            await connect(path)
    for create in (worker.create_unix_listener, anyio.create_unix_listener):
        with pytest.raises(OSError, match=r"^AF_UNIX path too long$"):
            await create(path)


@on_one_loop
async def test_the_longest_paths_that_there_are(worker: Worker) -> None:
    for path in ("/tmp/" + "x" * 102, "\0" + "x" * 107):
        async with await worker.create_unix_listener(path):
            await (await worker.connect_unix(path)).aclose()


async def same_refusal(ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Awaitable[Any]]) -> OSError:
    """See that anyio raises what we do, here where the same is wrong."""
    with pytest.raises(OSError, match=r".") as our_error:
        await ours()
    with pytest.raises(OSError, match=r".") as their_error:
        await theirs()
    assert type(our_error.value) is type(their_error.value)
    assert our_error.value.errno == their_error.value.errno
    assert type(our_error.value.__cause__) is type(their_error.value.__cause__)
    return our_error.value


async def test_a_refused_connection(worker: Worker) -> None:
    error = await same_refusal(lambda: worker.connect_tcp("127.0.0.1", 1), lambda: anyio.connect_tcp("127.0.0.1", 1))
    assert str(error) == "All connection attempts failed"
    assert isinstance(error.__cause__, ConnectionRefusedError)


@on_one_loop
async def test_a_refused_connection_to_several_addresses(worker: Worker) -> None:
    with pytest.raises(OSError, match="All connection attempts failed") as caught:
        await worker.connect_tcp("both", 1)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(error) for error in caught.value.__cause__.exceptions] == [ConnectionRefusedError] * 2


@on_one_loop
async def test_where_there_is_no_way(worker: Worker) -> None:
    with pytest.raises(OSError, match="All connection attempts failed") as caught:
        await worker.connect_tcp("192.0.2.1", 80)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENETUNREACH
    with pytest.raises(OSError, match="unreachable"):
        await worker.create_connected_udp_socket("192.0.2.1", 80)


async def test_a_connection_that_takes_too_long(worker: Worker) -> None:
    """To an address that never answers: cancelling is prompt and leaves no socket (the leak check sees to it)."""
    await worker.run_process(
        "ip link add hole type veth && ip link set veth0 up && ip address add 192.0.2.1/24 dev hole && ip link set hole up"
    )
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await worker.connect_tcp("192.0.2.2", 80)


async def test_an_address_in_use(worker: Worker) -> None:
    ours = await worker.create_tcp_listener(local_host="127.0.0.1")
    async with ours, await anyio.create_tcp_listener(local_host="127.0.0.1") as theirs:
        error = await same_refusal(
            lambda: worker.create_tcp_listener(local_host="127.0.0.1", local_port=port(ours)),
            lambda: anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port(theirs)),
        )
        assert error.errno == errno.EADDRINUSE


@on_one_loop
async def test_an_address_that_is_not_here(worker: Worker) -> None:
    error = await same_refusal(
        lambda: worker.create_tcp_listener(local_host="192.0.2.1"), lambda: anyio.create_tcp_listener(local_host="192.0.2.1")
    )
    assert error.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError, match="requested address") as caught:
        await worker.create_udp_socket(local_host="192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.plain_user
@on_one_loop
async def test_a_privileged_port_of_the_host() -> None:
    async with open_worker() as worker:
        error = await same_refusal(
            lambda: worker.create_tcp_listener(local_port=80), lambda: anyio.create_tcp_listener(local_port=80)
        )
        assert isinstance(error, PermissionError)
        assert error.errno == errno.EACCES


@on_one_loop
async def test_privileged_ports_inside(worker: Worker) -> None:
    async with await worker.create_tcp_listener(local_port=80), await worker.create_udp_socket(socket.AF_INET, local_port=53):
        pass


async def test_a_worker_that_dies_meanwhile(worker: Worker) -> None:
    os.kill(worker.pid, 9)
    for connect in (worker.connect_tcp("127.0.0.1", 1), worker.connect_tcp("both", 1), worker.connect_unix("/tmp/x")):
        with pytest.raises(aions.WorkerDied):
            await connect


@on_one_loop
async def test_the_functions_act_on_the_current_worker(worker: Worker) -> None:
    async with await aions.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, shout)
        assert await shouted(await aions.connect_tcp("127.0.0.1", port(listener))) == b"HELLO"
        tasks.cancel_scope.cancel()
