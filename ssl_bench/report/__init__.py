"""Records to data frames, tables and figures. Everything here is a pure function of the records."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_bench.report.files import write_report
    from ssl_bench.report.publishing import publish
    from ssl_bench.report.results import Results, Table, load

__all__ = ["Results", "Table", "load", "publish", "write_report"]

_HOMES = {
    "Results": "ssl_bench.report.results",
    "Table": "ssl_bench.report.results",
    "load": "ssl_bench.report.results",
    "publish": "ssl_bench.report.publishing",
    "write_report": "ssl_bench.report.files",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pandas and scipy take a second that `ssl-bench --help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
