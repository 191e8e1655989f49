"""Plugin files: imported, held against what a plugin must not do, and their classes registered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ssl_bench.errors import SpecError, text_of
from ssl_bench.plugins.identity import code_of
from ssl_bench.plugins.registry import REGISTRIES, SOURCES
from ssl_bench.plugins.source_code import (
    LOCAL,
    imported_in_functions,
    local_modules,
    place_in_traceback,
    tree_of,
)
from ssl_bench.system.interruption import is_interruption

_PLUGIN_MODULE = "ssl_bench_plugin_"  # what the names of modules begin with that plugin files are imported as
_IMPORTED: dict[str, dict[Path, bytes]] = {}  # plugin module -> the files that it was imported from, and what they held
# plugin module -> its local modules, and the names that functions import when they are called
_HELPERS: dict[str, tuple[dict[str, Path], set[str]]] = {}


def load_plugin(path: str | Path) -> list[str]:
    """Import one Python file and register every task, evaluator, source, network and operation that it defines.

    Files beside it can be imported by their names. A file that was edited since it was last imported, or a local module
    that it imports, is imported anew. Returns the registered names.

    Raises
    ------
    SpecError : the file is missing, does not import, changes torch's global state, defines no task, evaluator, source,
        network or operation, or one that breaks the contract.
    """
    file = _plugin_file(path)
    module_name = f"{_PLUGIN_MODULE}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    try:
        text = file.read_bytes()
    except OSError as error:
        raise SpecError(f"plugin {str(path)!r} cannot be read: {error.strerror or error}") from None
    tree_of(text, file)
    helpers = local_modules([(module_name, file)])
    later = imported_in_functions(
        [(module_name, file), *((name, helper) for name, helper in helpers.items() if helper.is_file())]
    )
    _refuse_mixed(module_name, file, helpers, later)
    LOCAL.offer(helpers)
    sources = {file: text} | {helper: LOCAL.text_of(helper) for helper in helpers.values() if helper.is_file()}
    if module_name in sys.modules and _IMPORTED.get(module_name) != sources:
        _forget(module_name)  # edited since: the old class must not run under the id of the new code
    if module_name not in sys.modules:
        _import(module_name, file, text, path)
    module = sys.modules[module_name]
    registered = []
    try:
        for registry in REGISTRIES:
            base = registry.base
            for member in vars(module).values():
                defined_here = (
                    isinstance(member, type) and issubclass(member, base) and member.__module__ == module_name
                )
                if (
                    defined_here
                    and not inspect.isabstract(member)
                    and (not _is_mixin(member, base, registry.kind) or "name" in vars(member))
                ):
                    registry.add(member)
                    if registry is not SOURCES:  # whose code enters an id by the pixels that it gives
                        code_of(member)
                    registered.append(member.name)
    except SpecError:
        _forget(module_name)
        raise
    if not registered:
        _forget(module_name)
        raise SpecError(
            f"plugin {str(path)!r} defines no task, evaluator or source: derive a class from "
            "ssl_bench.PretextTask, Evaluator or Source (or Network, Augmentation) and give it a `name`"
            + _elsewhere(module)
        )
    _IMPORTED[module_name], _HELPERS[module_name] = sources, (helpers, later)
    return registered


def load_plugins(paths: str | Path | Iterable[str | Path]) -> None:
    """Register what one file defines, or several."""
    for path in (paths,) if isinstance(paths, (str, Path)) else paths:
        load_plugin(path)


def plugin_files() -> list[str]:
    """The plugin files that are loaded, in the order in which they were."""
    return [str(sys.modules[name].__file__) for name in _IMPORTED if name in sys.modules]


def _refuse_mixed(module_name: str, file: Path, helpers: dict[str, Path], later: set[str]) -> None:
    """Refuse a plugin where a function, its own or another plugin's, would get the other's local module of the same
    name: Python knows one at a time."""
    for other, (held, held_later) in _HELPERS.items():
        if other == module_name or other not in sys.modules:
            continue
        for name, file_here in helpers.items():
            if held.get(name, file_here) != file_here and any(
                imported == name or imported.startswith(f"{name}.") for imported in later | held_later
            ):
                raise SpecError(
                    f"plugin {str(file)!r} and {sys.modules[other].__file__!r} import different modules called "
                    f"{name!r} ({file_here} and {held[name]}), "
                    "one of them inside a function, which would get the other's; rename one of them, or import it "
                    "at the top of the file"
                )


def _plugin_file(path: str | Path) -> Path:
    """The file behind a plugin's path. Raises SpecError for what is none."""
    given = Path(path).expanduser()
    file = given.resolve()
    if file.is_dir():
        inside = sorted(inner.name for inner in file.glob("*.py"))[:5]
        raise SpecError(
            f"plugin {str(path)!r} is a folder; name a file in it" + (f": {', '.join(inside)}" if inside else "")
        )
    if not file.exists():
        link = f" (a link to {file})" if given.is_symlink() else ""
        raise SpecError(f"plugin file {str(path)!r} does not exist{link}")
    if not file.is_file():
        raise SpecError(
            f"plugin {str(path)!r} is not a file that could be read to its end (a pipe, a socket or a device)"
        )
    if given.suffix != ".py" and file.suffix != ".py":
        raise SpecError(f"plugin {str(path)!r} is not a Python file; it must end in .py")
    return file


def _import(module_name: str, file: Path, text: bytes, path: str | Path) -> None:
    """Run a plugin's file as a module. Raises SpecError for whatever it raises; what it prints goes to the error
    stream."""
    from ssl_bench.system.global_state import changed, restored

    spec = importlib.util.spec_from_loader(module_name, SourceFileLoader(module_name, str(file)), origin=str(file))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[module_name] = module
    told = ""
    try:
        with restored(lasting=False) as before, contextlib.redirect_stdout(sys.stderr):
            # not from __pycache__, which misses an edit within the same second
            exec(compile(text, str(file), "exec"), vars(module))
            told = changed(before, lasting=False)
    except BaseException as error:
        _forget(module_name)
        if is_interruption(error):
            raise
        where = "" if isinstance(error, SyntaxError) else place_in_traceback(error)
        if "relative import" in text_of(error):
            where += "; a plugin is a file by itself: import a file beside it by its plain name"
        if isinstance(error, SystemExit):
            raise SpecError(
                f"plugin {str(path)!r} ends the program when it is imported{where}; put that below `if __name__ == "
                "'__main__':`"
            ) from error
        raise SpecError(
            f"plugin {str(path)!r} cannot be imported: {type(error).__name__}: {text_of(error)}{where}"
        ) from error
    if told:
        _forget(module_name)
        raise SpecError(
            f"plugin {str(path)!r} changes {told} for the whole program when it is imported, which every other row "
            "would feel; remove that"
        )


def _forget(module_name: str) -> None:
    sys.modules.pop(module_name, None)
    _IMPORTED.pop(module_name, None)
    _HELPERS.pop(module_name, None)
    for registry in REGISTRIES:
        registry.forget(module_name)


def _is_mixin(member: type, base: type, kind: str) -> bool:
    """A class without a name of its own that others of its file derive from, or that leaves the contract's methods to
    them."""
    module = sys.modules[member.__module__]
    derived = any(
        isinstance(other, type) and other is not member and issubclass(other, member) for other in vars(module).values()
    )
    required = {
        "task": ("views", "forward"), "evaluator": ("evaluate",), "source": ("open", "open_boxes"),
        "network": ("forward",),
        "operation": ("__call__",),
    }[kind]  # fmt: skip
    return derived or hasattr(member, "name") or all(getattr(member, name) is getattr(base, name) for name in required)


def _elsewhere(module: Any) -> str:
    """The tasks, evaluators and sources that a plugin imports, where it defines none itself."""
    bases = tuple(registry.base for registry in REGISTRIES)
    members = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, bases) and value not in bases
    ]
    members = [member for member in members if not member.__module__.startswith("ssl_bench.")]
    if not members:
        return ""
    return (
        f"; it imports {members[0].__name__} from {members[0].__module__!r}: give that file as a plugin, or "
        "derive a class from it here"
    )


def origin_of(member: Any) -> str:
    """A class and its plugin file or module, in words that hold on another machine, such as "class Pair of pair.py"."""
    file = getattr(sys.modules.get(member.__module__), "__file__", None) or ""
    place = Path(file).name if member.__module__.startswith(_PLUGIN_MODULE) else member.__module__
    return f"class {member.__qualname__} of {place}"
