"""Put tables and code into README.md from the files that hold them, so that nothing there is typed by hand.

    python benchmarks/fill_readme.py            # rewrites README.md; tests/test_readme.py checks that it is up to date

A block begins with a comment such as ``<!-- table: results/quick -->`` and ends with ``<!-- end -->``. ``rows`` in place of
``table`` leaves the published numbers out, which are the same below every table.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- (table|rows|plugin|speed): (\S+) -->\n(?:.*?<!-- end -->)?", re.DOTALL)


def content(kind: str, path: Path) -> str:
    """The text a block holds: the printed table of a run (or its own rows alone), a plugin's source, or the speed report without its heading."""
    if kind == "plugin":
        return f"```python\n{path.read_text(encoding='utf-8').strip()}\n```"
    if kind == "speed":
        return path.read_text(encoding="utf-8").partition("\n")[2].strip()
    from ssl_bench.report import load

    table = load(path).table()
    if kind == "rows":
        table = replace(table, published=[])
    return f"```\n{table.terminal(120).strip(chr(10))}\n```"


def filled(text: str) -> str:
    """The README with every block renewed; a block whose file is missing stays empty."""

    def renewed(match: re.Match[str]) -> str:
        kind, path = match[1], ROOT / match[2]
        if not path.exists():
            return f"<!-- {kind}: {match[2]} -->\n<!-- end -->"
        return f"<!-- {kind}: {match[2]} -->\n{content(kind, path)}\n<!-- end -->"

    return _BLOCK.sub(renewed, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
