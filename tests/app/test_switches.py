"""What the system's switches mean: read from a tree of files like that of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from aions import Verdict
from aions._app.switches import all_findings, why_no_user_namespace

FILES = {
    "proc/self/status": "Name:\tpython\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n",
    "proc/self/uid_map": "         0          0 4294967295\n",
    "proc/self/cgroup": "0::/user.slice\n",
    "proc/self/mountinfo": "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
    "proc/1/cgroup": "0::/init.scope\n",
    "proc/sys/user/max_net_namespaces": "60000\n",
    "proc/sys/user/max_user_namespaces": "60000\n",
    "sys/fs/cgroup/user.slice/cgroup.procs": "",
}


def tree(root: Path, **changed: str) -> Path:
    for name, text in {**FILES, **{name.replace("__", "/"): text for name, text in changed.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_machine_that_allows_everything(tmp_path: Path) -> None:
    assert {finding.verdict for finding in all_findings(tree(tmp_path))} == {Verdict.OK}
    assert why_no_user_namespace(tmp_path) is None


LIMITED, MISSING = Verdict.LIMITED, Verdict.MISSING
PROC = "proc__sys__kernel__"


@pytest.mark.parametrize(
    ("file", "text", "subject", "verdict", "why", "remedy"),
    [
        ("proc__sys__user__max_user_namespaces", "0\n", "quotas", MISSING, "is 0", "sysctl -w user.max_user_namespaces=15000"),
        ("proc__sys__user__max_net_namespaces", "9\n", "quotas", LIMITED, "is 9", "sysctl -w user.max_net_namespaces=15000"),
        (f"{PROC}apparmor_restrict_unprivileged_userns", "1\n", "AppArmor", LIMITED, "capabilities do nothing", "_userns=0"),
        (f"{PROC}unprivileged_userns_clone", "0\n", "unprivileged user namespaces", LIMITED, "only root", "_clone=1"),
        ("proc__self__status", "NoNewPrivs:\t0\nSeccomp:\t2\n", "seccomp", LIMITED, "filter is in force", "unconfined"),
        ("proc__self__status", "NoNewPrivs:\t1\nSeccomp:\t0\n", "no_new_privs", LIMITED, "newuidmap", "NoNewPrivileges=no"),
        ("run__.containerenv", "", "container", LIMITED, "/run/.containerenv", None),
        ("proc__1__cgroup", "0::/kubepods/pod1\n", "container", LIMITED, "/proc/1/cgroup", None),
        ("proc__self__uid_map", "0 1000 1\n", "container", LIMITED, "/proc/self/uid_map", None),
        ("proc__self__mountinfo", "", "cgroups", LIMITED, "none is mounted", "unified"),
        ("proc__self__mountinfo", "9 2 0:2 / /c rw - cgroup2 x rw\n", "cgroups", LIMITED, "beside it at /c", "unified"),
        ("proc__self__mountinfo", "9 2 0:2 / /c rw - cgroup x rw,cpu\n", "cgroups", LIMITED, "version 1", "unified"),
        ("proc__self__cgroup", "0::/gone\n", "cgroups", LIMITED, "/sys/fs/cgroup/gone is not writable", "Delegate"),
    ],
)
def test_each_switch_is_told_with_what_mends_it(
    tmp_path: Path, file: str, text: str, subject: str, verdict: Verdict, why: str, remedy: str | None
) -> None:
    (found,) = [finding for finding in all_findings(tree(tmp_path, **{file: text})) if finding.verdict is not Verdict.OK]
    assert (found.subject, found.verdict) == (subject, verdict)
    assert why in found.why
    assert (remedy is None) == (found.remedy is None)
    assert remedy is None or remedy in str(found.remedy)


@pytest.mark.parametrize(
    ("name", "value"), [("apparmor_restrict_unprivileged_userns", "0"), ("unprivileged_userns_clone", "1")]
)
def test_switches_that_forbid_nothing(tmp_path: Path, name: str, value: str) -> None:
    assert {finding.verdict for finding in all_findings(tree(tmp_path, **{f"{PROC}{name}": value}))} == {Verdict.OK}


def test_the_most_probable_reason_is_told_first(tmp_path: Path) -> None:
    tree(tmp_path, proc__sys__user__max_user_namespaces="0", proc__sys__kernel__unprivileged_userns_clone="0")
    assert why_no_user_namespace(tmp_path) == "sysctl -w kernel.unprivileged_userns_clone=1"
