"""Files, opened where the worker is."""

from __future__ import annotations

import errno
import os

from aions._sys.calls import KernelError, call
from aions._wire.messages import Opened, OpenFile
from aions._worker import paths
from aions._worker.loop import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aions._worker.loop import Handlers


def open_file(server: Server, request: OpenFile) -> Opened:
    path, flags, mode = request.path, request.flags | os.O_CLOEXEC, request.mode
    how = paths.opened if request.may_wait else paths.opened_at_once
    text = f'openat(AT_FDCWD, "{path}", {flags:#o}, {mode:#o})'
    try:
        return Opened(call(lambda: text, how, server, path, flags, mode, path=path))
    except KernelError as error:
        if error.errno == errno.ELOOP and not server.home.has_same_files():
            error.hint = paths.NO_MAGIC_LINKS
        raise


HANDLERS: Handlers = {"OpenFile": open_file}
