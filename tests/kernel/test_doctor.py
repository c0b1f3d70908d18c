"""`aions doctor` and `diagnose`: what is tried, here and where less is allowed, and that nothing is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aions import Finding, Namespace, Verdict, diagnose
from tests.kernel.scripts import ROOT, run_script
from tests.kernel.targets import on_one_loop

KINDS = {f"{kind.kernel_name} namespace" for kind in Namespace}


def by_subject(findings: Sequence[Finding]) -> dict[str, Finding]:
    found = {finding.subject: finding for finding in findings}
    assert len(found) == len(findings)
    return found


def settings() -> dict[str, str]:
    return {str(path): path.read_text() for path in Path("/proc/sys/user").iterdir()}


@pytest.mark.needs("time_namespaces", "newuidmap")
async def test_what_works_here_is_found_to_work() -> None:
    before = settings()
    found = by_subject(await diagnose())
    for subject in (*KINDS, "nesting", "ids inside", "setns(pidfd)"):
        assert found[subject].verdict is Verdict.OK, found[subject]
        assert found[subject].remedy is None
    assert found["nesting"].why.startswith("33 ")
    assert ("with a user namespace" in found["net namespace"].why) == (os.geteuid() != 0)
    assert settings() == before


def doctor(*options: str, under: Sequence[str] = (), environment: dict[str, str] | None = None) -> tuple[int, str]:
    command = [*under, sys.executable, "-m", "aions", "doctor", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert not finished.stderr, finished.stderr
    return finished.returncode, finished.stdout


def doctor_as_json(**options: Any) -> dict[str, dict[str, str | None]]:
    _, output = doctor("--json", **options)
    return {finding.pop("subject"): finding for finding in json.loads(output)}


@pytest.mark.needs("time_namespaces", "newuidmap")
def test_the_doctor_says_the_same_in_words_and_as_json() -> None:
    status, text = doctor()
    assert status == 0
    lines = [line for line in text.splitlines() if "  -> " not in line]
    findings = doctor_as_json()
    assert [line.split(maxsplit=1)[0] for line in lines] == [finding["verdict"] for finding in findings.values()]
    for (subject, finding), line in zip(findings.items(), lines, strict=True):
        assert subject in line
        assert str(finding["why"]) in line
        assert finding["remedy"] is None or f"-> {finding['remedy']}\n" in text


@pytest.mark.parametrize("words", [["net"], ["--json", "net"], ["--", "net"], ["--jsn"]], ids=" ".join)
def test_the_doctor_takes_no_other_words(words: list[str]) -> None:
    command = [sys.executable, "-m", "aions", "doctor", *words]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("usage: aions doctor [--json]\n")
    assert words[-1] in finished.stderr


LIMIT = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_"$0"_namespaces; exec "$@"']


def test_a_quota_is_told() -> None:
    findings = doctor_as_json(under=[*LIMIT, "net"])
    assert findings["net namespace"]["verdict"] == "missing"
    assert "No space left on device" in str(findings["net namespace"]["why"])
    assert findings["uts namespace"]["verdict"] == "ok"
    assert findings["quotas"]["remedy"] == "sysctl -w user.max_net_namespaces=15000"
    assert findings["container"]["verdict"] == "limited"
    assert doctor(under=[*LIMIT, "net"])[0] == 1


def test_without_user_namespaces_it_is_told_what_allows_them() -> None:
    findings = doctor_as_json(under=[*LIMIT, "user"])
    assert findings["user namespace"]["verdict"] == "missing"
    assert findings["user namespace"]["remedy"] == "sysctl -w user.max_user_namespaces=15000"
    assert findings["net namespace"]["verdict"] == "ok", "root of a user namespace needs no other"
    assert findings["NS_GET_ID"]
    assert "nesting" not in findings


def test_it_is_told_where_ones_own_ids_are_not_mapped() -> None:
    findings = doctor_as_json(under=["unshare", "--user"])
    assert findings["user namespace"]["verdict"] == "missing"
    assert "has no id 65534" in str(findings["user namespace"]["why"])
    assert "have this one mapped" in str(findings["user namespace"]["remedy"])
    assert findings["NS_GET_ID"]


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
def test_it_is_told_where_subordinate_ids_are_listed_but_not_mapped() -> None:
    """As in a container that shows the host's /etc/subuid."""
    findings = doctor_as_json(under=["unshare", "--user", "--map-current-user"])
    assert findings["ids inside"]["verdict"] == "missing"
    assert "has no id " in str(findings["ids inside"]["why"])
    assert "have this one mapped" in str(findings["ids inside"]["remedy"])
    assert findings["nesting"]["verdict"] == "ok"


@pytest.mark.plain_user
def test_a_plain_user_without_newuidmap(tmp_path: Path) -> None:
    findings = doctor_as_json(environment={"PATH": str(tmp_path)})
    assert findings["ids inside"]["verdict"] == "missing"
    assert findings["ids inside"]["remedy"] == "apt install uidmap"


@pytest.mark.plain_user
@pytest.mark.needs("newuidmap")
def test_a_plain_user_under_no_new_privs() -> None:
    findings = doctor_as_json(under=["setpriv", "--no-new-privs"])
    assert findings["ids inside"]["verdict"] == "missing"
    assert "newuidmap" in str(findings["ids inside"]["why"])
    assert findings["no_new_privs"]["verdict"] == "limited"
    assert findings["user namespace"]["verdict"] == "ok"


def test_seccomp_as_in_docker_is_told(tmp_path: Path) -> None:
    program = """
        from aions._cli.main import main
        from tests.kernel.programs import seccomp

        seccomp.deny("unshare", "setns", "mount")
        try:
            main(["doctor", "--json"])
        except SystemExit as ended:
            assert ended.code == 1
        """
    findings = {finding["subject"]: finding for finding in json.loads("\n".join(run_script(tmp_path, program)))}
    for subject in KINDS:
        assert findings[subject]["verdict"] == "missing"
        assert "seccomp" in findings[subject]["why"]
        assert "--security-opt seccomp=unconfined" in findings[subject]["remedy"]
    assert findings["seccomp"]["verdict"] == "limited"


def test_namespaces_without_capabilities_are_told(tmp_path: Path) -> None:
    """As on Ubuntu, where AppArmor lets a plain user make user namespaces, and nothing be done in them."""
    program = """
        from aions._cli.main import main
        from tests.kernel.programs import seccomp

        seccomp.deny("sethostname")
        seccomp.deny("ioctl", second_argument=0x8914)  # SIOCSIFFLAGS
        try:
            main(["doctor", "--json"])
        except SystemExit as ended:
            assert ended.code == 1
        """
    findings = {finding["subject"]: finding for finding in json.loads("\n".join(run_script(tmp_path, program)))}
    assert findings["user namespace"]["verdict"] == "ok"
    for subject, call in (("uts namespace", "sethostname("), ("net namespace", "ioctl(SIOCSIFFLAGS")):
        assert findings[subject]["verdict"] == "missing"
        assert findings[subject]["why"].startswith(call)
        assert "kernel.apparmor_restrict_unprivileged_userns" in findings[subject]["why"]
        assert "aions doctor" not in str(findings[subject])


@on_one_loop
async def test_a_diagnosis_needs_nothing_else_to_be_open() -> None:
    assert await diagnose() == await diagnose()
