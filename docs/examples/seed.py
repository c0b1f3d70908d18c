"""The example of the Haskell package's manual: a shell in new user and network namespaces, where it is root.

There, a program with a threaded runtime cannot do this reliably. Here the program may have as many threads as it likes.
"""

import asyncio
import os

from aions import GroupMapping, Namespace, UserMapping, run_process, unshare, write_group_mappings, write_user_mappings


async def main() -> None:
    user, group = os.geteuid(), os.getegid()
    await unshare([Namespace.USER, Namespace.NETWORK])
    await write_user_mappings(None, [UserMapping(0, user, 1)])
    await write_group_mappings(None, [GroupMapping(0, group, 1)], deny_setgroups=True)
    await run_process(["/bin/sh", "-c", "id; readlink /proc/self/ns/user /proc/self/ns/net"], stdout=None, stderr=None)


if __name__ == "__main__":
    asyncio.run(main())
