"""Who imports whom, and what is public."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import aions

PACKAGE = Path(aions.__file__).parent

EVENT_LOOPS = {"anyio", "asyncio", "sniffio", "trio", "uvloop"}
SLOW_TO_IMPORT = {"contextlib", "dataclasses", "inspect", "typing", *EVENT_LOOPS, "threading", "subprocess"}
"""What the forkserver must not wait for before it serves its first request."""


def imported(file: Path) -> Iterator[str]:
    """Yield the full names of what a file imports, wherever in it, from a module the module and the name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(layer: str) -> set[str]:
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    return {name for file in files for name in imported(file)}


def layers_used_by(layer: str) -> set[str]:
    return {name.split(".")[1] for name in imports_of(layer) if name.startswith("aions.")}


def packages_used_by(layer: str) -> set[str]:
    return {name.split(".")[0] for name in imports_of(layer)}


@pytest.mark.parametrize(
    ("layer", "allowed"),
    [
        ("_sys", {"_sys", "_types"}),
        ("_wire", {"_errors", "_wire"}),
        ("_worker", {"_errors", "_sys", "_types", "_wire", "_worker"}),
        ("_app", {"_app", "_errors", "_types", "_version", "_wire"}),
    ],
)
def test_a_layer_uses_only_those_below_it(layer: str, allowed: set[str]) -> None:
    assert layers_used_by(layer) <= allowed


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("_sys", EVENT_LOOPS | {"threading"}),
        ("_wire", EVENT_LOOPS | {"threading", "ctypes"}),
        ("_worker", EVENT_LOOPS | {"threading", "ctypes", "concurrent", "multiprocessing"}),
        ("_app", {"asyncio", "trio", "ctypes", "multiprocessing"}),
    ],
)
def test_a_layer_leaves_alone_what_is_not_its_business(layer: str, forbidden: set[str]) -> None:
    assert packages_used_by(layer) & forbidden == set()


@pytest.mark.parametrize("layer", ["_sys", "_wire", "_worker"])
def test_the_workers_side_uses_the_standard_library_only(layer: str) -> None:
    assert packages_used_by(layer) <= sys.stdlib_module_names | {"aions"}


def test_the_layers_are_all_there_is() -> None:
    assert {path.parent.name for path in PACKAGE.rglob("*.py")} == {"aions", "_app", "_cli", "_sys", "_wire", "_worker"}


START = """
import sys
program = sys.argv[1]
names = {"__name__": "the program", "__file__": program}
exec(compile(open(program).read(), program, "exec"), names)
names["put_up_package"](sys.argv[2])
import aions._worker.forkserver
print(*sys.modules)
"""


def modules_of_the_forkserver() -> set[str]:
    """Import what the forkserver imports as it starts, in a process of its own, as it does it."""
    program = PACKAGE / "_worker" / "__main__.py"
    command = [sys.executable, "-I", "-S", "-c", START, str(program), str(PACKAGE)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_forkserver_waits_for_no_slow_import() -> None:
    modules = modules_of_the_forkserver()
    assert {"aions", "aions._worker.forkserver", "aions._worker.handlers"} <= modules
    assert modules & SLOW_TO_IMPORT == set()


def test_the_forkserver_loads_neither_the_apps_side_nor_what_its_package_imports() -> None:
    assert not [name for name in modules_of_the_forkserver() if name.startswith(("aions._app", "aions._cli", "aions._types"))]


def public_modules() -> list[ModuleType]:
    """Return the modules that a user may import, other than `aions` itself."""
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "aions.")]
    public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
    return [importlib.import_module(name) for name in public]


def test_the_public_names_are_sorted_and_there() -> None:
    assert aions.__all__ == sorted(set(aions.__all__))
    assert [name for name in aions.__all__ if not hasattr(aions, name)] == []


def test_everything_public_that_the_package_imports_is_listed() -> None:
    assert {name for name, value in vars(aions).items() if not name.startswith("_") and not inspect.ismodule(value)} == set(
        aions.__all__
    )


def test_every_public_name_is_reached_by_one_path() -> None:
    public = [getattr(aions, name) for name in aions.__all__]
    assert len({id(value) for value in public}) == len(public)
    for module in public_modules():
        offered = getattr(module, "__all__", [])
        assert not {id(getattr(module, name)) for name in offered} & {id(value) for value in public}


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    assert [name for name in aions.__all__ if not getattr(aions, name).__doc__] == []


def public_methods(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


@pytest.mark.parametrize("cls", [aions.Worker, aions.Process], ids=lambda cls: cls.__name__)
def test_every_public_method_has_a_docstring(cls: type) -> None:
    assert [name for name in public_methods(cls) if not inspect.getdoc(inspect.getattr_static(cls, name))] == []


HANDLE_ONLY = {"aclose", "fork", "open_namespace", "pid", "pidfd"}
"""What is about the worker itself, and so has no function that acts on the current one."""


OF_SOMEBODY_ELSE = {"current_worker", "diagnose", "open_namespace"}
"""Functions that ask for no worker, or for somebody else's namespace."""


def mirrored() -> list[str]:
    return [name for name in public_methods(aions.Worker) if name not in HANDLE_ONLY]


@pytest.mark.parametrize("name", mirrored())
def test_what_a_worker_does_a_function_does_with_the_current_one(name: str) -> None:
    method, function = inspect.signature(getattr(aions.Worker, name)), inspect.signature(getattr(aions, name))
    without_self = list(method.parameters.values())[1:]
    assert list(function.parameters.values()) == without_self
    assert function.return_annotation == method.return_annotation
    assert inspect.iscoroutinefunction(getattr(aions, name))


def test_functions_that_act_on_the_current_worker_are_methods_of_one() -> None:
    functions = {name for name in aions.__all__ if inspect.iscoroutinefunction(getattr(aions, name))}
    assert functions - OF_SOMEBODY_ELSE == set(mirrored())
