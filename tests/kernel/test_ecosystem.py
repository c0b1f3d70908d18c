"""The recipes of docs/ecosystem.md: other people's libraries, on two hosts that are namespaces with a cable between them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import asyncssh
import pytest

from aions import Namespace, Worker, open_worker
from tests.kernel.targets import on_one_loop, until

on_asyncio = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"

ADDRESSES = {"IPv4": ("10.0.0.1", "10.0.0.2", 24), "IPv6": ("fd00::1", "fd00::2", 64)}


def recipe(name: str) -> ModuleType:
    """Import a file of the documentation."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Worker, Worker]]:
    """Have two workers on the two ends of a cable. Both know them as `server` and `client`; `both` is the server."""
    kinds = Namespace.USER | Namespace.NETWORK | Namespace.MOUNT
    async with open_worker(unshare=kinds, loopback=True) as server, server.fork() as client:
        await client.unshare(Namespace.NETWORK | Namespace.MOUNT)
        await server.run_process(
            ["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(client.pid)]
        )
        for worker, number in ((server, 0), (client, 1)):
            for family, addresses in ADDRESSES.items():
                nodad = ["nodad"] if family == "IPv6" else []
                address = f"{addresses[number]}/{addresses[2]}"
                await worker.run_process(["ip", "address", "add", address, "dev", "cable", *nodad])
            await worker.run_process(["ip", "link", "set", "cable", "up"])
        hosts = "10.0.0.1 server\\n10.0.0.2 client\\n10.0.0.1 both\\nfd00::1 both\\n"
        setup = "mount -t tmpfs tmpfs /mnt && printf '{}' > /mnt/{} && mount --bind /mnt/{} /etc/{}"
        for worker in (server, client):
            await worker.run_process(setup.format(hosts, "hosts", "hosts", "hosts"))
        yield server, client


async def application(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer any request with who asks: an ASGI application."""
    if scope["type"] != "http":
        raise NotImplementedError("there is no lifespan")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"hello {scope['client'][0]}".encode()})


@asynccontextmanager
async def served_by_hypercorn(server: Worker) -> AsyncIterator[None]:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recipe("http_servers").serve_by_hypercorn, server, application, 80, stop.wait)
        yield
        stop.set()


@asynccontextmanager
async def served_by_uvicorn(server: Worker) -> AsyncIterator[None]:
    running, serve = await recipe("http_servers").uvicorn_server(server, application, 80)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        with anyio.fail_after(10):
            while not running.started:
                await anyio.sleep(0.001)
        yield
        running.should_exit = True


async def text_by_httpx(worker: Worker, url: str) -> str:
    async with recipe("http_clients").httpx_client(worker) as client:
        return str((await client.get(url)).text)


async def text_by_aiohttp(worker: Worker, url: str) -> str:
    async with recipe("http_clients").aiohttp_session(worker) as session, session.get(url) as response:
        return str(await response.text())


GREETINGS = {
    "http://server/": "hello 10.0.0.2",
    "http://both/": "hello fd00::2",
    "http://10.0.0.1/": "hello 10.0.0.2",
    "http://[fd00::1]/": "hello fd00::2",
}


@pytest.mark.needs("ip")
async def test_hypercorn_and_httpx() -> None:
    async with two_hosts() as (server, client), served_by_hypercorn(server):
        for url, greeting in GREETINGS.items():
            assert await text_by_httpx(client, url) == greeting


@pytest.mark.needs("ip")
@on_asyncio
async def test_uvicorn_and_aiohttp() -> None:
    async with two_hosts() as (server, client), served_by_uvicorn(server):
        for url, greeting in GREETINGS.items():
            assert await text_by_aiohttp(client, url) == greeting
            assert await text_by_httpx(client, url) == greeting


@pytest.mark.needs("ip")
@on_asyncio
async def test_a_session_of_aiohttp_keeps_no_sockets_that_it_does_not_use() -> None:
    """One after another, and at once."""
    async with (
        two_hosts() as (server, client),
        served_by_uvicorn(server),
        recipe("http_clients").aiohttp_session(client, force_close=True) as session,
    ):

        async def get() -> None:
            async with session.get("http://both/") as response:
                assert (await response.text()) in ("hello 10.0.0.2", "hello fd00::2")

        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await get()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(get)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # the server's ends are closed after ours


class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


@pytest.mark.needs("ip")
@on_asyncio
async def test_asyncssh() -> None:
    async def greet(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(f"hello {process.command}")
        process.exit(0)

    async with two_hosts() as (server, client):
        key = asyncssh.generate_private_key("ssh-ed25519")
        listening = await recipe("ssh").ssh_server(
            server, 22, server_host_keys=[key], server_factory=Anybody, process_factory=greet
        )
        async with listening:
            connecting = recipe("ssh").ssh_client(client, ("10.0.0.1", 22), known_hosts=None, username="x", config=[])
            async with await connecting as connection:
                assert (await connection.run("there")).stdout == "hello there"


@pytest.mark.needs("ip")
@on_one_loop
async def test_pyroute2() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        before = subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout
        async with await recipe("links").routes(worker) as routes:
            await routes.link("add", ifname="inside", kind="veth", peer="other")
            (index,) = await routes.link_lookup(ifname="inside")
            await routes.link("set", index=index, state="up")
            await routes.addr("add", index=index, address="10.1.0.1", prefixlen=24)
            await routes.route("add", dst="10.2.0.0/16", gateway="10.1.0.2")
        shown = (await worker.run_process(["ip", "route"])).stdout
        assert b"10.2.0.0/16 via 10.1.0.2 dev inside" in shown
        assert subprocess.run(["ip", "-o", "link"], capture_output=True, check=True).stdout == before
