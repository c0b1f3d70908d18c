"""Another system as the root, as a plain user: with /proc, /dev and a /tmp of its own. Nothing of this machine can be seen.

Run it with a directory, such as what `debootstrap --variant=minbase bookworm DIRECTORY` makes. Without one it makes a small
system that borrows the programs of this machine.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from aions import Bind, Dev, Mount, Namespace, Tmpfs, open_worker

SCRIPT = 'echo "$(hostname): user $(id -u), process $$"; ls /'


async def main(root: Path, *more: Mount) -> None:
    async with open_worker(
        unshare=Namespace.USER | Namespace.MOUNT | Namespace.PID | Namespace.UTS | Namespace.IPC | Namespace.NETWORK,
        hostname="bookworm",
        root=root,
        mount_proc=True,
        mounts=[*more, Dev(), Tmpfs("/tmp")],
    ) as worker:
        await worker.run_process(["/bin/sh", "-c", SCRIPT], stdout=None, env={"PATH": "/usr/bin:/bin"})


async def borrowed(root: Path) -> None:
    """Have /usr of this machine, read-only, in a directory that is otherwise empty."""
    for name in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(f"usr/{name}")
    await main(root, Bind("/usr", "/usr", read_only=True))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(borrowed(Path(directory)))
