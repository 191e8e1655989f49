"""The source that a plugin is made of: its own files and the local modules that they import, as syntax trees and as
what Python imports.

A module is local where it is neither the standard library's, nor installed (in a folder for packages, or one that holds
``*.dist-info``), nor ssl_bench itself: a file beside the plugin, a package beside it, what another entry of
``sys.path`` gives, and what these import in turn, inside functions too.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
import sysconfig
import tokenize
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pydantic import ValidationError

from ssl_bench.errors import SpecError, quoted, text_of

_OWN = "ssl_bench"
_SCHEMES = ("stdlib", "platstdlib", "purelib", "platlib")
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


def syntax_tree_text(node: Any) -> str:
    """A syntax tree as text, the same with every version of Python: ``ast.dump`` is not, and newer versions add fields,
    empty at first."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in sorted(node._fields))
        told = (f"{name}={syntax_tree_text(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(told)})"
    if isinstance(node, list):
        return f"[{', '.join(map(syntax_tree_text, node))}]"
    return ascii(node)  # not repr, which leaves what a version's Unicode tables call printable


def tree_of(text: bytes, file: Path) -> ast.Module:
    """A file's syntax tree, read in the encoding that it declares. Raises SpecError naming file and line."""
    try:
        return ast.parse(text, str(file))
    except (SyntaxError, ValueError) as error:  # null bytes are a ValueError in older versions
        raise SpecError(f"{file} cannot be imported: {_syntax_problem(error, text)}") from None


def _syntax_problem(error: Exception, text: bytes) -> str:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as unicode:
        if not _declares_encoding(text):
            line = text[: unicode.start].count(b"\n") + 1
            return (
                f"line {line} holds byte 0x{text[unicode.start]:02x}, which is not UTF-8; save the file in that "
                "encoding"
            )
    at = getattr(error, "lineno", None)
    return f"{type(error).__name__}: {getattr(error, 'msg', None) or error}" + (f" (line {at})" if at else "")


def _declares_encoding(text: bytes) -> bool:
    try:
        return tokenize.detect_encoding(iter(text.splitlines(keepends=True)).__next__)[0] not in ("utf-8", "utf-8-sig")
    except SyntaxError:
        return False


def local_modules(
    roots: Iterable[tuple[str, Path]], read: Callable[[Path], bytes] = Path.read_bytes
) -> dict[str, Path]:
    """Local modules that some files import, directly or through each other: name -> file (a folder, of a package
    without ``__init__.py``).

    Parameters
    ----------
    roots : (module's name, file); siblings of these files are found by their plain names.
    read : gives a file's bytes.
    """
    modules: dict[str, Path] = {}
    todo = [(name, file, file.parent) for name, file in roots]
    seen = {file.resolve() for _, file, _ in todo}
    while todo:
        name, file, folder = todo.pop()
        try:
            tree = ast.parse(read(file), str(file))
        except (SyntaxError, ValueError, OSError):
            continue  # told where it is imported
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for wanted in _imported(tree, package):
            for full, origin in _files_of(wanted, folder):
                if full not in modules and origin.resolve() not in seen:
                    modules[full] = origin
                    seen.add(origin.resolve())
                    if origin.is_file():
                        todo.append((full, origin, folder))
    return modules


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of all modules that a file may import: of ``from a import b`` both a and a.b, b being perhaps a
    module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in (*above, node.module or "") if part)
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*")
        elif (
            isinstance(node, ast.Call)
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                dots = len(node.args[0].value) - len(node.args[0].value.lstrip("."))
                above = package.split(".")[: len(package.split(".")) - dots + 1] if dots else []
                yield ".".join(part for part in (*above, node.args[0].value.lstrip(".")) if part)


def imported_in_functions(files: Iterable[tuple[str, Path]]) -> set[str]:
    """The full names of modules that functions of some files, given as (module's name, file), import when they are
    called."""
    imported: set[str] = set()
    for name, file in files:
        try:
            tree = ast.parse(file.read_bytes(), str(file))
        except (SyntaxError, ValueError, OSError):
            continue  # told where it is imported
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        functions = (
            node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        )
        imported.update(wanted for function in functions for wanted in _imported(function, package))
    return imported


def _files_of(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The local files that importing ``name`` runs: of every package on the way, and its own."""
    parts = name.split(".")
    if (
        not all(part.isidentifier() for part in parts)
        or parts[0] == _OWN
        or parts[0] in sys.stdlib_module_names
        or _installed(parts[0])
    ):
        return
    path: list[str] | None = [str(folder), *_local_path()]
    for depth in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(parts[depth - 1], path)
        if spec is None and depth == 1:
            spec = _hooked(parts[0])
        if spec is None:
            return
        if spec.origin and spec.has_location and spec.origin.endswith(".py"):
            yield ".".join(parts[:depth]), Path(spec.origin)
        elif spec.origin is None and spec.submodule_search_locations:
            yield ".".join(parts[:depth]), Path(next(iter(spec.submodule_search_locations)))
        path = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None
        if path is None:
            return


def _hooked(name: str) -> importlib.machinery.ModuleSpec | None:
    """A top-level module that neither stands on the path nor beside the file: an editable installation by an import
    hook."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec if spec is not None and spec.origin and not is_installed(Path(spec.origin)) else None


def is_installed(file: Path) -> bool:
    """Whether a file belongs to the standard library, to an installed package, or to ssl_bench."""
    resolved = file.resolve()
    package = Path(__file__).resolve().parents[1]
    if _PACKAGE_FOLDERS & set(resolved.parts) or package in resolved.parents:
        return True
    return any(
        Path(folder).resolve() in resolved.parents
        for folder in (*_stdlib(), *(entry for entry in sys.path if entry and _holds_packages(entry)))
    )


def place_in_traceback(error: BaseException) -> str:
    """Where an error came through code that is neither installed nor ours, such as " (mine.py, line 3)"; "" for
    nowhere."""
    frame = next(
        (
            frame
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if not is_installed(Path(frame.filename))
        ),
        None,
    )
    return f" ({frame.filename}, line {frame.lineno})" if frame is not None else ""


def raised(error: BaseException) -> str:
    """What a plugin's own code raised, and where, in one line."""
    if isinstance(error, ValidationError):  # of a Recipe or options that it makes
        problems = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, not {quoted(problem['input'])}"
            for problem in error.errors(include_url=False)
        ]
        return f"its code makes a {error.title} that is refused: {'; '.join(problems)}{place_in_traceback(error)}"
    return f"its code raised {type(error).__name__}: {text_of(error)}{place_in_traceback(error)}"


def _installed(name: str) -> bool:
    """Whether a top-level name is that of an installed package, which is preferred to a file of that name beside a
    plugin."""
    entries = [entry for entry in sys.path if entry and _holds_packages(entry)]
    return importlib.machinery.PathFinder.find_spec(name, entries) is not None if entries else False


def _local_path() -> list[str]:
    inside = _stdlib()
    return [
        entry or "."
        for entry in sys.path
        if not _holds_packages(entry or ".") and str(Path(entry or ".").resolve()) not in inside
    ]


def local_files_in(module: ModuleType) -> dict[str, Path]:
    """Local modules that a module holds by whatever way it came to them: as modules, or as functions and classes of
    theirs."""
    names = {
        value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        for value in vars(module).values()
    }
    files = {
        name: getattr(sys.modules.get(name), "__file__", None)
        for name in names
        if isinstance(name, str) and name != module.__name__
    }
    return {
        name: Path(file)
        for name, file in files.items()
        if file and file.endswith(".py") and not is_installed(Path(file))
    }


@lru_cache(maxsize=1)
def _stdlib() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(str(Path(paths[scheme]).resolve()) for scheme in _SCHEMES[:2]))


def _holds_packages(entry: str) -> bool:
    """Whether an entry of ``sys.path`` is a folder into which packages are installed."""
    folder = Path(entry)
    if _PACKAGE_FOLDERS & set(folder.parts):
        return True
    try:
        return next(folder.glob("*.dist-info"), None) is not None
    except OSError:
        return False


class LocalImporter:
    """Finds the local modules of plugins, and imports them from their source as it was when their plugin was loaded.

    Python's own importer would take an edit within the same second from ``__pycache__``, knows no file beside a plugin,
    and would give an import inside a function the source of that moment, under the id of another.
    """

    def __init__(self) -> None:
        #: module -> its file (a folder, of a package without one) and source
        self._offered: dict[str, tuple[Path, bytes]] = {}
        self._imported: dict[str, tuple[Path, bytes]] = {}

    def offer(self, modules: dict[str, Path]) -> None:
        """Make these modules importable. Those that were imported from other files or other text are forgotten, with
        all that may hold them."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        self._offered |= {name: (file, file.read_bytes() if file.is_file() else b"") for name, file in modules.items()}
        if any(name in sys.modules and self._imported.get(name) != self._offered[name] for name in modules):
            for name in modules:
                sys.modules.pop(name, None)

    def text_of(self, file: Path) -> bytes:
        """A file's source, as it is imported."""
        held = next((text for known, text in reversed(list(self._offered.values())) if known == file), None)
        return file.read_bytes() if held is None else held

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module on offer; None for every other."""
        if name not in self._offered:
            return None
        file, text = self._offered[name]
        if file.is_dir():
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            self._imported[name] = (file, text)
            return spec
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _FromSource(name, str(file), text, lambda: self._imported.__setitem__(name, (file, text)))
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the source it is given, whatever ``__pycache__`` holds."""

    def __init__(self, name: str, path: str, text: bytes, imported: Callable[[], None]) -> None:
        super().__init__(name, path)
        self._text, self._imported = text, imported

    def get_code(self, fullname: str) -> CodeType:
        self._imported()
        code: CodeType = self.source_to_code(self._text, self.path)
        return code


LOCAL = LocalImporter()
