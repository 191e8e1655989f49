"""Put tables and code into README.md and results/*/README.md from the files that hold them, so that nothing there is typed by hand.

    python benchmarks/fill_readme.py            # rewrites them; tests/test_readme.py checks that they are up to date

A block begins with a comment such as ``<!-- table: results/quick -->`` and ends with ``<!-- end -->``. ``rows`` in place of
``table`` leaves the published numbers out, which are the same below every table; ``classic`` has the columns of the classic table alone
(frozen top-1 and top-5, detection mAP); ``order`` is how far the rows stand in the published order, pair by pair.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- (table|rows|classic|order|plugin|speed): (\S+) -->\n(?:.*?<!-- end -->)?", re.DOTALL)


def content(kind: str, path: Path) -> str:
    """The text a block holds: the printed table of a run (or its rows or some columns alone), a plugin's source, the speed report without its heading."""
    if kind == "plugin":
        return f"```python\n{path.read_text(encoding='utf-8').strip()}\n```"
    if kind == "speed":
        return path.read_text(encoding="utf-8").partition("\n")[2].strip()
    from ssl_bench.report import load

    results = load(path)
    table = results.table()
    if kind == "order":
        return "\n\n".join(_order(agreement) for block in table.published for agreement in block.agreement)
    if kind == "rows":
        table = replace(table, published=[])
    if kind == "classic":
        table = _classic(results, table)
    return f"```\n{table.terminal(120).strip(chr(10))}\n```"


def _classic(results: Any, table: Any) -> Any:
    """A table of frozen accuracy at the best stage, detection on a network that was fine-tuned, and cost; above the published one of that shape."""
    from ssl_bench.report.legend import legend_of

    def belongs(column: Any) -> bool:
        frozen_probe = column.evaluator == "linear" and column.stage == "best" and column.labels == 1
        detection = column.metric == "map_voc07" and column.stage != "frozen"
        return frozen_probe or detection or not column.evaluator

    sections = [replace(section, columns=[c for c in section.columns if belongs(c)], saved=None) for section in table.sections]
    for section in sections:
        for line in section.lines:
            line.cells = {column.key: line.cells[column.key] for column in section.columns}
        section.lines = [line for line in section.lines if any(cell.status != "none" for cell in line.cells.values())]  # pixels and PCA
    return replace(table, sections=sections, legend=legend_of(results, sections), published=[b for b in table.published if b.agreement])


def _order(agreement: Any) -> str:
    """One comparison with a published order: its Kendall's tau, and any two rows."""
    lines = [f"{agreement}."]
    if agreement.pairs:
        lines += ["", "| higher where published | lower | by, points | here by, points (95 %) | verdict |", "|---|---|---:|---:|---|"]
    for pair in agreement.pairs:
        c = pair.ours
        here = f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
        lines.append(f"| {pair.first} | {pair.second} | {pair.published:.2f} | {here} | {pair.verdict} |")
    return "\n".join(lines)


def pages() -> list[Path]:
    """Every page with blocks."""
    return [ROOT / "README.md", *sorted(ROOT.glob("results/*/README.md"))]


def filled(text: str) -> str:
    """A page with every block renewed; a block whose file is missing stays empty."""

    def renewed(match: re.Match[str]) -> str:
        kind, path = match[1], ROOT / match[2]
        if not path.exists():
            return f"<!-- {kind}: {match[2]} -->\n<!-- end -->"
        return f"<!-- {kind}: {match[2]} -->\n{content(kind, path)}\n<!-- end -->"

    return _BLOCK.sub(renewed, text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
