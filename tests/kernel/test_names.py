"""Names are resolved as a program inside would resolve them, without the host's daemons, and without foreign libraries."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream, UDPSocket
from dnslib import AAAA, QTYPE, RR, A, DNSRecord

import aions
from aions import Namespace, Worker, open_worker
from tests.kernel.called import mount_tmpfs
from tests.kernel.programs.running import children, wait_until
from tests.kernel.targets import LOOKED_INTO, let_look_into, on_one_loop, target, target_as_root
from tests.kernel.test_namespace_files import named_by_iproute2

INSIDE = Namespace.USER | Namespace.NETWORK | Namespace.MOUNT


@asynccontextmanager
async def inside(**files: str) -> AsyncIterator[Worker]:
    """Open a worker in a network of its own, with files of its own in /etc."""
    async with open_worker(unshare=INSIDE, loopback=True) as worker:
        await worker.run_sync(mount_tmpfs, "/run")
        await put_in_etc(worker, files)
        yield worker


async def put_in_etc(worker: Worker, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = name.replace("_", ".")
        await worker.run_process(f"cat > /run/{path} && mount --bind /run/{path} /etc/{path}", input=content.encode())


async def answer(server: UDPSocket, ipv4: str, ipv6: str | None = None) -> None:
    """Be a DNS server that knows the same addresses, whatever it is asked."""
    async with server:
        async for packet, source in server:
            question = DNSRecord.parse(packet)
            reply = question.reply()
            if question.q.qtype == QTYPE.A:
                reply.add_answer(RR(question.q.qname, rdata=A(ipv4), ttl=0))
            if question.q.qtype == QTYPE.AAAA and ipv6 is not None:
                reply.add_answer(RR(question.q.qname, QTYPE.AAAA, rdata=AAAA(ipv6), ttl=0))
            await server.sendto(reply.pack(), *source)


DNS = {"resolv_conf": "nameserver 127.0.0.1\n", "nsswitch_conf": "hosts: files dns\n"}


async def addresses(worker: Worker, host: str) -> list[str]:
    with anyio.fail_after(10):
        return [row[4][0] for row in await worker.getaddrinfo(host, 80, type=socket.SOCK_STREAM)]


async def test_two_namespaces_know_different_addresses() -> None:
    async with inside(**DNS) as first, inside(**DNS) as second, anyio.create_task_group() as tasks:
        for worker, ipv4, ipv6 in ((first, "192.0.2.1", "2001:db8::1"), (second, "192.0.2.2", "2001:db8::2")):
            server = await worker.create_udp_socket(local_host="127.0.0.1", local_port=53)
            tasks.start_soon(answer, server, ipv4, ipv6)
        for _ in range(3):
            assert sorted(await addresses(first, "example.test")) == ["192.0.2.1", "2001:db8::1"]
            assert sorted(await addresses(second, "example.test")) == ["192.0.2.2", "2001:db8::2"]
        tasks.cancel_scope.cancel()


@on_one_loop
async def test_streams_go_to_where_the_namespace_says() -> None:
    async with inside(**DNS) as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(answer, await worker.create_udp_socket(local_host="127.0.0.1", local_port=53), "127.0.0.7")
        async with await worker.create_tcp_listener(local_host="server.test", local_port=80) as listener:
            assert listener.listeners[0].extra(anyio.abc.SocketAttribute.local_address) == ("127.0.0.7", 80)
            await (await worker.connect_tcp("server.test", 80)).aclose()
        async with await worker.create_udp_socket(local_host="server.test", local_port=7):
            await (await worker.create_connected_udp_socket("server.test", 7)).aclose()
        tasks.cancel_scope.cancel()


@on_one_loop
async def test_rows_are_those_of_anyio() -> None:
    async with inside(hosts="192.0.2.5 five\n2001:db8::5 five\n", nsswitch_conf="hosts: files\n") as worker:
        rows = await worker.getaddrinfo("five", "http", type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP
        assert sorted(rows) == [
            (socket.AF_INET, *tcp, rows[0][3] if rows[0][0] == socket.AF_INET else rows[1][3], ("192.0.2.5", 80)),
            (socket.AF_INET6, *tcp, rows[0][3] if rows[0][0] == socket.AF_INET6 else rows[1][3], ("2001:db8::5", 80)),
        ]
        assert {row[3] for row in rows} <= {"five", ""}
        assert isinstance(rows[0][0], socket.AddressFamily)
        assert isinstance(rows[0][1], socket.SocketKind)
        assert await worker.getaddrinfo(b"five", None, family=socket.AF_INET, proto=17) == [
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.5", 0))
        ]
        for host in (None, "fe80::1%1", "127.0.0.1"):
            assert await worker.getaddrinfo(host, 80) == await anyio.getaddrinfo(host, 80)


@on_one_loop
async def test_names_of_addresses() -> None:
    async with inside(hosts="192.0.2.5 five\n", nsswitch_conf="hosts: files\n") as worker:
        assert await worker.getnameinfo(("192.0.2.5", 80)) == ("five", "http")
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await aions.getnameinfo(("::1", 80), numeric) == ("::1", "80") == await anyio.getnameinfo(("::1", 80), numeric)


@on_one_loop
async def test_names_in_other_scripts() -> None:
    async with inside(hosts="192.0.2.5 xn--bcher-kva.test\n", nsswitch_conf="hosts: files\n") as worker:
        assert await addresses(worker, "Bücher.test") == ["192.0.2.5"]


async def test_a_host_that_does_not_resolve() -> None:
    async with inside(nsswitch_conf="hosts: files\n") as worker:
        for call in (worker.getaddrinfo, worker.connect_tcp, worker.create_connected_udp_socket):
            with pytest.raises(socket.gaierror) as caught:
                await call("nobody.test", 80)
            assert caught.value.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            assert "ame or service not known" in str(caught.value)
        with pytest.raises(socket.gaierror) as ours:
            await worker.getaddrinfo("127.0.0.1", "no-such-service")
        with pytest.raises(socket.gaierror) as theirs:
            await anyio.getaddrinfo("127.0.0.1", "no-such-service")
        assert ours.value.args == theirs.value.args
        with pytest.raises(socket.gaierror):
            await worker.getnameinfo(("not an address", 80))


async def test_a_lookup_that_nobody_answers_is_given_up_at_once_and_holds_nobody_up() -> None:
    async with inside(**DNS) as worker, await worker.create_udp_socket(local_host="127.0.0.1", local_port=53) as silent:
        start = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(partial(worker.getaddrinfo, f"host{number}.test", 80))
            for _ in range(3):
                await silent.receive()
            assert (await worker.run_process(["echo", "works"])).stdout == b"works\n"
            assert len(children(worker.pid)) == 3
            tasks.cancel_scope.cancel()
        assert time.monotonic() - start < 3
        wait_until(lambda: not children(worker.pid), 1)


@contextmanager
def etc_netns(name: str, files: dict[str, str]) -> Iterator[None]:
    """Have files in /etc/netns/NAME, and nothing left of them."""
    top, directory = Path("/etc/netns"), Path("/etc/netns") / name
    made = not top.exists()
    directory.mkdir(parents=True)
    try:
        for file, content in files.items():
            (directory / file).write_text(content)
        yield
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        if made:
            top.rmdir()


@pytest.mark.root
@on_one_loop
async def test_what_iproute2_keeps_for_a_name() -> None:
    files = {"hosts": "192.0.2.9 nine\n", "nsswitch.conf": "hosts: files\n", "unheard-of": "x"}
    with target(Namespace.NETWORK) as pid, named_by_iproute2(pid) as name, etc_netns(name, files):
        shown = subprocess.run(["ip", "netns", "exec", name, "getent", "hosts", "nine"], capture_output=True, check=True)
        assert shown.stdout.split()[0] == b"192.0.2.9"
        async with open_worker(enter=name) as worker:
            assert await addresses(worker, "nine") == ["192.0.2.9"]
            async with worker.fork() as fork:
                assert await addresses(fork, "nine") == ["192.0.2.9"]
            async with await aions.open_namespace(name) as file, open_worker() as other:
                found = await other.getaddrinfo("nine", 80, namespace=file)
                assert {row[4] for row in found} == {("192.0.2.9", 80)}
                assert await other.getnameinfo(("192.0.2.9", 80), namespace=file) == ("nine", "http")
                async with await other.create_tcp_listener(local_host="nine", namespace=file) as listener:
                    assert listener.extra(anyio.abc.SocketAttribute.local_address)[0] == "192.0.2.9"
                with pytest.raises(socket.gaierror):
                    await other.getaddrinfo("nine", 80)
                await other.enter(f"/run/netns/{name}")
                with pytest.raises(socket.gaierror):
                    await other.getaddrinfo("nine", 80)
            await worker.unshare(Namespace.NETWORK)
            with pytest.raises(socket.gaierror):
                await worker.getaddrinfo("nine", 80)
        assert not Path("/etc/hosts").read_text().startswith("192.0.2.9")


ENTERED: dict[str, Callable[[str, Worker], list[Any]]] = {
    "last": lambda name, other: [(other, "uts"), name],
    "first": lambda name, other: [name, (other, "uts")],
    "of a worker": lambda name, other: [(other, "net")],
    "of a worker, with others": lambda name, other: [(other, ["net", "ipc"])],
}


@pytest.mark.root
@pytest.mark.parametrize("targets", ENTERED.values(), ids=ENTERED)
@on_one_loop
async def test_the_name_of_a_network_is_remembered(targets: Callable[[str, Worker], list[Any]]) -> None:
    files = {"hosts": "192.0.2.9 nine\n", "nsswitch.conf": "hosts: files\n"}
    with target(Namespace.NETWORK) as pid, named_by_iproute2(pid) as name, etc_netns(name, files):
        async with open_worker(enter=name) as other, open_worker(enter=targets(name, other)) as worker:
            assert await addresses(worker, "nine") == ["192.0.2.9"]
        async with open_worker(enter=name) as worker, await aions.open_namespace(worker, "net") as file:
            assert file.name == name


DAEMONS = [
    "/run/avahi-daemon/socket",
    "/run/dbus/system_bus_socket",
    "/run/nscd/socket",
    "/run/nslcd/socket",
    "/run/systemd/machine/io.systemd.Machine",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/var/lib/sss/pipes/nss",
]


@on_one_loop
async def test_where_daemons_listen_a_lookup_finds_nothing() -> None:
    async with inside(**DNS) as worker, await worker.create_udp_socket(local_host="127.0.0.1", local_port=53) as silent:
        await worker.run_sync(mount_tmpfs, "/var/lib")
        for daemon in DAEMONS:
            await worker.run_process(f"mkdir -p {os.path.dirname(daemon)} && touch {daemon}")
        await let_look_into(worker)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(worker.getaddrinfo, "host.test", 80))
            await silent.receive()
            (resolver,) = children(worker.pid)
            for daemon in DAEMONS:
                assert stat.S_ISCHR(os.stat(f"/proc/{resolver}/root{daemon}").st_mode), daemon
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("daemon", ["/run/nscd/socket"])
@on_one_loop
async def test_daemons_are_not_asked(daemon: str) -> None:
    """Of the daemons that the C library may ask, one that needs no further library."""
    async with inside(hosts="192.0.2.5 five\n", nsswitch_conf="hosts: files\n") as worker:
        await worker.run_process(["mkdir", "-p", os.path.dirname(daemon)])
        asked = 0

        async def hang_up(stream: SocketStream) -> None:
            nonlocal asked
            asked += 1
            await stream.aclose()

        async with await worker.create_unix_listener(daemon, mode=0o777) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            shown = await worker.run_process(["getent", "ahosts", "five"])
            assert b"192.0.2.5" in shown.stdout
            assert asked > 0, "what does not hide the daemon asks it"
            asked = 0
            assert await addresses(worker, "five") == ["192.0.2.5"]
            assert asked == 0
            tasks.cancel_scope.cancel()


@on_one_loop
async def test_a_lookup_is_not_the_first_process_of_a_namespace() -> None:
    async with inside(hosts="192.0.2.5 five\n", nsswitch_conf="hosts: files\n") as worker:
        await worker.unshare(Namespace.PID | Namespace.TIME)
        assert await addresses(worker, "five") == ["192.0.2.5"]
        await worker.set_clock_offset(aions.Clock.MONOTONIC, 1000)
        async with worker.fork() as first:
            assert await first.run_sync(os.getpid) == 1
            assert await addresses(first, "five") == ["192.0.2.5"]


FOREIGN = """
set -e
mount -t tmpfs tmpfs /mnt
echo 'hosts: files evil dns' > /mnt/nsswitch.conf
echo '192.0.2.66 inside' > /mnt/hosts
mkfifo /mnt/resolv.conf
for file in nsswitch.conf hosts resolv.conf; do mount --bind /mnt/$file /etc/$file; done
"""


@on_one_loop
async def test_what_was_entered_gives_words() -> None:
    """Its hosts file is read, and a FIFO in the place of a file holds nobody up."""
    async with open_worker(unshare=INSIDE, loopback=True) as victim:
        await victim.run_process(FOREIGN)
        async with open_worker(enter=(victim, INSIDE)) as worker, worker.fork() as fork:
            for each in (worker, fork):
                assert await addresses(each, "inside") == ["192.0.2.66"]
                with pytest.raises(socket.gaierror):
                    await each.getaddrinfo("outside.test", 80)


@on_one_loop
async def test_what_was_entered_gives_no_libraries() -> None:
    """The processes that resolve are watched: none of them is ever in the mount namespace that was entered."""
    async with open_worker(unshare=INSIDE, loopback=True) as victim:
        await victim.run_process(FOREIGN)
        async with open_worker(enter=(victim, INSIDE), preload=LOOKED_INTO) as worker:
            before = await worker.get_namespace_id(None, "mnt")
            async with watched_resolvers(worker) as roots:
                await worker.getaddrinfo("inside", 80)
            assert roots
            assert str(before) not in roots


@asynccontextmanager
async def watched_resolvers(worker: Worker) -> AsyncIterator[set[str]]:
    """Collect in which mount namespaces the children of the forkserver and of a worker are meanwhile, but for those before."""
    parent = int(
        next(line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if "PPid" in line).split()[1]
    )
    before = {*children(parent), *children(worker.pid)}
    roots: set[str] = set()

    async def watch() -> None:
        while True:
            for pid in {*children(parent), *children(worker.pid)} - before:
                try:
                    roots.add(os.readlink(f"/proc/{pid}/ns/mnt"))
                except OSError:
                    pass
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield roots
        tasks.cancel_scope.cancel()


@pytest.fixture
def foreign_root(tmp_path: Path) -> Path:
    """A root whose configuration has the C library load a library. Where that would be are FIFOs, which nobody can open."""
    for directory in ("etc", "old", *LIBRARIES):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    for directory in LIBRARIES:
        os.mkfifo(tmp_path / directory / "libnss_evil.so.2")
    (tmp_path / "etc" / "nsswitch.conf").write_text("hosts: evil files\n")
    (tmp_path / "etc" / "hosts").write_text("192.0.2.66 inside\n")
    return tmp_path


LIBRARIES = ("lib64", "lib", f"lib/{sysconfig.get_config_var('MULTIARCH')}")


async def pivot(worker: Worker, root: Path) -> None:
    await worker.bind_mount(root, root)
    await worker.pivot_root(root, root / "old")


CHANGES: dict[str, tuple[Namespace, Callable[[Worker, Path], Awaitable[None]]]] = {
    "pivot_root": (INSIDE, pivot),
    "chroot": (INSIDE, Worker.chroot),
    "chroot in the host's network": (Namespace.USER | Namespace.MOUNT, Worker.chroot),
}


@pytest.mark.parametrize(("kinds", "change"), CHANGES.values(), ids=CHANGES)
@on_one_loop
async def test_another_root_gives_no_libraries(
    foreign_root: Path, kinds: Namespace, change: Callable[[Worker, Path], Awaitable[None]]
) -> None:
    async with open_worker(unshare=kinds) as worker:
        await change(worker, foreign_root)
        assert await addresses(worker, "inside") == ["192.0.2.66"]
        async with worker.fork() as fork:
            assert await addresses(fork, "inside") == ["192.0.2.66"]


@pytest.mark.parametrize("kinds", [INSIDE, INSIDE | Namespace.PID, Namespace.USER | Namespace.MOUNT])
@on_one_loop
async def test_the_root_of_a_new_worker_gives_no_libraries(foreign_root: Path, kinds: Namespace) -> None:
    async with open_worker(unshare=kinds, root=foreign_root) as worker:
        assert await addresses(worker, "inside") == ["192.0.2.66"]


@pytest.mark.root
@on_one_loop
async def test_another_root_without_namespaces_gives_no_libraries(foreign_root: Path) -> None:
    async with open_worker() as worker:
        await worker.chroot(foreign_root)
        assert await addresses(worker, "inside") == ["192.0.2.66"]


@on_one_loop
async def test_names_of_somebody_elses_network() -> None:
    """Entered alone, it brings no files with it: they stay the app's."""
    with target_as_root(Namespace.NETWORK) as pid:
        async with open_worker(enter=(pid, Namespace.USER | Namespace.NETWORK)) as worker:
            assert "127.0.0.1" in await addresses(worker, "localhost")


@on_one_loop
async def test_a_resolver_that_is_killed() -> None:
    async with inside(**DNS) as worker, await worker.create_udp_socket(local_host="127.0.0.1", local_port=53) as silent:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(expect_death, worker))
            await silent.receive()
            for pid in children(worker.pid):
                os.kill(pid, signal.SIGKILL)
        assert (await worker.run_process(["echo", "works"])).stdout == b"works\n"


async def expect_death(worker: Worker) -> None:
    with pytest.raises(aions.WorkerDied):
        await worker.getaddrinfo("host.test", 80)
