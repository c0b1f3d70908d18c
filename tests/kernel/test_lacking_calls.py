"""System calls that an older kernel, or a filter (seccomp(2)), does not have: everything works without them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.kernel.programs.running import BACKENDS
from tests.kernel.scripts import run_script

PROGRAM = """
    import os
    import sys
    import time

    import anyio
    from aions import Namespace, open_worker
    from tests.kernel.programs import seccomp
    from tests.kernel.programs.scenario import run

    OPEN = "ls /proc/self/fd | tr '\\n' ' '"  # and 3, by which ls itself reads

    async def main():
        with anyio.fail_after(10):
            async with open_worker(unshare=Namespace.USER | Namespace.NETWORK) as worker, worker.fork() as fork:
                for each in (worker, fork):
                    await each.run_sync(exec, "import os; os.set_inheritable(os.open('/', os.O_RDONLY), True)")
                    print((await each.run_process(OPEN)).stdout.decode())
                print((await fork.run_process(OPEN, group=0)).stdout.decode())  # by fork and exec
                print(await fork.run_sync(sum, [1, 2], cancellable=True))
            async with open_worker(unshare=Namespace.USER | Namespace.PID) as worker:
                print((await worker.run_process("echo $$")).stdout.decode().strip() != "1")

    backend, call, answer = sys.argv[1:]
    seccomp.deny(call, answer=int(answer))
    run(backend, main)
    """


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["close_range"])
def test_everything_works_without(call: str, answer: int, backend: str, tmp_path: Path) -> None:
    assert run_script(tmp_path, PROGRAM, backend, call, answer) == ["0 1 2 3 "] * 3 + ["3", "True"]
