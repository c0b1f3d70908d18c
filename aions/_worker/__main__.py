"""Start the forkserver: `python -P -s -S …/aions/_worker/__main__.py SOCKET APP STDOUT STDERR`, numbers of descriptors.

SOCKET is the forkserver's end of its connection, APP a pidfd of the app; STDOUT and STDERR are what it is to have as these. The
process forks at once and its parent ends, so that the forkserver is no child of the app: the app's own `os.wait()` never meets
it. Until it serves, its stdout and stderr are a pipe to the app, which so learns what went wrong.

The package is not imported here but put up by hand, because `aions/__init__.py` would import anyio. A function that the user
sends may want the real package: then, and only then, it is loaded (PEP 562).
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def put_up_package(directory: str) -> None:
    """Make `aions._worker` and its like importable, without what `aions/__init__.py` imports."""
    package = ModuleType("aions")
    package.__path__ = [directory]

    def load_the_rest(name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # which `from aions import *` asks for
            raise AttributeError(name)
        from importlib.util import spec_from_file_location

        del package.__dict__["__getattr__"]
        spec = spec_from_file_location("aions", os.path.join(directory, "__init__.py"))
        assert spec is not None
        assert spec.loader is not None
        package.__spec__ = spec
        spec.loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__getattr__"] = load_the_rest
    sys.modules["aions"] = package


def main() -> None:
    """Become the forkserver."""
    put_up_package(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from aions._worker import interpreter

    interpreter.run_from_read_only_copy()
    os.environ.clear()  # its work is done, and nothing of it is for those that are forked
    try:
        if os.fork():
            os._exit(0)
        from aions._worker.forkserver import started

        server = started(*map(int, sys.argv[1:5]))
    except OSError as error:
        from aions._wire.messages import REFUSED

        os.write(1, REFUSED % error.errno)
        os._exit(1)
    server.serve()


if __name__ == "__main__":
    main()
