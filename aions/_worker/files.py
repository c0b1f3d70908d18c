"""Files, opened where the worker is."""

from __future__ import annotations

import os

from aions._sys.calls import call
from aions._wire.messages import Opened, OpenFile
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers


def open_file(_server: Server, request: OpenFile) -> Opened:
    path, flags, mode = request.path, request.flags | os.O_CLOEXEC, request.mode
    text = f'openat(AT_FDCWD, "{path}", {flags:#o}, {mode:#o})'
    return Opened(call(lambda: text, os.open, path, flags, mode, path=path))


HANDLERS: Handlers = {"OpenFile": open_file}
