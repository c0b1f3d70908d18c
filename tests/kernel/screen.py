"""For tests: a shell in a real terminal, which tmux plays."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 20
"""Seconds after which what should have appeared on the screen is taken never to come."""

AIONS = f"{shlex.quote(sys.executable)} -m aions"

SHELL = "bash --norc --noprofile -i"
"""An interactive shell without the settings of whoever runs the tests."""


class Screen:
    """A tmux server of its own with one terminal, and in it a shell with job control, whose prompt is "outer> "."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "tmux"
        self._seen = 0
        self._environment = {**os.environ, "PS1": "outer> ", "HISTFILE": "", "TERM": "screen", "LC_ALL": "C.UTF-8"}
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "50", *SHELL.split())

    def __enter__(self) -> Screen:
        self.expect("outer> ")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout

    def text(self) -> str:
        """Return what the terminal shows, and what has scrolled out of it; long lines in one piece."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-1000").rstrip("\n")

    def keys(self, *keys: str) -> None:
        """Press keys: "C-c", "C-z", "Enter"."""
        self._tmux("send-keys", *keys)

    def enter(self, line: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", "--", line)
        self.keys("Enter")

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until something new appears, below all that was expected before."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = re.compile(pattern, re.MULTILINE).search(self.text(), self._seen)
            if found:
                self._seen = found.end()
                return found
            time.sleep(0.01)
        raise AssertionError(f"{pattern!r} does not appear on the screen:\n{self.text()}")

    def run(self, line: str, prompt: str) -> str:
        """Have a shell run a line that does not wait for anything, and return what that prints."""
        self.enter(line)
        self.expect(re.escape(line))
        start = self._seen
        self.expect(f"^{prompt}")
        return self.text()[start : self._seen].rpartition("\n")[0].strip()
