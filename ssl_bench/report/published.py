"""Numbers of others, kept in ``published.csv`` with their source, never mixed with our own."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

from ssl_bench.errors import RecordError

if TYPE_CHECKING:
    from ssl_bench.report.agreement import Agreement


def canonical(task: str) -> str:
    """A task's name in which the order of a combination's members says nothing.

    >>> canonical("relative_position + colorization")
    'colorization+relative_position'
    """
    return "+".join(sorted(part.strip() for part in task.split("+")))


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
    labels: float | None = None  #: the share of the labels that the setting is about; None: none in particular
    digits: int = 2  #: behind the point, as published

    @property
    def text(self) -> str:
        return f"{self.value:.{self.digits}f}"


@dataclass
class PublishedBlock:
    """The numbers of one setting: rows by metrics, as they are printed, and how far our order of the same rows agrees."""

    setting: str
    sources: list[str]
    metrics: list[str]
    rows: dict[str, dict[str, Published]]
    agreement: list[Agreement] = field(default_factory=list)

    @property
    def tasks(self) -> set[str]:
        """Our names of its methods, where we have them, in canonical form."""
        return {canonical(number.task) for values in self.rows.values() for number in values.values() if number.task}

    def cells(self, row: str) -> list[str]:
        """The numbers of a row, "-" where none was published."""
        return [self.rows[row][metric].text if metric in self.rows[row] else "-" for metric in self.metrics]


def load_published() -> list[Published]:
    """Every published number, in the file's order. Raises RecordError naming a line that cannot be read."""
    text = resources.files("ssl_bench.report").joinpath("published.csv").read_text(encoding="utf-8")
    found = []
    for at, line in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            texts = {key: line[key] or "" for key in ("setting", "row", "task", "metric", "source", "note")}
            labels = float(line["labels"]) if line["labels"] else None
            found.append(
                Published(
                    value=float(line["value"]), labels=labels, digits=len(line["value"].partition(".")[2]), **texts
                )
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RecordError(f"published.csv line {at} cannot be read: {error}") from None
    return found


def published_blocks(
    published: Iterable[Published], shares: Iterable[float], tasks: Iterable[str]
) -> list[PublishedBlock]:
    """Published numbers by setting, in the file's order, where they belong beside ours: at least one of a setting's tasks is in our table, and a
    setting about a share of the labels has numbers of ours with that share.

    Parameters
    ----------
    published : the published numbers.
    shares : shares of the labels, in (0, 1], that our table has columns for.
    tasks : tasks of our rows, baselines and the row of all labels left out: every table has those.
    """
    known, ours = list(shares), {canonical(task) for task in tasks}
    blocks: dict[str, PublishedBlock] = {}
    for number in published:
        if number.labels is None or any(math.isclose(number.labels, share) for share in known):
            block = blocks.setdefault(number.setting, PublishedBlock(number.setting, [], [], {}))
            block.rows.setdefault(number.row, {})[number.metric] = number
            block.sources += [number.source] if number.source not in block.sources else []
            block.metrics += [number.metric] if number.metric not in block.metrics else []
    return [block for block in blocks.values() if block.tasks & ours]
