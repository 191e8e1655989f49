"""The printed lines of ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ssl_bench.plan.doctor import Finding
from ssl_bench.system.terminal import escape

_STYLES = {"fine": None, "limits": "yellow", "cannot run": "red"}


def print_findings(console: Console, lines: Sequence[Finding]) -> bool:
    """One line each; False where the matrix cannot run here."""
    widths = [max(len(getattr(line, part)) for line in lines) for part in ("what", "value", "verdict")]
    for line in lines:
        parts = (line.what, line.value, line.verdict)
        text = "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True))
        console.print(escape(f"{text}  {line.remedy}".rstrip()), style=_STYLES[line.verdict], soft_wrap=True)
    return all(line.verdict != "cannot run" for line in lines)
