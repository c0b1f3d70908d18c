"""What the machine can do, tried once; and who may run which test.

A test that needs what the machine lacks is skipped, unless AIONS_KERNEL_TESTS=require: then it fails. A test that is only for
root, or only for a plain user, is left out for the other: both run the suite.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kept_statuses import are_kept

REQUIRED = os.environ.get("AIONS_KERNEL_TESTS") == "require"


@functools.cache
def can(*command: str) -> bool:
    """Whether a command works here."""
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def unused_nss_libraries() -> list[Path]:
    """Return modules of the C library for looking up names that are installed and, being of no use to most, in no use."""
    return [path for name in ("compat", "hesiod") for path in Path("/usr").glob(f"lib*/**/libnss_{name}.so.2")]


CAPABILITIES = {
    "namespaces": lambda: can("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"),
    "time_namespaces": lambda: can("unshare", "--user", "--map-root-user", "--time", "true"),
    "newuidmap": lambda: os.geteuid() == 0 or can("unshare", "--user", "--map-auto", "--map-root-user", "true"),
    "ip": lambda: can("ip", "-Version"),
    "tmux": lambda: can("tmux", "-V"),
    "usr_as_root": lambda: can("unshare", "--map-root-user", "--root=/usr", "/bin/sh", "-c", ":"),
    "kept_statuses": lambda: bool(are_kept()),
    "nss_library": lambda: bool(unused_nss_libraries()),
    "fuse": lambda: can("sh", "-c", "exec 3<>/dev/fuse"),
    "strace": lambda: can("strace", "-o", "/dev/null", "true"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): what the machine must be able to do (tests/kernel/conftest.py)")
    config.addinivalue_line("markers", "root: only for root")
    config.addinivalue_line("markers", "plain_user: only for a plain user")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other = "plain_user" if os.geteuid() == 0 else "root"
    left_out = [item for item in items if item.get_closest_marker(other)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.needs("namespaces"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for capability in marker.args:
            if not CAPABILITIES[capability]():
                reason = f"this machine cannot do: {capability}"
                pytest.fail(reason) if REQUIRED else pytest.skip(reason)
