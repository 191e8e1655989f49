"""Put tables and code into README.md, docs/ and results/*/README.md from the files that hold them: nothing is typed by
hand.

    python benchmarks/fill_readme.py            # rewrites them; tests/test_readme.py checks that they are up to date

A block begins with a comment such as ``<!-- table: results/quick -->`` and ends with ``<!-- end -->``. ``table`` has
the whole legend. ``rows`` has the short one and leaves the published numbers out, which are the same below every table;
``classic`` has the columns of the classic table alone (``ssl-bench report RUN --classic``); ``order`` is how far the
rows stand in the published order, pair by pair. ``brief`` has neither legend nor warnings, and only the rows and
evaluators that are named: ``<!-- brief: results/quick rows=simclr,random evaluators=linear -->``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"<!-- (table|rows|classic|brief|order|plugin|speed): (\S+)((?: \w+=\S+)*) -->\n(?:.*?<!-- end -->)?", re.DOTALL
)


def content(kind: str, path: Path, words: dict[str, str]) -> str:
    """The text a block holds: the printed table of a run (or its rows or some columns alone), a plugin's source, the
    speed report without its heading."""
    if kind == "plugin":
        return f"```python\n{path.read_text(encoding='utf-8').strip()}\n```"
    if kind == "speed":
        return path.read_text(encoding="utf-8").partition("\n")[2].strip()
    from ssl_bench.report import load

    table = load(path).table(classic=kind == "classic")
    if kind == "order":
        return "\n\n".join(_order(agreement) for block in table.published for agreement in block.agreement)
    if kind in ("rows", "brief"):
        table = replace(table, published=[])
    if kind == "brief":
        sections = [_part(section, words) for section in table.sections]
        table = replace(table, legend=[], brief=[], warnings=[], sections=sections)
    width = 136 if kind == "classic" else 120  # its columns side by side
    return f"```\n{table.terminal(width, legend=kind == 'table').strip(chr(10))}\n```"


def _part(section: Any, words: dict[str, str]) -> Any:
    """A section with the rows and evaluators that are named alone; the cost stays."""
    rows, evaluators = (words[key].split(",") if key in words else None for key in ("rows", "evaluators"))
    lines = [line for line in section.lines if rows is None or (line.row in rows and not line.variant)]
    columns = [column for column in section.columns if evaluators is None or column.evaluator in ("", *evaluators)]
    return replace(section, lines=lines, columns=columns, saved=None, earlier=None)


def _order(agreement: Any) -> str:
    """One comparison with a published order: its Kendall's tau, and any two rows."""
    lines = [f"{agreement}."]
    if agreement.pairs:
        heads = [
            "higher where published",
            "lower",
            "by, points",
            "here by, points (95 %, each pair alone)",
            "verdict (over all pairs, Holm)",
        ]
        lines += ["", f"| {' | '.join(heads)} |", "|---|---|---:|---:|---|"]
    for pair in agreement.pairs:
        c = pair.ours
        here = f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
        lines.append(f"| {pair.first} | {pair.second} | {pair.published:.2f} | {here} | {pair.verdict} |")
    return "\n".join(lines)


def pages() -> list[Path]:
    """Every page with blocks."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*/README.md"))]


def filled(text: str) -> str:
    """A page with every block renewed; a block whose file is missing stays empty."""

    def renewed(match: re.Match[str]) -> str:
        kind, path = match[1], ROOT / match[2]
        head = f"<!-- {kind}: {match[2]}{match[3]} -->"
        if not path.exists():
            return f"{head}\n<!-- end -->"
        words = dict(word.split("=", 1) for word in match[3].split())
        return f"{head}\n{content(kind, path, words)}\n<!-- end -->"

    return _BLOCK.sub(renewed, text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
