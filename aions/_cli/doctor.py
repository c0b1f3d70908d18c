"""`aions doctor`: what this machine allows this user, and what mends what it does not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable

from aions import Finding, Verdict, diagnose
from aions._cli.ending import Ended
from aions._cli.options import Options

WHAT = "find out what this machine allows this user"
USAGE = "[--json]"
EPILOG = "It tries in processes of its own, and changes nothing. The status is 1 if anything is missing."


def add_options(options: Options) -> None:
    """Declare the option."""
    options.flag("--json", help="print it as JSON")
    options.take_no_command()


async def run(options: argparse.Namespace) -> Ended:
    """Print a diagnosis. The status is 1 if anything is missing."""
    findings = await diagnose()
    sys.stdout.write(_as_json(findings) if options.json else _as_text(findings))
    return Ended(int(any(finding.verdict is Verdict.MISSING for finding in findings)))


def _as_json(findings: Iterable[Finding]) -> str:
    return json.dumps([vars(finding) | {"verdict": finding.verdict.value} for finding in findings], indent=2) + "\n"


def _as_text(findings: list[Finding]) -> str:
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict.value:7}  {finding.subject:{width}}  {finding.why}\n")
        if finding.remedy is not None:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}\n")
    return "".join(lines)
