"""What a command gets under which number, and that the worker's own descriptors stay as they are."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Callable, Sequence

import pytest

from aions._sys.calls import KernelError
from aions._wire.messages import Spawn
from aions._worker.commands import Command, Placed, _forked, _place
from aions._worker.home import Home
from aions._worker.loop import Server
from tests.wire.full_table import room_for
from tests.worker.apart import apart


def request(standard: Sequence[int], passed: Sequence[int], numbers: Sequence[int], umask: int = -1) -> Spawn:
    stdin, stdout, stderr = standard
    return Spawn(
        arguments=("true",),
        environment=(),
        process_group=0,
        session=0,
        umask=umask,
        pass_fds=tuple(numbers),
        exit=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        passed=tuple(passed),
    )


def server() -> Server:
    """Return a worker's server, whose app is never heard of."""
    _ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Server(theirs, Home(), {})


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
    """Run a test where the numbers from 100 on are free. (libuv holds on to lower ones across a fork.)"""

    def worker() -> None:
        os.closerange(100, 900)
        test()

    apart(worker)


def place_and_check(standard: Sequence[int], passed: Sequence[int], numbers: Sequence[int]) -> None:
    """Place descriptors in a fork, check that each number has the right one there, and that here all is as before."""
    before = table()
    wanted = [before[number][0] for number in (*standard, *passed)]
    with Placed(request(standard, passed, numbers)) as places:

        def command() -> None:
            _place(places)
            there = table()
            assert [there[number] for number in (0, 1, 2, *numbers)] == [(name, True) for name in wanted]

        apart(command)
    assert table() == before


@pytest.mark.parametrize(
    ("standard", "passed", "numbers"),
    [
        ((120, 121, 122), (123,), (150,)),
        ((120, 121, 122), (123, 124), (124, 123)),
        ((120, 121, 122), (123, 124, 125), (124, 125, 123)),
        ((120, 121, 122), (123,), (123,)),
        ((120, 121, 122), (123, 124, 125), (120, 121, 122)),
        ((120, 121, 122), (123, 124), (110, 111)),
        ((120, 120, 120), (120, 120), (121, 120)),
        ((120, 121, 122), (123, 124, 125, 126), (126, 110, 160, 120)),
    ],
)
def test_a_command_gets_each_descriptor_under_its_number(
    standard: tuple[int, ...], passed: tuple[int, ...], numbers: tuple[int, ...]
) -> None:
    def worker() -> None:
        for number in (110, 111, *range(120, 130)):
            named_file(f"file {number}", number)
        place_and_check(standard, passed, numbers)

    in_a_worker(worker)


def test_it_gets_any_descriptors_under_any_numbers() -> None:
    def worker() -> None:
        rng = random.Random(1)
        for _ in range(200):
            os.closerange(100, 900)
            opened = [named_file(f"file {number}", number) for number in rng.sample(range(110, 140), rng.randrange(4, 20))]
            received = rng.sample(opened, rng.randrange(4, len(opened) + 1))
            passed = received[3:]
            place_and_check(received[:3], passed, rng.sample(range(110, 150), len(passed)))

    in_a_worker(worker)


def test_nothing_stays_open_after_an_error() -> None:
    def worker() -> None:
        for number in (110, 120, 121, 122, 123):
            named_file(f"file {number}", number)
        before = table()
        with contextlib.suppress(ZeroDivisionError), Placed(request((120, 121, 122), (120, 121), (121, 122))):
            _ = 1 / 0
        assert table() == before

    in_a_worker(worker)


def test_where_there_is_no_room_nothing_is_lost() -> None:
    def worker() -> None:
        for number in (110, 111, 120, 121, 122, 123):
            named_file(f"file {number}", number)
        before = table()
        outcomes = []
        for room in range(40):
            outcome = 0
            with room_for(room):
                try:
                    with Placed(request((120, 121, 122), (120, 121), (121, 122))):
                        pass
                except OSError as error:
                    outcome = error.errno or -1
            assert table() == before, f"with room for {room}"
            outcomes.append(outcome)
        assert set(outcomes) == {errno.EMFILE, 0}
        assert outcomes[-1] == 0

    in_a_worker(worker)


def test_whatever_goes_wrong_before_a_command_runs_is_told() -> None:
    def worker() -> None:
        with pytest.raises(KernelError, match="Invalid argument") as caught:
            _forked(Command(server(), request((0, 1, 2), (), (), umask=2**40), {}, None), ())
        assert "OverflowError" in str(caught.value.hint)

    in_a_worker(worker)
