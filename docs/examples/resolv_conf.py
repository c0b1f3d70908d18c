"""A different /etc/resolv.conf for one command; the rest of this machine is as it is, and everybody else has the old one."""

import asyncio
import tempfile
from pathlib import Path

from aions import Bind, Namespace, open_worker


async def main(resolv_conf: Path) -> None:
    resolv_conf.write_text("nameserver 192.0.2.53\n")
    mounts = [Bind(resolv_conf, "/etc/resolv.conf", read_only=True)]
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT, mounts=mounts) as worker:
        await worker.run_process(["cat", "/etc/resolv.conf"], stdout=None)
    print("outside it is still the old one:", "192.0.2.53" not in Path("/etc/resolv.conf").read_text())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory) / "resolv.conf"))
