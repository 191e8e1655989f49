"""What stands beside the numbers of a table, in words that all its forms share."""

from __future__ import annotations

from ssl_bench.report.ground.content import TableContent

NOT_COMPARABLE = "not ours, and not comparable with the table above"
SIGNS = ("±", "=", "▾", "↑", "†", "×")  # explained without a colon


def legend_notes(table: TableContent) -> list[str]:
    """The lines below the table, each a sign or word and what it means."""
    return [f"{sign}: {text}" if sign not in SIGNS else f"{sign} {text}" for sign, text in table.legend]
