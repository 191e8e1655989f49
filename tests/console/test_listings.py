"""`ssl-bench list` answers at once: nothing that takes seconds to import is imported for a line of text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssl_bench.plugins.registry import EVALUATORS, TASKS

LISTS = """
import sys
from ssl_bench.console.commands import app
app(["list", sys.argv[1]], standalone_mode=False)
heavy = sorted({"torch", "timm", "pandas", "scipy", "matplotlib"} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize("what", ["tasks", "evaluators", "sources", "matrices"])
def test_no_list_imports_torch(what: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LISTS, what], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    names = {"tasks": "rotation", "evaluators": "linear", "sources": "shapes", "matrices": "quick"}
    (line,) = (line for line in ended.stdout.splitlines() if line.split()[0] == names[what])
    assert len(line.split()) > 3, "a name and what it is"


@pytest.mark.parametrize("registry", [TASKS, EVALUATORS], ids=["tasks", "evaluators"])
def test_a_summary_is_the_first_paragraph_of_the_docstring(registry: object) -> None:
    assert isinstance(registry, type(TASKS)) and registry.names()
    for name in filter(registry.is_builtin, registry.names()):  # other tests add theirs
        paragraph = (registry.get(name).__doc__ or "").strip().split("\n\n")[0]
        assert registry.summary(name).split() == paragraph.split() != []
        assert "\n" not in registry.summary(name)
