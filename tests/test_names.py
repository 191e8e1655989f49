"""Variables say what they hold: `found`, `one` and `own` say nothing, and are refused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ssl_bench

PACKAGE = Path(ssl_bench.__file__).parent
REFUSED = {"found", "one", "own"}


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
