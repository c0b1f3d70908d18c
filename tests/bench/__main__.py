"""Measure aions against what a user would pick instead: `python -m tests.bench`, from the root of the repository.

Each round measures every case, aions and its peer in turn, so that whatever else the machine does meanwhile hits all alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import timeit
from contextlib import AsyncExitStack
from functools import partial

import anyio

import aions
from aions._app import log
from aions._sys.calls import Log
from aions._version import __version__
from tests.bench import many
from tests.bench.cases import Backend, Case, all_cases
from tests.bench.memory import grow, own_kilobytes, private_kilobytes
from tests.bench.stall import delays

WARM_UP_ROUNDS = 2

DELAY_ROUNDS = 10

BIG_APP = 500, 20
"""Megabytes, threads."""


async def measure(cases: list[Case], rounds: int) -> list[tuple[list[float], list[float]]]:
    """Return the seconds that aions took, and its peer, for each case."""
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in cases]
    for number in range(WARM_UP_ROUNDS + rounds):
        for case, (ours, peer) in zip(cases, found, strict=True):
            for _ in range(case.repeats):
                ours.append(await case.ours())
                peer.append(await case.peer())
        if number < WARM_UP_ROUNDS:
            found = [([], []) for _ in cases]
    return found


async def private_memory(count: int = 10) -> float:
    """Return the kilobytes that one idle worker has for itself."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(aions.open_worker()) for _ in range(count)]
        for worker in workers:
            await worker.get_namespace_id(None, aions.Namespace.NETWORK)
        return statistics.median(private_kilobytes(worker.pid) for worker in workers)


def cost_of_no_log() -> float:
    """Return the microseconds that a call loses to a log that is off: the app asks for that, the worker looks for a list."""
    asked, looked = (min(timeit.repeat(what, number=1000)) for what in (log.is_wanted, lambda: Log.lines is None))
    return (asked + looked) * 1000


def row(case: Case, ours: list[float], peer: list[float]) -> str:
    ours_ms, peer_ms = (statistics.median(seconds) * 1000 for seconds in (ours, peer))
    ratio = ours_ms / peer_ms
    aim = "" if case.aim is None else f"≤ {case.aim:g}"
    verdict = "" if case.aim is None else "ok" if ratio <= case.aim else "MISSED"
    return line(case.name, f"{ours_ms:.3f}", case.peer_name, f"{peer_ms:.3f}", f"{ratio:.2f}", aim, verdict)


def line(case: str, ours: str, peer: str, theirs: str, ratio: str, aim: str, verdict: str) -> str:
    return f"| {case:40} | {ours:>8} | {peer:30} | {theirs:>8} | {ratio:>5} | {aim:>5} | {verdict:6} |\n"


def conditions(backend: Backend, rounds: int) -> str:
    user = "root" if os.geteuid() == 0 else "plain user"
    threads = len(os.listdir("/proc/self/task"))
    return (
        f"aions {__version__}, Python {platform.python_version()}, {backend.name}, Linux {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} CPUs with a load of {os.getloadavg()[0]:.1f}, "
        f"{user}, {rounds} rounds, {own_kilobytes() / 1000:.0f} MB with {threads} threads\n\n"
    )


async def main(backend: Backend, rounds: int, only: str) -> None:
    write = sys.stdout.write
    async with all_cases(backend) as cases:
        chosen = [case for case in cases if only in case.name]
        if not chosen:
            sys.exit(f"no case has {only!r} in its name")
        write(conditions(backend, rounds))
        write(line("case", "aions ms", "against", "ms", "ratio", "aim", ""))
        write(line("---", "---:", "---", "---:", "---:", "---:", "---"))
        to_measure = [case for case in chosen if case.left_out is None]
        for case, (ours, peer) in zip(to_measure, await measure(to_measure, rounds), strict=True):
            write(row(case, ours, peer))
        write("\n")
        for case in chosen:
            if case.left_out is not None:
                write(f"Left out: {case.name} against {case.peer_name}: {case.left_out}.\n")
    write(f"Private memory of an idle worker: {await private_memory():.0f} kB.\n")
    write(f"The log, while it is off: {cost_of_no_log():.2f} µs a call.\n")
    late = [f"{seconds * 1000:.1f} ms {when}" for when, seconds in (await delays(DELAY_ROUNDS)).items()]
    write(f"The event loop answers within {', '.join(late)}.\n")


async def measure_many(backend: Backend) -> None:
    sys.stdout.write(conditions(backend, many.ROUNDS) + many.HEADER)
    async for row in many.rows():
        sys.stdout.write(row)
        sys.stdout.flush()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often every case is measured (default: %(default)s)")
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--only", default="", metavar="NAME", help="only the cases that have this in their name")
    parser.add_argument(
        "--one-cpu", action="store_true", help="stay on one CPU: without the time that an idle one takes to wake"
    )
    parser.add_argument("--big-app", action="store_true", help="measure in a program of 500 MB with 20 threads")
    parser.add_argument("--many", action="store_true", help="measure ten thousand network namespaces instead; as root")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    if options.one_cpu:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    backend = Backend(options.backend)
    memory = grow(*BIG_APP) if options.big_app else None
    if options.many and os.geteuid():
        sys.exit("--many takes root")
    what = partial(measure_many, backend) if options.many else partial(main, backend, options.rounds, options.only)
    anyio.run(what, backend=backend.for_anyio, backend_options=backend.options)
