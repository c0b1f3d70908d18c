"""This machine, read-only, but for directories that can be written to: what is written vanishes when the block is left.

Root can have an overlay of the whole machine, `Overlay("/", ["/"])`. For a plain user the kernel wants overlays of directories
without mounts below them.
"""

import asyncio
import tempfile
from pathlib import Path

from aions import Bind, Dev, Namespace, Overlay, Proc, Tmpfs, open_worker

SCRIPT = """
    echo "changed inside" > settings && cat settings
    touch /usr/new 2> /dev/null || echo "/usr is read-only"
"""


async def main(project: Path) -> None:
    (project / "settings").write_text("as it was\n")
    mounts = [
        Bind("/", "/", read_only=True),
        Proc(),
        Dev(),
        Tmpfs("/tmp"),
        Overlay(project, [project]),
    ]
    async with open_worker(unshare=Namespace.USER | Namespace.MOUNT | Namespace.PID, mounts=mounts) as worker:
        await worker.run_process(["sh", "-ec", SCRIPT], cwd=project, stdout=None)
    print("outside:", (project / "settings").read_text(), end="")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory)))
