"""Calling a function that the app sent, with what it needs to be found: the app's sys.path and its __main__."""

from __future__ import annotations

import _pickle as pickle
import os
import sys
from errno import ENOMEM

from aions._errors import AionsError
from aions._sys import proc as procfs
from aions._wire.messages import Called, CallFunction
from aions._wire.payload import LARGEST_RESULT, packed, unpacked
from aions._worker import signals
from aions._worker.loop import Server
from aions._worker.traceback import describe_all

_PROTOCOL = 5

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def import_modules(path: tuple[str, ...], modules: tuple[str, ...]) -> None:
    """Import modules from the app's sys.path."""
    sys.path[:] = path
    for name in modules:
        try:
            __import__(name)
        except ImportError:
            _look_again()
            __import__(name)


def call(server: Server, request: CallFunction) -> Called:
    """Call the function and send its outcome home."""
    server.children.enter_function()
    pid, name = os.getpid(), None
    if server.threads_from is not None:
        _look_for_threads(server, name)  # those of an earlier function may be gone
    try:
        function, arguments = _unpickled(request)
        name = getattr(function, "__qualname__", repr(function))
        outcome = True, function(*arguments)
    except BaseException as error:
        error.add_note(describe_all(error))
        _explain(server, error)
        outcome = False, error
    if os.getpid() != pid or not server.children.in_function:
        os._exit(0)  # the function has forked, and this is its child
    _recover(server)
    _look_for_threads(server, name)
    return Called(*packed(_limited(_pickled(*outcome))))


def _look_for_threads(server: Server, name: str | None) -> None:
    """Remember which function was the first after which there were other threads than this one."""
    if procfs.thread_count(server.home.proc) == 1:
        server.threads_from = None
    else:
        server.threads_from = server.threads_from or name


_NO_THREADS = (
    "The worker has unshared or entered a pid namespace that only its children are in, and can start no threads (clone(2)): "
    "call the function in a fork of it (Worker.fork)."
)


_NO_PROCESSES = (
    "The first process of the pid namespace that the worker's children are in has ended, and with it the namespace: nothing "
    "can start in it any more (clone(2)). Open a new worker."
)


def _explain(server: Server, error: BaseException) -> None:
    """Add to an error of a worker whose children are to be in another pid namespace what that has to do with it."""
    if isinstance(error, RuntimeError) and "thread" in str(error):
        note = _NO_THREADS
    elif isinstance(error, OSError) and error.errno == ENOMEM:
        note = _NO_PROCESSES
    else:
        return
    if not server.home.is_in_pid_namespace_for_children():  # KERNEL: where threads cannot be
        error.add_note(note)


def _recover(server: Server) -> None:
    """Put right what a function may have changed under the loop."""
    signals.ignore()
    server.children.leave_function()
    server.renew()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # closed, or nobody reads it


def _unpickled(request: CallFunction) -> tuple[Any, tuple[Any, ...]]:
    payload = unpacked(request.call, request.long_call)
    if sys.path != list(request.path):
        sys.path[:] = request.path
    if request.main is not None and b"__main__" in payload and "__mp_main__" not in sys.modules:
        _import_main(request.main)
    try:
        function, arguments = pickle.loads(payload)
    except ImportError:
        _look_again()
        function, arguments = pickle.loads(payload)
    return function, arguments


def _look_again() -> None:
    """Make importable what was written just now, and what .pth files name (editable installations, mostly)."""
    import importlib
    import site

    importlib.invalidate_caches()
    for directory in list(sys.path):
        if directory.endswith("site-packages"):
            site.addsitedir(directory)


def _import_main(path: str) -> None:
    """Load the app's main file as multiprocessing does: under another name, so that its own guard keeps it from running."""
    import runpy

    main = type(sys)("__mp_main__")
    main.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def _dumps(outcome: tuple[bool, Any]) -> bytes:
    """Pickle, by value where that is how the function came and there is no other way."""
    try:
        return pickle.dumps(outcome, _PROTOCOL)
    except Exception:
        if "cloudpickle" not in sys.modules:
            raise
        payload: bytes = sys.modules["cloudpickle"].dumps(outcome, _PROTOCOL)
        return payload


def _limited(payload: bytes) -> bytes:
    """Return a pickled outcome, or one that says that it is too long."""
    if len(payload) <= LARGEST_RESULT:
        return payload
    return _pickled(
        False,
        AionsError(
            f"what the function returned or raised takes {len(payload)} bytes when it is pickled, and {LARGEST_RESULT} are the "
            "limit: write it to a file, and open that with Worker.open_file"
        ),
    )


def _pickled(returned: bool, value: Any) -> bytes:
    """Pickle an outcome. An exception that cannot make the journey is replaced by one that says so."""
    try:
        payload = _dumps((returned, value))
        if not returned:
            pickle.loads(payload)
        return payload
    except Exception as error:
        if returned:
            return _pickled(False, error)
        stand_in = AionsError(f"{type(value).__module__}.{type(value).__qualname__}: {value}")
        for note in getattr(value, "__notes__", ()):
            stand_in.add_note(note)
        return pickle.dumps((False, stand_in), _PROTOCOL)
