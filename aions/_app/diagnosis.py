"""What this machine allows this user."""

from __future__ import annotations

from aions._app import switches, trials
from aions._app.findings import Finding


async def diagnose() -> list[Finding]:
    """Find out what this machine allows this user: as data what `aions doctor` prints.

    Namespaces, identities and features of the kernel are tried, in throw-away workers. Switches of the system, which may be why
    something does not work, are read. Nothing is changed.
    """
    return [*await trials.all_findings(), *switches.all_findings()]
