"""How a task, an evaluator and the operations of a policy enter a cell's id: a built-in by its version, a plugin by its
source code."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssl_bench.errors import SpecError
from ssl_bench.plugins.registry import OPERATIONS, Registry
from ssl_bench.plugins.source_code import (
    LOCAL,
    is_installed,
    local_files_in,
    local_modules,
    syntax_tree_text,
    tree_of,
)


def identity(registry: Registry[Any], name: str) -> dict[str, Any]:
    """What of a member's code belongs to a cell's id.

    Built-ins carry a version that is raised when a change can change a number. A plugin's author cannot be asked to do
    that, so its source counts by its syntax tree: comments and layout are free, anything else makes a new cell.
    """
    member: Any = registry.get(name)
    facts: dict[str, Any] = {"name": member.name, "version": int(getattr(member, "version", 1))}
    if members := getattr(member, "members", ()):
        facts["members"] = [identity(registry, part.name) for part in members]
    elif not registry.is_builtin(name):
        facts["code"] = code_of(member)
    return facts


def code_in(options: Any) -> dict[str, Any]:
    """What of the code of plugins' operations belongs to an id, by name: of those that stand anywhere in some options;
    {} where there are none."""
    names = {
        value.name
        for value in _values_within(options)
        if _is_operation(value) and not OPERATIONS.is_builtin(value.name)
    }
    return {name: identity(OPERATIONS, name) for name in sorted(names)}


def _is_operation(value: Any) -> bool:
    name = getattr(type(value), "name", None)
    return isinstance(name, str) and name in OPERATIONS and OPERATIONS.get(name) is type(value)


def _values_within(value: Any) -> Iterator[Any]:
    """A value and all that it holds."""
    yield value
    inner = dict(value) if isinstance(value, (BaseModel, Mapping)) else None
    for entry in inner.values() if inner is not None else value if isinstance(value, (tuple, list)) else ():
        yield from _values_within(entry)


@functools.cache  # as it was when it was imported: a file edited later is not what runs
def code_of(member: Any) -> str:
    """Hash over the source of a class and its bases: their files, the local modules that these import, and all of an
    installed package."""
    files: dict[str, Path] = {}
    for owner in member.__mro__:
        top = owner.__module__.partition(".")[0]
        if top in ("ssl_bench", "torch", "typing", "abc", "builtins", "pydantic"):
            continue
        try:
            source = inspect.getsourcefile(owner)
        except TypeError:
            source = None
        if source is None or not Path(source).is_file():
            raise SpecError(
                f"the source of {owner.__qualname__} cannot be found, so its results could not be told from those "
                "of another version; "
                "define it in a file"
            )
        package = getattr(sys.modules.get(top), "__file__", None)
        if package is not None and Path(package).name == "__init__.py":
            folder = Path(package).parent
            files |= {f"{top}/{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*.py")}
        else:
            files[owner.__module__] = Path(source)
    roots = [
        (name.removesuffix(".py").removesuffix("/__init__").replace("/", "."), file) for name, file in files.items()
    ]
    known = {file.resolve() for file in files.values()}
    roots = [root for root in roots if not is_installed(root[1])]
    held = [
        module_file
        for name, _ in roots
        if name in sys.modules
        for module_file in local_files_in(sys.modules[name]).items()
    ]
    imported = dict(held) | {
        name: file for name, file in local_modules([*roots, *held], LOCAL.text_of).items() if file.is_file()
    }
    files |= {f"import {name}": file for name, file in imported.items() if file.resolve() not in known}
    trees = [syntax_tree_text(tree_of(LOCAL.text_of(file), file)) for file in files.values()]
    return hashlib.sha256("\0".join(sorted(trees)).encode()).hexdigest()[:16]
