"""Two hosts on one machine, as a plain user: one asyncio program serves HTTP on one and fetches from it on the other.

It makes a user namespace, in it two network namespaces, and a cable (a veth pair) between them. Every socket is driven by this
program's one event loop.
"""

import asyncio
import socket

from aions import Namespace, Worker, open_worker

SERVER = "192.0.2.1"
CLIENT = "192.0.2.2"


async def main() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as left, left.fork() as right:
        await right.unshare(Namespace.NETWORK)
        print(f"left  is {await left.get_namespace_id(None, 'net')}, right is {await right.get_namespace_id(None, 'net')}")

        await ip(left, f"link add cable type veth peer name cable netns {right.pid}")
        for host, address in ((left, SERVER), (right, CLIENT)):
            await ip(host, f"address add {address}/24 dev cable")
            await ip(host, "link set cable up")

        listening = await left.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind((SERVER, 80))  # a privileged port: in here, we are root
        async with await asyncio.start_server(answer, sock=listening):
            print(f"left  serves on {SERVER}:80")
            print(f"right got: {await fetch(right)}")


async def ip(host: Worker, command: str) -> None:
    """Run iproute2's `ip` on a host."""
    await host.run_process(["ip", *command.split()], stderr=None)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one HTTP request."""
    await reader.readuntil(b"\r\n\r\n")
    visitor, _port = writer.get_extra_info("peername")
    body = f"hello, {visitor}\n".encode()
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def fetch(host: Worker) -> str:
    """Fetch the page from a host."""
    sock = await host.socket(socket.AF_INET, socket.SOCK_STREAM)
    await asyncio.get_running_loop().sock_connect(sock, (SERVER, 80))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    status, *_headers, body = (await reader.read()).decode().split("\r\n")
    writer.close()
    return f"{status} / {body.strip()}"


if __name__ == "__main__":
    asyncio.run(main())
