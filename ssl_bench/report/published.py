"""Numbers of others, kept in ``published.csv`` with their source, never mixed with our own."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from ssl_bench.errors import RecordError
from ssl_bench.report.statistics import rank_correlation

FEWEST_ROWS = 5  # below this no order of rows can be told from chance: with four, the smallest exact p is 0.083


@dataclass(frozen=True)
class Published:
    """One published number. ``task`` names our task where the method is the same one, "" otherwise; ``value`` is in per cent."""

    setting: str
    row: str
    task: str
    metric: str
    value: float
    source: str
    note: str = ""


def load_published() -> list[Published]:
    """Every published number, in the file's order. Raises RecordError naming a line that cannot be read."""
    text = resources.files("ssl_bench.report").joinpath("published.csv").read_text(encoding="utf-8")
    found = []
    for at, line in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            texts = {key: line[key] or "" for key in ("setting", "row", "task", "metric", "source", "note")}
            found.append(Published(value=float(line["value"]), **texts))
        except (TypeError, ValueError, KeyError) as error:
            raise RecordError(f"published.csv line {at} cannot be read: {error}") from None
    return found


def agreement(ours: Mapping[str, float], published: list[Published]) -> list[str]:
    """Sentences on how far our order of tasks agrees with a published one; none where fewer than five rows are in common.

    Parameters
    ----------
    ours : task to our headline value. The supervised task is left out: that labels win is no agreement.
    published : the published numbers.
    """
    tables: dict[tuple[str, str, str], dict[str, float]] = {}
    for number in published:
        if number.task and number.task != "supervised" and number.task in ours:
            tables.setdefault((number.setting, number.metric, number.source), {})[number.task] = number.value
    lines = []
    for (setting, metric, source), theirs in tables.items():
        if len(theirs) < FEWEST_ROWS:
            continue
        tau, p = rank_correlation([ours[task] for task in theirs], list(theirs.values()))
        lines.append(f"Kendall's tau with {metric} ({setting}; {source}) over {len(theirs)} rows in common: {tau:+.2f}, exact p {p:.3f}")
    return lines
