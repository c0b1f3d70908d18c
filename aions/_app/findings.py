"""What a diagnosis consists of."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from aions._app.explain_mounts import ASK_THE_DOCTOR


class Verdict(enum.Enum):
    """How well something works here."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing: how well it works, why, and what mends it (a command, mostly)."""

    subject: str
    verdict: Verdict
    why: str
    remedy: str | None = None


def ok(subject: str, why: str) -> Finding:
    return Finding(subject, Verdict.OK, why)


def limited(subject: str, why: str, remedy: str | None = None) -> Finding:
    return Finding(subject, Verdict.LIMITED, why, remedy)


def missing(subject: str, why: str, remedy: str | None = None) -> Finding:
    return Finding(subject, Verdict.MISSING, why, remedy)


def refused(subject: str, error: Exception, remedy: str | None = None) -> Finding:
    """Make a finding of an error: of the call that its notes name, why it was refused, and what helps."""
    notes: list[str] = getattr(error, "__notes__", [])
    remedies = [note.removeprefix("Remedy: ").removesuffix(ASK_THE_DOCTOR) for note in notes if note.startswith("Remedy: ")]
    reasons = [note.removeprefix("Probable cause: ") for note in notes[1:] if not note.startswith("Remedy: ")]
    said = str(error)
    if isinstance(error, OSError) and notes:
        said = f"{notes[0].partition(' was refused in ')[0]}: {error.strerror}."
    return missing(subject, " ".join([said, *reasons]), remedy or next(iter(remedies), None))
