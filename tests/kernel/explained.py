"""What a refusal must say, and whether a worker still works after it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aions import Worker


async def works(worker: Worker) -> bool:
    return (await worker.run_process(["echo", "works"])).stdout == b"works\n"


def named(worker: Worker) -> str:
    """Return what errors call a worker."""
    return f"worker {worker.pid}"


@contextmanager
def refusal(number: int, call: str, where: str, *said: str) -> Iterator[None]:
    """Expect the kernel's refusal, and that it is told from where it came, why, and what helps."""
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        yield
    error = caught.value
    assert error.errno == number
    assert type(error) is type(OSError(number, "")), "the class that Python has for this errno"
    first, *rest = error.__notes__
    assert first.startswith(call)
    assert first.endswith(f" was refused in {where}.")
    assert any(note.startswith("Probable cause: ") for note in rest), rest
    assert any(note.startswith("Remedy: ") for note in rest), rest
    for words in said:
        assert words in "\n".join(rest)
