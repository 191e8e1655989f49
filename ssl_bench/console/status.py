"""How far a run is, from its records and locks alone, whoever computes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from ssl_bench.errors import RecordError
from ssl_bench.records.places import is_stored
from ssl_bench.records.predictions import checked_predictions
from ssl_bench.records.schema import (
    EvaluationRecord,
    Failure,
    Pretraining,
    Run,
    RunCell,
    RunRow,
    failure_files,
    judged_other_weights,
    read_record,
    safe_name,
)
from ssl_bench.system.amounts import duration
from ssl_bench.system.disk import is_locked
from ssl_bench.system.terminal import escape, harmless

DONE, NOW, BEGUN, FAILED, DAMAGED, MISSING, NOT_ASKED = (
    "done",
    "under way now",
    "begun",
    "failed",
    "damaged",
    "missing",
    "not asked for",
)
_BEGINNINGS = ("checkpoint.safetensors", "*.parts")


@dataclass(frozen=True)
class CellStatus:
    """One cell as it is on disk at this moment.

    Attributes
    ----------
    state : one of the words above: in the order they are tried, done, under way now, damaged, failed, begun, not asked
        for, missing.
    trained : whether its pretraining is finished; ``judged`` of ``expected`` evaluations are, of the weights that it
        left.
    why : what failed or is damaged, on one line; "" otherwise.
    seconds : spent on its finished parts.
    """

    state: str
    trained: bool
    judged: int
    expected: int
    why: str
    seconds: float


def status_of(folder: Path, cell: RunCell, final: bool, asked_for: bool = True) -> CellStatus:
    """Look at one cell.

    Parameters
    ----------
    folder : the results folder.
    final : whether an evaluation counts only with its test.
    asked_for : whether the last command was to compute it.
    """
    where = folder / cell.folder
    pretraining, judged, seconds, why = None, 0, 0.0, ""
    try:
        if is_stored(where / "pretrain.json"):
            pretraining = read_record(where / "pretrain.json", Pretraining)
            seconds += pretraining.seconds.get("total", 0.0)
        for expected in cell.evaluations:
            path = where / f"{safe_name(expected.evaluator)}-{expected.id}.json"
            if is_stored(path):
                record = read_record(path, EvaluationRecord)
                seconds += record.seconds
                checked_predictions(path.with_suffix(".npz"), record)
                current = pretraining is None or not judged_other_weights(record, pretraining)
                judged += current and (record.final or not final)
        failures = [read_record(path, Failure) for path in failure_files(where)]
    except RecordError as error:
        failures, why = [], _summary_line(str(error))
    trained = pretraining is not None
    whole = trained and judged == len(cell.evaluations)
    if whole and not why:
        state = DONE
    elif is_locked(where / ".lock"):
        state = NOW
    elif why:
        state = DAMAGED
    elif failures:
        state, why = FAILED, "; ".join(f"{failure.where}: {_summary_line(failure.message)}" for failure in failures)
    elif trained or any(any(where.glob(pattern)) for pattern in _BEGINNINGS):
        state = BEGUN
    else:
        state = MISSING if asked_for else NOT_ASKED
    return CellStatus(state, trained, judged, len(cell.evaluations), why, seconds)


def print_status(console: Console, folder: Path) -> None:
    """Every cell of a run with its state, the candidates of choices, and the time that went into them."""
    run = read_record(folder / "run.json", Run)
    rows = {row.row: row for row in run.rows}
    candidates = {name: _candidates(run, row) for name, row in rows.items()}
    lines = [("row", "seed", "pretraining", "evaluations", "state")]
    spent: dict[str, float] = {}  # by folder: rows of equal settings share one
    states: Counter[str] = Counter()

    def add(cell: RunCell, final: bool, note: str = "") -> str:
        row = rows.get(cell.row)
        asked_for = not run.only or cell.row in run.only or (row is not None and row.task in run.only)
        status = status_of(folder, cell, final, asked_for)
        spent[cell.folder] = max(status.seconds, spent.get(cell.folder, 0.0))
        words = f"{status.state}: {status.why}" if status.why else status.state
        pretraining = "done" if status.trained else "-"
        judged = f"{status.judged}/{status.expected}"
        lines.append((cell.row, str(cell.seed), pretraining, judged, f"{note}{words}"))
        return status.state

    for cell in run.cells:
        if not _is_undecided(rows.get(cell.row)):
            states[add(cell, run.final)] += 1
    for name, cells in candidates.items():
        for number, cell in enumerate(cells, 1):
            which = ", ".join(f"{option} {value}" for option, value in cell.chosen.items()) or str(number)
            add(cell, False, f"candidate {which}: ")
        if _is_undecided(rows[name]):
            states["with an open choice"] += 1
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    kind = "final" if run.final else "validation only"
    seconds = sum(spent.values())
    so_far = f"; {duration(seconds)} spent on finished parts" if seconds else ""
    console.print(escape(f"{run.name}: {counts or 'no cells'}; {kind}{so_far}"), soft_wrap=True)
    _print_columns(console, lines)
    for name, row in rows.items():
        if _is_undecided(row):
            told = f"{name}: {row.choices} candidates, none chosen yet; its cells follow the choice"
            console.print(escape(told), soft_wrap=True)


def _print_columns(console: Console, lines: Sequence[tuple[str, ...]]) -> None:
    """Lines below their titles, which are the first. Folded where they are wider than the terminal; else padded here,
    which lists thousands of cells in the time that a table needs for hundreds."""
    shown = [tuple(harmless(text) for text in line) for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    if sum(widths) + 2 * len(widths) <= console.width and not any(
        "\n" in text or "\t" in text for line in shown for text in line
    ):
        padded = (
            "  ".join(set_cell_size(text, width) for text, width in zip(line, widths, strict=True)) for line in shown
        )
        console.print(escape(next(padded)), style="table.header", soft_wrap=True)
        console.out("\n".join(line.rstrip() for line in padded), highlight=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in lines[0]:
        table.add_column(title, overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    console.print(table)


def _is_undecided(row: RunRow | None) -> bool:
    """Whether a row's choice is still to be made."""
    return row is not None and row.choices > 1 and not row.chosen


def _candidates(run: Run, row: RunRow) -> Sequence[RunCell]:
    """The cells that decide a row's choice and are not in the table: all of them while it is open, then those that
    lost."""
    shown = [cell for cell in run.cells if cell.row == row.row] if _is_undecided(row) else []
    return [*shown, *(cell for cell in run.losers if cell.row == row.row)]


def _summary_line(text: str) -> str:
    """The first line that says something, cut to what a table can hold."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 160 else f"{line[:160]}..."
