"""How the forkserver starts: what it and its workers have of the app, and what is told where it does not start."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.spawn
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from errno import ENFILE
from pathlib import Path
from textwrap import dedent

import anyio
import pytest

import aions
from aions import AionsError, open_worker
from aions._app import forkserver
from tests.kernel.programs.running import BACKENDS, parent
from tests.kernel.scripts import ROOT, run_script

SECRET = "a canary in the environment of the app"


@pytest.fixture(autouse=True)
def _interpreter_as_before() -> Iterator[None]:
    before = multiprocessing.spawn.get_executable()
    yield
    multiprocessing.set_executable(os.fsdecode(before))


def start_instead(path: Path, script: str) -> None:
    """Have a shell script started as the Python interpreter."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    multiprocessing.set_executable(str(path))


async def why_not() -> str:
    """Return why no worker can be opened, with the notes."""
    with anyio.fail_after(30), pytest.raises(AionsError) as caught:
        async with open_worker():
            pass
    assert type(caught.value) is AionsError
    return "\n".join((str(caught.value), *getattr(caught.value, "__notes__", ())))


def environment_at_start() -> bytes:
    """Return what /proc/PID/environ of this process shows to who may read it."""
    numbers = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = map(int, numbers[47:49])
    assert 0 < start < end
    return ctypes.string_at(start, end - start)


def with_aions_below(depth: int) -> list[object]:
    """Open a worker in a worker, and so on; return the environments of all."""
    if depth == 0:
        return []

    async def inside() -> list[object]:
        async with open_worker() as worker:
            return await worker.run_sync(with_aions_below, depth - 1)

    return [dict(os.environ), *anyio.run(inside)]


async def test_workers_have_nothing_of_the_apps_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/a path")
    async with open_worker() as worker, worker.fork() as fork:
        for each in (worker, fork):
            assert await each.run_sync(eval, "dict(__import__('os').environ)") == {}
            assert await each.run_sync(eval, "__import__('os').getenv('PATH')") is None
            shown = (await each.run_sync(environment_at_start)).rstrip(b"\0").split(b"\0")
            assert sorted(shown) == [b"AIONS_STARTS_FORKSERVER=1", b"LD_LIBRARY_PATH=/a path"]
        environment = (await fork.run_process(["env"])).stdout.decode().splitlines()
        assert f"SECRET={SECRET}" in environment
        assert not [line for line in environment if line.startswith("AIONS_STARTS")]
        cancellable = await fork.run_sync(eval, "dict(__import__('os').environ)", cancellable=True)
        assert cancellable == {}


async def test_a_function_may_use_aions() -> None:
    async with open_worker() as worker:
        assert await worker.run_sync(with_aions_below, 2) == [{}, {}]


async def test_a_function_that_starts_a_program_hands_on_an_empty_environment() -> None:
    async with open_worker() as worker:
        assert await worker.run_sync(subprocess.check_output, ["/usr/bin/env"]) == b""


async def test_nothing_is_imported_from_where_the_app_is_or_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app may have anything in its PYTHONPATH, its directory, and its user's site-packages."""
    (program := tmp_path / "shows.py").write_text("import sys; sys.exit(repr((sys.path, sys.flags)))")
    monkeypatch.setattr(forkserver, "_PROGRAM", program)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/elsewhere")
    monkeypatch.chdir(tmp_path)
    shown = await why_not()
    for missing in ("elsewhere", str(tmp_path) + "'", "site-packages", "''"):
        assert missing not in shown.partition("said:")[2]
    for flag in ("no_user_site=1", "no_site=1", "safe_path=True", "utf8_mode=1"):
        assert flag in shown


async def test_the_home_of_the_app_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that was moved is told by PYTHONHOME where its library is."""
    library = Path(sysconfig.get_path("stdlib"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / library.name).symlink_to(library)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    async with open_worker() as worker:
        assert await worker.run_sync(eval, "__import__('sys').prefix") == str(tmp_path)


async def test_a_home_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    said = await why_not()
    assert "ended with status 1, and said: " in said
    assert "encodings" in said


async def test_the_interpreter_is_that_of_multiprocessing(tmp_path: Path) -> None:
    start_instead(tmp_path / "python", f'echo "$0" > {tmp_path}/started; exec {sys.executable} "$@"')
    async with open_worker() as worker:
        assert await worker.run_sync(sum, [1, 2]) == 3
    assert (tmp_path / "started").read_text() == f"{tmp_path}/python\n"


SAYINGS = {
    "with words": ("echo 'what went wrong' >&2; exit 3", ["ended with status 3", "said: what went wrong"]),
    "on stdout": ("echo 'what went wrong'; exit 3", ["ended with status 3", "said: what went wrong"]),
    "without a word": ("exit 0", ["ended with status 0\n"]),
    "by a signal": ("kill -9 $$", ["ended with status -9"]),
    "with too many words": ("yes | head -c 3000000; echo the last >&2; exit 1", ["y\ny\n", "the last\n"]),
    "in no text": (r"printf '\377'; exit 1", ["\N{REPLACEMENT CHARACTER}"]),
    "and is another Python": ("echo 'unknown option -P' >&2; exit 2", ["unknown option -P"]),
}


@pytest.mark.parametrize("what", SAYINGS)
async def test_an_interpreter_that_does_not_start_is_told(tmp_path: Path, what: str) -> None:
    script, expected = SAYINGS[what]
    start_instead(tmp_path / "python", script)
    said = await why_not()
    assert "the forkserver cannot be started: " in said
    assert f"{tmp_path}/python" in said
    assert "Remedy: multiprocessing.set_executable(PATH)" in said
    assert len(said) < 5000
    for words in expected:
        assert words in said


async def test_once_it_can_be_started_it_is(tmp_path: Path) -> None:
    start_instead(tmp_path / "python", "exit 1")
    await why_not()
    multiprocessing.set_executable(sys.executable)
    async with open_worker() as worker:
        assert await worker.run_sync(sum, [1, 2]) == 3


@pytest.mark.parametrize("what", ["missing", "a directory", "not executable", "no program"])
async def test_an_interpreter_that_cannot_be_run_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / "python"
    if what == "a directory":
        path.mkdir()
    elif what != "missing":
        path.write_text("no program")
        path.chmod(0o755 if what == "no program" else 0o644)
    multiprocessing.set_executable(str(path))
    said = await why_not()
    assert f"the forkserver cannot be started: {path}: " in said
    assert "Remedy: multiprocessing.set_executable(PATH)" in said


async def test_an_interpreter_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_PATIENCE", 0.1)
    start_instead(tmp_path / "python", "echo it goes on; exec sleep 1000")
    said = await why_not()
    assert "did not end" in said
    assert "it goes on" in said


@pytest.mark.parametrize("script", ["exec sleep 1000", "exec sleep 1000 >&- 2>&-"])
async def test_who_is_cancelled_does_not_wait_for_it(tmp_path: Path, script: str) -> None:
    start_instead(tmp_path / "python", f"touch {tmp_path}/started; {script}")

    async def cancel_once_started() -> None:
        while not (tmp_path / "started").exists():
            await anyio.sleep(0.001)
        scope.cancel()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_once_started)
            with anyio.CancelScope() as scope:
                async with open_worker():
                    pass
    assert scope.cancelled_caught


async def test_a_frozen_program_is_told_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    said = await why_not()
    assert "this program is frozen" in said
    assert "Remedy: multiprocessing.set_executable(PATH)" in said
    monkeypatch.setattr(sys, "executable", "/a/frozen/program")  # and now multiprocessing knows of another
    async with open_worker() as worker:
        assert await worker.run_sync(sum, [1, 2]) == 3


async def test_an_interpreter_without_a_path_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", None)
    monkeypatch.setattr(sys, "executable", "")
    assert "sys.executable is empty" in await why_not()


PROGRAM_ITSELF = """
    import sys

    open("{starts}", "a").write("x")
    sys.executable = "{program}"  # as in a program that has Python built in, and does not say so by sys.frozen

    import anyio
    import aions
    from tests.kernel.programs.scenario import run

    async def main():
        async with aions.open_worker():
            pass

    if len(open("{starts}").read()) < 9:  # were it to go on and on
        run("{backend}", main)
    """


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_that_is_its_own_interpreter_starts_once_more_and_no_more(backend: str, tmp_path: Path) -> None:
    program, script, starts = tmp_path / "program", tmp_path / "script.py", tmp_path / "starts"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {script} "$@"\n')
    program.chmod(0o755)
    script.write_text(dedent(PROGRAM_ITSELF.format(starts=starts, program=program, backend=backend)))
    finished = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 1
    last = finished.stderr.rstrip().splitlines()
    assert (
        f"AionsError: the forkserver cannot be started: {program} ended with status 1, and said: Traceback" in finished.stderr
    )
    assert f"{program} is no Python interpreter: aions has started it as one, and it is this program" in finished.stderr
    assert last[-1].startswith("Remedy: multiprocessing.set_executable(PATH)")
    assert starts.read_text() == "xx"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zip_file_is_told_what_it_is(backend: str, tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    package = Path(aions.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, Path("aions") / path.relative_to(package))
        file.writestr("__main__.py", dedent(ZIPPED))
    finished = subprocess.run([sys.executable, archive, backend], capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "aions cannot be run from a zip file" in finished.stdout
    assert f"{archive}/aions" in finished.stdout


ZIPPED = """
    import sys
    import anyio
    import aions

    async def main():
        try:
            async with aions.open_worker():
                pass
        except aions.AionsError as error:
            print(error)

    backend, options = ("trio", {}) if sys.argv[1] == "trio" else ("asyncio", {"use_uvloop": sys.argv[1] == "uvloop"})
    anyio.run(main, backend=backend, backend_options=options)
    """


CLOSED = """
    import os
    import sys
    from aions import open_worker
    from tests.kernel.programs.scenario import run

    def streams():
        return [os.path.exists(f"/proc/self/fd/{number}") for number in (0, 1, 2)]

    async def main():
        async with open_worker() as worker:
            with open(sys.argv[2], "w") as file:
                file.write(str(await worker.run_sync(streams)))

    if __name__ == "__main__":
        run(sys.argv[1], main)
    """


@pytest.mark.parametrize("backend", ["asyncio", "trio"])  # libuv aborts such a program, whether or not it uses aions
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_an_app_whose_own_streams_are_closed_has_workers(backend: str, closed: str, tmp_path: Path) -> None:
    under = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    run_script(tmp_path, CLOSED, backend, tmp_path / "seen", under=under)
    assert (tmp_path / "seen").read_text() == "[True, True, True]"


async def test_the_forkserver_is_in_a_process_group_of_its_own_and_no_child() -> None:
    async with open_worker() as worker:
        assert parent(parent(worker.pid)) != os.getpid()
        assert os.getpgid(parent(worker.pid)) == parent(worker.pid)


async def test_what_the_kernel_refuses_the_forkserver_is_an_error_of_the_kernel(tmp_path: Path) -> None:
    start_instead(tmp_path / "python", "echo 'aions: errno 23'; exit 1")
    with pytest.raises(OSError, match="Too many open files in system") as caught:
        async with open_worker():
            pass
    assert caught.value.errno == ENFILE
