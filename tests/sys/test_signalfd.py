"""Signals through a descriptor."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

import pytest

from aions._sys.calls import KernelError
from aions._sys.signalfd import open_signalfd, receive
from tests.worker.apart import apart

NUMBERS = {signal.SIGUSR1, signal.SIGWINCH, signal.SIGRTMAX}


def with_signalfd(test: Callable[[int], None]) -> None:
    """Run a test in a fork, where there is no other thread that could get its signals."""

    def there() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        test(open_signalfd(NUMBERS))

    apart(there)


def test_nothing_arrives_of_itself() -> None:
    def test(descriptor: int) -> None:
        assert receive(descriptor) is None
        assert not os.get_inheritable(descriptor)

    with_signalfd(test)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_arrives_with_its_code(number: int) -> None:
    def test(descriptor: int) -> None:
        os.kill(os.getpid(), number)
        assert select.select([descriptor], [], [], 0)[0]
        assert receive(descriptor) == (number, 0)  # SI_USER
        assert receive(descriptor) is None

    with_signalfd(test)


def test_a_descriptor_that_is_full_of_signals() -> None:
    def test(descriptor: int) -> None:
        for number in NUMBERS:
            os.kill(os.getpid(), number)
        assert {receive(descriptor) for _ in NUMBERS} == {(number, 0) for number in NUMBERS}

    with_signalfd(test)


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aions._sys.signalfd._signalfd", lambda *_: (_ for _ in ()).throw(OSError(24, "")))
    with pytest.raises(KernelError, match="Too many open files") as caught:
        open_signalfd({2, 15})
    assert caught.value.call == "signalfd(-1, [2, 15])"
