"""Numbers of others, kept in ``published.csv`` with their source and never mixed with our own, and how far our order
agrees with theirs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from ssl_bench.errors import RecordError
from ssl_bench.report.ground.paired_comparisons import SIGNIFICANT, Comparison


def canonical(task: str) -> str:
    """A task's name in which the order of a combination's members says nothing.

    >>> canonical("relative_position + colorization")
    'colorization+relative_position'
    """
    return "+".join(sorted(part.strip() for part in task.split("+")))


@dataclass(frozen=True)
class Published:
    """One published number.

    ``task`` names our task where the method is the same one, "" otherwise; ``value`` is in per cent.
    """

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


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of two orders of ``n`` rows, its exact p, and its interval over seeds (NaN: fewer than three that
    all rows share)."""

    n: int
    tau: float
    p: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0

    def __str__(self) -> str:
        if math.isnan(self.tau):
            return "none, because all rows are equal"
        return f"{self.tau:+.2f} (exact p {self.p:.3f}, {self._interval})"

    @property
    def _interval(self) -> str:
        if not math.isnan(self.low):
            # a draw of one seed alone is likelier than a tail: the ends are what single seeds say
            if self.seeds**-self.seeds > 0.025:
                return (
                    f"bootstrap over {self.seeds} seeds: "
                    f"{self.low:+.2f} to {self.high:+.2f}, too few for a 95 % interval"
                )
            return f"95 % bootstrap interval over {self.seeds} seeds: {self.low:+.2f} to {self.high:+.2f}"
        return f"{self.seeds or 'no'} shared seed{'s' if self.seeds != 1 else ''}: no interval"


@dataclass(frozen=True)
class Ordered:
    """Two of our rows, the first of which is the higher one where they were published, and what we find."""

    first: str
    second: str
    published: float  #: difference, in points
    ours: Comparison
    p_holm: float  #: adjusted over all pairs of the column

    @property
    def verdict(self) -> Literal["as published", "the other way", "cannot be told apart"]:
        if self.p_holm > SIGNIFICANT:
            return "cannot be told apart"
        return "as published" if self.ours.difference > 0 else "the other way"


@dataclass(frozen=True)
class Agreement:
    """One column of ours against one published metric; ``rows`` are pairs (published row, ours) without that of labels.

    ``pairs`` holds any two of these rows, where they have the seeds to be compared.
    """

    setting: str
    metric: str
    ours: str  #: which of our numbers, in words
    column: str
    data: str
    rows: tuple[tuple[str, str], ...]
    alone: Correlation
    with_labels: Correlation | None
    pairs: tuple[Ordered, ...] = ()
    protocol: str = ""  #: of our numbers

    def __str__(self) -> str:
        text = f"Kendall's tau between our {self.ours} and {self.metric}, {self.alone.n} rows in common: {self.alone}"
        text += f"; with the labels row, {self.with_labels.n} rows: {self.with_labels}" if self.with_labels else ""
        return text + (f"; {self._told_apart}" if self.pairs else "")

    @property
    def _told_apart(self) -> str:
        """How many pairs of rows our numbers decide, and which of them against the published order."""
        against = [pair for pair in self.pairs if pair.verdict == "the other way"]
        agree = sum(pair.verdict == "as published" for pair in self.pairs)
        over = "seeds and test images" if all(pair.ours.images for pair in self.pairs) else "seeds"
        text = (
            f"of {len(self.pairs)} pairs of rows {agree + len(against)} can be told apart here "
            f"(over {over}, Holm-corrected)"
        )
        if not against:
            return text + (", all in the published order" if agree else "")
        named = ", ".join(f"{pair.second} above {pair.first}" for pair in against)
        return f"{text}, {agree} in the published order and {len(against)} in the other one: {named}"


@dataclass
class PublishedBlock:
    """The numbers of one setting: rows by metrics, as they are printed,
    and how far our order of the same rows agrees."""

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
    numbers = []
    for at, line in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            texts = {key: line[key] or "" for key in ("setting", "row", "task", "metric", "source", "note")}
            labels = float(line["labels"]) if line["labels"] else None
            numbers.append(
                Published(
                    value=float(line["value"]), labels=labels, digits=len(line["value"].partition(".")[2]), **texts
                )
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RecordError(f"published.csv line {at} cannot be read: {error}") from None
    return numbers


def published_blocks(
    published: Iterable[Published], shares: Iterable[float], tasks: Iterable[str]
) -> list[PublishedBlock]:
    """Published numbers by setting, in the file's order, where they belong beside ours: at least one of a setting's
    tasks is in our table, and a
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
