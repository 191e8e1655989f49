"""Variables say what they hold: `found`, `one` and `own` say nothing, and are refused. A function or class has its name
for itself: what stands in two modules is shared, or named by what each does."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ssl_bench

PACKAGE = Path(ssl_bench.__file__).parent
REFUSED = {"found", "one", "own"}
#: names that two modules define on purpose
SHARED = {
    "__getattr__": "Python's hook of a module whose names are imported on first use",
    "load": "ssl_bench.load reads results, ssl_bench.data.load images: both public",
    # the name of a check is printed, and tasks and evaluators are held to the same
    "documented": "a check of both batteries",
    "options": "a check of both batteries",
    "same_seed": "a check of both batteries",
}
#: their functions have the names of commands, and so of the functions that they call; templates belong to their users
NOT_HELD = ("console/commands", "plugins/templates")


def _given(path: Path) -> Iterator[int]:
    """The lines where a refused name is given to a variable, an argument or a field."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        variable = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in REFUSED
        if variable or (isinstance(node, ast.arg) and node.arg in REFUSED):
            yield node.lineno


def test_variables_say_what_they_hold() -> None:
    places = [f"{path.relative_to(PACKAGE)}:{line}" for path in sorted(PACKAGE.rglob("*.py")) for line in _given(path)]
    assert not places, "\n".join(places)


def test_the_names_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def f(one):\n    found = [own for own in one]\n    return found.one\nclass A:\n    own: int\n")
    assert sorted(_given(file)) == [1, 2, 2, 5]


def _defined_twice(package: Path) -> dict[str, list[str]]:
    """Functions and classes at the top of several modules, with the modules."""
    modules = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if not place.startswith(NOT_HELD):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            for name in {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}:
                modules[name].append(place)
    return {name: places for name, places in modules.items() if len(places) > 1}


def test_a_name_stands_for_one_function_or_class() -> None:
    twice = _defined_twice(PACKAGE)
    assert not twice.keys() - SHARED.keys(), "\n".join(
        f"{name}: {', '.join(twice[name])}" for name in twice.keys() - SHARED.keys()
    )
    assert twice.keys() == SHARED.keys(), "a name that is defined once needs no reason"


def test_names_that_are_defined_twice_are_seen(tmp_path: Path) -> None:
    for file in ("a.py", "b.py", "console/commands/c.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"def both(): ...\nclass Of{file[0]}:\n    def method(self): ...\n")
    assert _defined_twice(tmp_path) == {"both": ["a.py", "b.py"]}
