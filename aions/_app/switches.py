"""What of the system may keep a user from namespaces: read, not tried, and not changed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aions._app.findings import Finding, limited, missing, ok

_FEW = 100
"""Fewer namespaces than this are soon used up."""

_SANDBOX = re.compile(r"docker|containerd|kubepods|libpod|lxc")


def all_findings(root: Path = Path("/")) -> list[Finding]:
    """Read everything, below another directory for a test."""
    return [
        _quotas(root),
        _apparmor(root),
        _debian(root),
        _seccomp(root),
        _no_new_privs(root),
        _container(root),
        _cgroups(root),
    ]


def why_no_user_namespace(root: Path = Path("/")) -> str | None:
    """Return the command that mends the most probable reason why user namespaces are refused, or are of no use."""
    for finding in (_debian(root), _apparmor(root), _quotas(root), _seccomp(root)):
        if finding.remedy is not None:
            return finding.remedy
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _quotas(root: Path) -> Finding:
    """RHEL 7 and later forbid user namespaces by a quota of 0."""
    quotas = {path.name: int(_read(path) or 0) for path in sorted((root / "proc/sys/user").glob("max_*_namespaces"))}
    low = {name: quota for name, quota in quotas.items() if quota < _FEW}
    if not low:
        least = min(quotas.values(), default=0)
        return ok("quotas", f"{least} namespaces or more of each kind (/proc/sys/user/max_*_namespaces)")
    remedy = "; ".join(f"sysctl -w user.{name}=15000" for name in low)
    why = ", ".join(f"user.{name} is {quota}" for name, quota in low.items())
    return missing("quotas", why, remedy) if 0 in low.values() else limited("quotas", why, remedy)


def _apparmor(root: Path) -> Finding:
    """Ubuntu 23.10 and later."""
    subject, name = "AppArmor", "kernel.apparmor_restrict_unprivileged_userns"
    if _read(root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns") != "1":
        return ok(subject, f"{name} is not set")
    why = f"{name} is 1: in user namespaces of plain users without a profile that allows it, capabilities do nothing"
    return limited(subject, why, f"sysctl -w {name}=0, or an AppArmor profile with `userns,` for this program")


def _debian(root: Path) -> Finding:
    """Debian before 11, and some hardened kernels."""
    subject, name = "unprivileged user namespaces", "kernel.unprivileged_userns_clone"
    if _read(root / "proc/sys/kernel/unprivileged_userns_clone") != "0":
        return ok(subject, f"{name} does not forbid them")
    return limited(subject, f"{name} is 0: only root may make user namespaces", f"sysctl -w {name}=1")


def _status(root: Path, field: str) -> str:
    lines = (_read(root / "proc/self/status") or "").splitlines()
    return next((line.split()[1] for line in lines if line.startswith(f"{field}:")), "0")


def _seccomp(root: Path) -> Finding:
    if _status(root, "Seccomp") == "0":
        return ok("seccomp", "no filter is in force")
    why = "a filter is in force (a container's, systemd's SystemCallFilter= or RestrictNamespaces=), which may refuse calls"
    return limited("seccomp", why, "in Docker or Podman: --security-opt seccomp=unconfined")


def _no_new_privs(root: Path) -> Finding:
    if _status(root, "NoNewPrivs") == "0":
        return ok("no_new_privs", "it is not set")
    why = "it is set: setuid programs, newuidmap and newgidmap among them, do nothing"
    return limited("no_new_privs", why, "start without it (systemd: NoNewPrivileges=no; Docker: no no-new-privileges)")


def _container(root: Path) -> Finding:
    signs = [path for path in (".dockerenv", "run/.containerenv", "run/systemd/container") if (root / path).exists()]
    groups = _read(root / "proc/1/cgroup") or ""
    if _SANDBOX.search(groups):
        signs.append("proc/1/cgroup")
    if (_read(root / "proc/self/uid_map") or "").split() != ["0", "0", "4294967295"]:
        signs.append("proc/self/uid_map")
    if not signs:
        return ok("container", "there is no sign of being in one")
    why = f"there are signs of being in one ({', '.join(f'/{sign}' for sign in signs)}): what it does not allow is not here"
    return limited("container", why)


def _cgroups(root: Path) -> Finding:
    """KERNEL: cgroup namespaces work with both versions; delegation to a plain user takes version 2."""
    mounts = re.findall(r"^\S+ \S+ \S+ \S+ (\S+) .* - (cgroup2?) ", _read(root / "proc/self/mountinfo") or "", re.MULTILINE)
    unified = next((path for path, kind in mounts if kind == "cgroup2"), None)
    if unified is None:
        why = "version 1" if mounts else "none is mounted"
        return limited("cgroups", why, "boot with systemd.unified_cgroup_hierarchy=1")
    if unified != "/sys/fs/cgroup":
        return limited("cgroups", f"version 1, with 2 beside it at {unified}", "boot with systemd.unified_cgroup_hierarchy=1")
    own = (_read(root / "proc/self/cgroup") or "0::/").rpartition("0::/")[2]
    if os.access(root / "sys/fs/cgroup" / own, os.W_OK):
        return ok("cgroups", f"version 2; /sys/fs/cgroup/{own} is writable")
    return limited(
        "cgroups", f"version 2; /sys/fs/cgroup/{own} is not writable", "systemd-run --user --scope -p Delegate=yes …"
    )
