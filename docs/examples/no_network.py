"""A command without network: it cannot send anything to anybody, whatever it tries."""

import asyncio

from aions import Namespace, open_worker

TRY = "echo hello > /dev/tcp/192.0.2.1/80 && echo sent || echo 'no way out'; ls /proc/sys/net/ipv4/conf"


async def main() -> None:
    async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker:
        await worker.run_process(["bash", "-c", TRY], stdout=None)


if __name__ == "__main__":
    asyncio.run(main())
