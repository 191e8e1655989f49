"""Records to data frames, tables and figures. Everything here is a pure function of the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_bench.report.frame import Results, load
    from ssl_bench.report.table import Table

__all__ = ["Results", "Table", "load", "write_report"]

_HOMES = {"Results": "ssl_bench.report.frame", "load": "ssl_bench.report.frame", "Table": "ssl_bench.report.table"}


def __getattr__(name: str) -> Any:
    """Import on first use: pandas and scipy take a second that `ssl-bench --help` should not."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def write_report(folder: str | Path) -> list[Path]:
    """Write table.md, .csv, .tex, .html, comparisons.csv and figures/ into a results folder, from its records alone.

    Returns
    -------
    The files written.

    Raises
    ------
    RecordError
        Where the folder or one of its records cannot be read.
    """
    from ssl_bench.records import write_bytes
    from ssl_bench.report.figures import draw_figures
    from ssl_bench.report.formats import comparisons_csv
    from ssl_bench.report.frame import load

    root = Path(folder)
    results = load(root)
    table, wide = results.table(), results.table(wide=True)
    figures = draw_figures(results, root / "figures")
    pictures = [str(path.relative_to(root)) for path in figures if path.suffix == ".png"]
    texts = {
        "table.md": table.markdown(), "table.csv": wide.csv(), "table.tex": table.latex(), "table.html": table.html(pictures),
        "comparisons.csv": comparisons_csv(table),
    }
    for name, text in texts.items():
        write_bytes(root / name, text.encode())
    return [root / name for name in texts] + figures
