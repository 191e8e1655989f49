"""Which room of the package may import which: every arrow points down, and no two modules import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ssl_bench

PACKAGE = Path(ssl_bench.__file__).parent
#: from the ground to the roof; a room may import itself and what stands before it
ROOMS = (
    "errors", "system", "records", "spec", "plugins", "transforms", "data", "backbones", "training", "tasks",
    "evaluators", "testing",
    "report", "plan", "runner", "api", "console", "__main__",
)  # fmt: skip
#: within a room, from the ground up; its other modules stand on top
FLOORS = {"report": ("ground", "reading", "building", "rendering")}
TEMPLATES = "ssl_bench.plugins.templates"  # the first version of a user's own files


def _modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: path for name, path in found.items() if not name.startswith(TEMPLATES)}


def _imports(tree: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that code imports when it runs, at its top or within a function; what only type
    checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole module"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from (known for known in (name if name in modules else node.module,) if known in modules)
        yield from _imports(node, modules)


def _graph() -> dict[str, set[str]]:
    modules = _modules()
    texts = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    return {name: set(_imports(tree, modules)) - {name} for name, tree in texts.items()}


def _room(module: str) -> int:
    parts = module.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 else -1  # the package itself imports nothing when it is imported


def _floor(module: str) -> int:
    """Of a module in a room with floors; the room's own ``__init__`` imports nothing when it is imported, and so lies
    below them."""
    parts = module.split(".")
    floors = FLOORS[parts[1]]
    return -1 if len(parts) == 2 else floors.index(parts[2]) if parts[2] in floors else len(floors)


def test_every_import_points_down() -> None:
    upward = sorted(
        f"{name} imports {other}"
        for name, others in _graph().items()
        for other in others
        if _room(other) > _room(name) >= 0
    )
    assert not upward, "\n".join(upward)


def test_within_a_room_every_import_points_to_the_same_floor_or_a_lower_one() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in _graph().items()
        for other in others
        if _room(other) == _room(name) >= 0 and ROOMS[_room(name)] in FLOORS and _floor(other) > _floor(name)
    ]
    assert not upward, "\n".join(sorted(upward))


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(_graph()).prepare()
    except CycleError as error:
        raise AssertionError("a circle: " + " -> ".join(error.args[1])) from None


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    assert not _graph()["ssl_bench"]


def test_no_module_is_longer_than_350_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in _modules().items()}
    too_long = {name: length for name, length in lengths.items() if length > 350}
    assert not too_long, f"split these by meaning: {too_long}"
