"""What a command gets under which number, and that the worker has its own descriptors back afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Sequence

import pytest

from aions._wire.messages import Spawn
from aions._worker.commands import _Placed
from tests.wire.full_table import room_for
from tests.worker.apart import apart


def request(standard: Sequence[int], passed: Sequence[int], numbers: Sequence[int]) -> Spawn:
    stdin, stdout, stderr = standard
    return Spawn(
        arguments=("true",),
        shell=False,
        directory=None,
        environment={},
        process_group=0,
        session=0,
        new_session=False,
        user=None,
        group=None,
        extra_groups=None,
        umask=-1,
        pass_fds=tuple(numbers),
        exit=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        passed=tuple(passed),
    )


def named_file(name: str, number: int) -> int:
    """Open a file with a name of its own, under this number."""
    memfd = os.memfd_create(name)
    if memfd != number:
        os.dup2(memfd, number, inheritable=False)
        os.close(memfd)
    return number


def name_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}").removeprefix("/memfd:").removesuffix(" (deleted)")


def table() -> dict[int, tuple[str, bool]]:
    """Return all that is open here: under each number a name, and whether a command would inherit it."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that listdir itself used
            found[number] = name_of(number), os.get_inheritable(number)
    return found


def in_a_worker(test: Callable[[], None]) -> None:
    """Run a test where the numbers from 10 on are free, and check that it leaves the table as it was."""

    def worker() -> None:
        os.closerange(10, 900)
        test()

    apart(worker)


def place_and_check(standard: Sequence[int], passed: Sequence[int], numbers: Sequence[int]) -> None:
    """Place descriptors, check that each number has the right one meanwhile, and that afterwards all is as before."""
    before = table()
    with _Placed(request(standard, passed, numbers)) as placed:
        during = table()
        assert [during[number][0] for number in placed] == [before[number][0] for number in standard]
        assert [during[number][0] for number in numbers] == [before[number][0] for number in passed]
    assert table() == before


def test_without_descriptors_to_pass_the_streams_are_taken_as_they_came() -> None:
    with _Placed(request((10, 11, 12), (), ())) as placed:
        assert placed == (10, 11, 12)


@pytest.mark.parametrize(
    ("standard", "passed", "numbers"),
    [
        ((20, 21, 22), (23,), (50,)),
        ((20, 21, 22), (23, 24), (24, 23)),
        ((20, 21, 22), (23, 24, 25), (24, 25, 23)),
        ((20, 21, 22), (23,), (23,)),
        ((20, 21, 22), (23, 24, 25), (20, 21, 22)),
        ((20, 21, 22), (23, 24), (10, 11)),
        ((20, 20, 20), (20, 20), (21, 20)),
        ((20, 21, 22), (23, 24, 25, 26), (26, 10, 60, 20)),
    ],
)
def test_numbers_that_are_taken_are_lent_and_come_back(
    standard: tuple[int, ...], passed: tuple[int, ...], numbers: tuple[int, ...]
) -> None:
    def worker() -> None:
        for number in (10, 11, *range(20, 30)):
            named_file(f"file {number}", number)
        place_and_check(standard, passed, numbers)

    in_a_worker(worker)


def test_any_numbers_are_lent_and_come_back() -> None:
    def worker() -> None:
        rng = random.Random(1)
        for _ in range(200):
            os.closerange(10, 100)
            opened = [named_file(f"file {number}", number) for number in rng.sample(range(10, 40), rng.randrange(4, 20))]
            received = rng.sample(opened, rng.randrange(4, len(opened) + 1))
            passed = received[3:]
            place_and_check(received[:3], passed, rng.sample(range(10, 50), len(passed)))

    in_a_worker(worker)


def test_all_comes_back_after_an_error() -> None:
    def worker() -> None:
        for number in (10, 20, 21, 22, 23):
            named_file(f"file {number}", number)
        before = table()
        with contextlib.suppress(ZeroDivisionError), _Placed(request((20, 21, 22), (23, 23), (10, 11))):
            _ = 1 / 0
        assert table() == before

    in_a_worker(worker)


def test_where_there_is_no_room_nothing_is_lost() -> None:
    def worker() -> None:
        for number in (10, 11, 20, 21, 22, 23):
            named_file(f"file {number}", number)
        before = table()
        outcomes = []
        for room in range(40):
            outcome = 0
            with room_for(room):
                try:
                    with _Placed(request((20, 21, 22), (23, 23), (10, 11))):
                        pass
                except OSError as error:
                    outcome = error.errno or -1
            assert table() == before, f"with room for {room}"
            outcomes.append(outcome)
        assert {errno.EMFILE, 0} <= set(outcomes) <= {errno.EINVAL, errno.EMFILE, 0}
        assert outcomes[-1] == 0

    in_a_worker(worker)
