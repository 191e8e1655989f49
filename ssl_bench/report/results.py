"""What ``ssl_bench.load`` gives: a run's records as data frames, and its table in every form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ssl_bench.report.building.build import build_table
from ssl_bench.report.building.gains import gains_of
from ssl_bench.report.building.remeasured import remeasured_of
from ssl_bench.report.ground.content import TableContent
from ssl_bench.report.reading.folder import read_run
from ssl_bench.report.reading.records import RunRecords
from ssl_bench.report.rendering.csv_files import table_csv
from ssl_bench.report.rendering.html import html_page
from ssl_bench.report.rendering.latex import latex_tables
from ssl_bench.report.rendering.markdown import markdown_page
from ssl_bench.report.rendering.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text


@dataclass
class Table(TableContent):
    """A finished table. Build it with ``Results.table()``."""

    def terminal(self, width: int = 120, legend: bool = False) -> str:
        """Plain text of at most ``width`` columns where the names allow it; fine-tuning goes to a second table below
        120.

        ``legend``: the whole legend in place of the few lines that the table needs.
        """
        return "\n".join(text for _, text in terminal(self, width, legend)) + "\n"

    def markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        return markdown_page(self)

    def csv(self) -> str:
        """Plain numbers, one line a row and column: value, low, high and n. Accuracies are fractions."""
        return table_csv(self)

    def latex(self) -> str:
        """A ``tabular`` for booktabs."""
        return latex_tables(self)

    def html(self, figures: Iterable[str] = ()) -> str:
        """One page without scripts; ``figures`` are addresses of pictures to show below the table."""
        return html_page(self, list(figures))

    def __str__(self) -> str:
        return self.terminal()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """For a rich console: the terminal's text at its width, never read as markup."""
        from rich.text import Text

        styles = {
            "title": "bold",
            "heading": "dim",
            "legend": "dim",
            "published": "italic dim",
            "warning": "bold yellow",
            "failure": "red",
        }
        for style, line in terminal(self, options.max_width):
            yield Text(line, style=styles.get(style, ""), no_wrap=True, overflow="ignore")


@dataclass
class Results(RunRecords):
    """A run's records, as data frames and tables.

    ``run`` names what the table is made of, ``failures`` why cells have no numbers, ``missing`` which expected records
    are not there. Numbers of two versions of a protocol are never mixed: those of another version than their
    evaluator's others are ``earlier``.
    """

    @cached_property
    def gains(self) -> pd.DataFrame:
        """One line per accuracy at a row's best stage: ``value``, ``random`` (the untrained network's at that same
        stage) and ``gain``, their difference."""
        return gains_of(self)

    @cached_property
    def remeasured(self) -> pd.DataFrame:
        """One line per number that a cell has under two versions of a protocol: ``before``, ``value`` and their
        ``difference``."""
        return remeasured_of(self)

    def table(self, wide: bool = False, classic: bool = False) -> Table:
        """The comparison, one section per labelled set.

        ``wide`` adds columns: every k, codes, diagnostics, images/s, memory; ``classic`` keeps those of the classic
        table and the cost alone.
        """
        return Table(**_field_values(build_table(self, wide, classic)))


def load(folder: str | Path) -> Results:
    """Read a results folder.

    One record that cannot be used does not cost the others: it is listed in ``missing`` with its damage, and in
    ``damaged``.

    Parameters
    ----------
    folder : where ``run.json`` lies, such as ``runs/quick``.

    Returns
    -------
    Results, also of a run that is not finished: what is not there yet is listed in ``missing``.

    Raises
    ------
    RecordError
        Where there is no run, or ``run.json`` cannot be used.
    """
    return Results(**_field_values(read_run(folder)))


def _field_values(content: Any) -> dict[str, Any]:
    """The fields of a dataclass, for a class that adds methods and no fields to it."""
    return {field.name: getattr(content, field.name) for field in fields(content)}
