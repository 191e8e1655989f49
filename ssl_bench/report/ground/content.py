"""What a table is made of: columns, rows, cells and marks. How it looks is for ``rendering``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from ssl_bench.records.protocols import split_protocol
from ssl_bench.records.schema import Block
from ssl_bench.report.ground.paired_comparisons import SIGNIFICANT
from ssl_bench.report.ground.published import PublishedBlock

BLOCKS = {
    "pretext": "",
    "elsewhere": "pretrained elsewhere",
    "baseline": "without pretraining",
    "labels": "with all labels",
}


@dataclass(frozen=True)
class Column:
    """What a column shows. ``key`` names it in the csv; ``unit`` "%" means fractions shown in per cent, "points"
    differences of such."""

    key: str
    group: str
    title: str
    evaluator: str = ""  #: "" for facts of the pretraining
    metric: str = ""
    #: a stage, "best" (chosen on validation), "code" (any other representation) or "" (whatever is there)
    stage: str = ""
    labels: float | None = None
    split: str = "test"
    unit: str = "%"
    digits: int | None = 1  #: behind the point; None: 3 that count
    higher_is_better: bool | None = True  #: None: rows are not compared by it
    share_of_images: bool = False  #: of images that were answered right
    classic: bool = False  #: belongs to the classic table
    published: str = ""  #: the published metric that it is the counterpart of
    described: str = ""  #: where it is held against published numbers
    data: str = ""  #: set it was measured on, where an evaluator brings its own; "": the section's
    folds: bool = False  #: goes to a second table where the terminal is narrow
    protocol: str = ""  #: of its numbers, such as "linear-lbfgs v2"; "" while there are none
    older: bool = False  #: of an older version than the installed evaluator's
    bare: bool = False  #: shown without intervals
    repeated: bool = False  #: its numbers stand in another column already

    @property
    def heading(self) -> str:
        """The group, and the version of the protocol where it is an older one."""
        return f"{self.group}, protocol v{split_protocol(self.protocol)[1]}" if self.older else self.group


@dataclass
class Entry:
    """One cell of the table.

    ``values`` holds one number a seed (label draws averaged). ``interval`` says what low and high are: "binomial",
    "paired" (of a difference on the same images), "classes" (of the images of each class) or "bootstrap" over test
    images, "draws" over these and draws of labels, "t" over seeds, "" where there is none: two values, of two seeds or
    of two draws of one (``pair``), are both shown.
    """

    status: Literal["value", "none", "missing", "failed", "damaged"] = "none"
    values: dict[int, float] = field(default_factory=dict)
    low: float = math.nan
    high: float = math.nan
    interval: Literal["", "binomial", "paired", "classes", "draws", "bootstrap", "t"] = ""
    #: half the width of the interval by resampling test images, mean over seeds, where an evaluator gives one
    resampled: float = math.nan
    images: int = 0
    draws: int = 0
    stage: str = ""  #: the stage chosen, where the column does not say it
    equal: bool = False  #: cannot be told apart from the best pretrained row, or is that row with others beside it
    best: bool = False  #: highest mean among the pretrained rows, where three or more seeds allow saying so
    below: bool = False  #: mean worse than random's
    longest: bool = False  #: trained for the longest length that could be chosen: a lower bound, never ``below``
    saw_labels: bool = False  #: the column is about a share of the labels, and the pretraining was given labels
    pair: tuple[float, ...] = ()  #: the values of two draws of labels, where there is one seed
    #: among the pretrained rows, with the lowest and highest of its interval; None where they share too few seeds
    rank: tuple[int, int, int] | None = None

    @property
    def value(self) -> float:
        return sum(self.values.values()) / len(self.values) if self.values else math.nan

    @property
    def both(self) -> tuple[float, ...]:
        """The two values of two seeds, or of two draws of labels of one seed; () where there are more or fewer."""
        return tuple(self.values[seed] for seed in sorted(self.values)) if len(self.values) == 2 else self.pair

    @property
    def among_best(self) -> bool:
        """Whether it is the best of its column, or cannot be told apart from it."""
        return self.best or self.equal

    def text(self, column: Column) -> str:
        """As printed: "88.4 ±0.6 s4=", both values of two seeds or two draws, "-", "…", "failed" or "damaged"."""
        if self.status != "value":
            return {"none": "-", "missing": "…", "failed": "failed", "damaged": "damaged"}[self.status]
        both = self.both if column.unit in ("%", "points") else ()
        number = ", ".join(_formatted_number(value, column) for value in both or (self.value,))
        if self.interval and not column.bare:
            number += f" ±{_formatted_number((self.high - self.low) / 2, column).lstrip('+')}"
        return (
            number
            + (f" {self.stage}" if self.stage else "")
            + ("=" if self.equal else "")
            + ("▾" if self.below else "")
            + ("↑" if self.longest else "")
            + ("†" if self.saw_labels else "")
        )


def _formatted_number(value: float, column: Column) -> str:
    if column.unit == "%":
        return f"{100 * value:.{column.digits}f}"
    if column.unit == "points":
        return f"{100 * value:+.{column.digits}f}".replace("-", "−")
    if value == 0:
        return "0"
    if column.digits is None:
        return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:.{column.digits}f}" if value < 10 else f"{value:,.0f}"


@dataclass
class Line:
    """A row of the table. ``failures`` are sentences; a row without any number shows them in place of its cells."""

    row: str
    name: str  #: as shown: a variant says so, a pretext task that was given labels carries a dagger
    task: str
    block: Block
    uses_labels: bool = False
    variant: str = ""
    cells: dict[str, Entry] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not any(cell.status == "value" for cell in self.cells.values())

    @property
    def applies(self) -> bool:
        """Whether any column is about such a row: pixels have no stage to choose, and nothing to detect with."""
        return any(cell.status != "none" for cell in self.cells.values())


@dataclass(frozen=True)
class PairwiseResult:
    """The best pretrained row of a column (first) against another; ``p_holm`` is adjusted over the column's
    comparisons."""

    column: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int
    images: int


@dataclass(frozen=True)
class ColumnPairs:
    """Any two pretrained rows of a column; ``p_holm`` is adjusted over all of its pairs."""

    column: str
    mean_ranks: dict[str, float]  #: row to the mean over seeds of its rank
    results: tuple[PairwiseResult, ...]

    @property
    def count(self) -> int:
        return len(self.results)

    @property
    def apart(self) -> int:
        """How many pairs can be told apart."""
        return sum(result.p_holm <= SIGNIFICANT for result in self.results)


@dataclass
class Section:
    """The table of one labelled set; small ones below it are of labels saved, of what was measured under another
    protocol and, on pages alone, of gains by stage and ranks."""

    data: str
    columns: list[Column]
    lines: list[Line]
    comparisons: list[PairwiseResult] = field(default_factory=list)
    pairs: list[ColumnPairs] = field(default_factory=list)
    title: str = ""
    saved: Section | None = None
    earlier: Section | None = None
    gains: Section | None = None
    ranks: Section | None = None

    @property
    def below(self) -> list[Section]:
        """The small tables that a terminal shows too."""
        return [part for part in (self.saved, self.earlier) if part is not None]

    @property
    def below_on_pages(self) -> list[Section]:
        """The small tables of a page: Markdown, HTML, LaTeX."""
        return [*(part for part in (self.gains, self.ranks) if part is not None), *self.below]

    def groups(self) -> list[tuple[str, int]]:
        """Heading of columns that stand side by side under it, and how many they are."""
        return [
            (heading, len(list(columns))) for heading, columns in groupby(self.columns, lambda column: column.heading)
        ]

    def blocks(self) -> Iterable[tuple[str, list[Line]]]:
        """Heading ("" for the first block) and rows, in the order shown; empty blocks are left out."""
        for block, heading in BLOCKS.items():
            lines = [line for line in self.lines if line.block == block]
            if lines:
                yield heading, lines


@dataclass(frozen=True)
class LegendLine:
    """A line below the table: a sign or word, and what it means; ``brief``, where it is one of the few that every
    reader needs."""

    sign: str
    text: str
    brief: str = ""


@dataclass
class TableContent:
    """Everything that a finished table says, however it is printed."""

    name: str
    title: list[str]  #: parts of the first line
    validation: bool
    sections: list[Section]
    legend: list[tuple[str, str]]  #: (sign or word, what it means), all of it
    warnings: list[str] = field(default_factory=list)
    published: list[PublishedBlock] = field(default_factory=list)
    brief: list[tuple[str, str]] = field(default_factory=list)  #: what this table needs, at most eight short lines
