"""The program that workers run is the app's Python interpreter; nothing that runs where they are can change that file."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path

import pytest

from aions import Identity, Namespace, Tmpfs, Worker, open_worker, run_sync
from tests.kernel.targets import on_one_loop

pytestmark = on_one_loop

SCRIPT = """#!/proc/self/exe
import os
for change in (lambda path: os.chmod(path, 0o755), os.utime, lambda path: os.open(path, os.O_WRONLY)):
    try:
        change("/proc/self/exe")
        print("changed")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def own_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run workers by an interpreter that belongs to whoever runs the app, as root's does and many a plain user's."""
    interpreter = shutil.copy(os.path.realpath(sys.executable), tmp_path / "python3")
    before = spawn.get_executable()
    multiprocessing.set_executable(str(interpreter))
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(sys.base_prefix, "lib")))  # of a shared libpython
    yield str(interpreter)
    multiprocessing.set_executable(before)


async def outcomes(worker: Worker) -> list[str]:
    descriptor = await worker.open("/srv/script", os.O_WRONLY | os.O_CREAT, 0o755)
    os.write(descriptor, SCRIPT.encode())
    os.close(descriptor)
    return (await worker.run_process(["/srv/script"], env={**os.environ})).stdout.decode().split()


@pytest.mark.usefixtures("own_interpreter")
@pytest.mark.parametrize("identity", [Identity.root, Identity.current], ids=["root", "current"])
async def test_a_script_that_runs_the_workers_program_cannot_change_it(identity: Identity) -> None:
    kinds = Namespace.USER | Namespace.PID | Namespace.MOUNT
    async with open_worker(unshare=kinds, identity=identity, mount_proc=True, mounts=[Tmpfs("/srv")]) as worker:
        found = await outcomes(worker)
    assert len(found) == 3
    assert "changed" not in found


async def test_workers_know_where_their_interpreter_is(own_interpreter: str) -> None:
    assert await run_sync(eval, "__import__('sys').executable") == own_interpreter
