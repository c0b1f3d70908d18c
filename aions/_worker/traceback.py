"""Tracebacks without source lines.

SECURITY: reading those would open files of wherever the worker is, and a planted FIFO would hold it up for ever.
"""

from __future__ import annotations

from types import TracebackType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def describe(traceback: TracebackType | None) -> str:
    """Write down where an exception came through, as Python does but for the code."""
    lines = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}')
        traceback = traceback.tb_next
    return "\n".join(lines)


def describe_all(error: BaseException) -> str:
    """Write down where an exception came through, and those that it came from or that are in it."""
    sections = []
    met = [error]
    pending = [("Traceback in the worker (most recent call last):", error)]
    for heading, each in pending:  # grows as it goes
        sections += [heading, *filter(None, [describe(each.__traceback__)])]
        for how, other in _related(each):
            if all(other is not one for one in met):
                met.append(other)
                pending.append((f"{_short(other)} {how} {_short(each)}:", other))
    return "\n".join(sections)


def _related(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    if error.__cause__ is not None:
        yield "was the direct cause of", error.__cause__
    elif error.__context__ is not None and not error.__suppress_context__:
        yield "was being handled before", error.__context__
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield "is one of", member


def _short(error: BaseException) -> str:
    try:
        return f"{error!r:.200}"
    except Exception:
        return type(error).__qualname__
