"""A build on a machine with another name and other clocks: what it writes down of them is the same wherever it is built.

The kernel has namespaces for the clocks that count from the start of the machine, not for the time of day: that is what
SOURCE_DATE_EPOCH is for.
"""

import asyncio
import os
import time

from aions import Clock, Namespace, open_worker

BUILD = (
    'echo "built by $(hostname), up for $(cut -d. -f1 /proc/uptime | cut -c1-4)… s, on $(date -u -d @$SOURCE_DATE_EPOCH +%F)"'
)


async def main() -> None:
    up_for = 1_000_000 - time.clock_gettime(time.CLOCK_BOOTTIME)
    async with open_worker(
        unshare=Namespace.USER | Namespace.UTS | Namespace.TIME,
        hostname="builder",
        clock_offsets={Clock.BOOTTIME: up_for},
    ) as worker:
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        await worker.run_process(["sh", "-c", BUILD], stdout=None, env=environment)


if __name__ == "__main__":
    asyncio.run(main())
