"""The README shows what the records and files hold, and what it tells people to type exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_and_code_are_those_of_the_files() -> None:
    spec = importlib.util.spec_from_file_location("fill_readme", ROOT / "benchmarks" / "fill_readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page in module.pages():
        text = page.read_text(encoding="utf-8")
        assert module.filled(text) == text, f"{page.relative_to(ROOT)}: run python benchmarks/fill_readme.py"
    assert (
        README.count("<!-- end -->")
        == len(re.findall(r"<!-- (?:table|rows|classic|brief|order|plugin|speed): ", README))
        >= 2
    )


def test_commands_named_in_the_readme_exist() -> None:
    from typer.main import get_command

    from ssl_bench.console.commands import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"ssl-bench ([a-z][a-z-]+)", README))
    assert used and used <= known
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 220
    tables = re.findall(r"<!-- brief: .*? -->\n```\n(.*?)```", README, re.DOTALL)
    assert len(tables) == 2
    rows = [len(re.findall(r"^ \w.* \d+\.\d ±", table, re.MULTILINE)) for table in tables]
    assert rows[0] <= 8 and len(tables[1].splitlines()) <= 15


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = sorted(
    {(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))}
)


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    assert link.startswith("http") or (page.parent / link).exists()
