"""A matrix made concrete on one machine: its data, rows and cells, and what of them is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ssl_bench.data import Data
from ssl_bench.errors import RecordError, SpecError
from ssl_bench.plan.candidate import Candidate
from ssl_bench.plan.cells import HEADLINE, Cell, PlannedEvaluation, cell_of
from ssl_bench.plan.evaluations import EvaluatorOnSets
from ssl_bench.plan.rows import Row
from ssl_bench.plan.snapshot import Snapshot
from ssl_bench.records.schema import digest
from ssl_bench.spec.matrix import Matrix


@dataclass
class RunPlan:
    """A matrix made concrete on one machine: data, rows, cells, and what of it is done."""

    matrix: Matrix
    out: Path
    data: Data
    rows: list[Row]
    evaluators: list[EvaluatorOnSets]
    device: torch.device
    final: bool
    only: tuple[str, ...] = ()
    #: train again where a record is damaged, or weights are that are still needed, or those are gone
    recompute: bool = False
    winners: dict[str, Candidate] = field(default_factory=dict)
    skip_checks: bool = False
    data_root: Path | None = None  #: where sources were looked for before anything was downloaded
    #: images that noise stands in for: what they are, and their bytes once packed
    unpacked: Mapping[str, int] = field(default_factory=dict)
    #: rows left out of a plan, and why: weights that would have to be downloaded
    unseen: Mapping[str, str] = field(default_factory=dict)
    #: what is on disk, as of the last ``look_again``
    snapshot: Snapshot = field(default_factory=Snapshot, repr=False)
    created: str = ""  #: when the first command for this folder began; "" until run.json is written
    _cells: dict[tuple[str, int, int], Cell] = field(default_factory=dict, repr=False)
    _folders: dict[str, Path] = field(default_factory=dict, repr=False)

    def look_again(self, cell: Cell | None = None) -> None:
        """Ask the disk anew, of one cell or of all: other processes may have gone on."""
        if cell is None:
            self.snapshot = Snapshot()
        else:
            self.snapshot.forget(cell)

    def fingerprint(self) -> str:
        """Of all that its cells' ids are made of: two processes that divide a run must agree on it."""
        cells = [self.cell(row, candidate, self.matrix.seeds[0]) for row in self.rows for candidate in row.candidates]
        return digest({"cells": [[cell.id, *(planned.id for planned in cell.evaluations)] for cell in cells]})

    def cell(self, row: Row, candidate: Candidate, seed: int, evaluators: list[EvaluatorOnSets] | None = None) -> Cell:
        """One cell, where it lies already or will: rows of equal settings share one, and a row's name decides
        nothing."""
        key = (row.name, id(candidate), seed)  # a matrix of thousands of cells is gone through several times
        if evaluators is None and key in self._cells:
            return self._cells[key]
        cell = cell_of(
            self.matrix,
            self.data,
            row,
            candidate,
            seed,
            self.out,
            self.evaluators if evaluators is None else evaluators,
        )
        if cell.id not in self._folders:
            self._folders[cell.id] = self.snapshot.folder_of(cell)
        cell = replace(cell, folder=self._folders[cell.id])
        if evaluators is None:
            self._cells[key] = cell
        return cell

    def candidate_cells(self, row: Row) -> list[Cell]:
        """The cells that decide a choice: every candidate, first seed, and the one evaluator that decides (the linear
        probe where there is one)."""
        able = [e for e in self.evaluators if e.evaluator.accuracy and suits(e.evaluator, row.task)]
        able = [e for e in able if self.matrix.seeds[0] in e.seeds]
        headline = [e for e in able if e.evaluator.name == HEADLINE] or able[:1]
        if not headline:
            raise SpecError(
                f"task {row.name!r} has options to choose between, and no evaluator that could choose; add "
                "`linear` to `evaluate`"
            )
        return [self.cell(row, candidate, self.matrix.seeds[0], headline) for candidate in row.candidates]

    def opened(self, row: Row) -> bool:
        """Whether any candidate of a row has seen test."""
        cells = [self.cell(row, candidate, self.matrix.seeds[0]) for candidate in row.candidates]
        return any(self.snapshot.times_opened(cell, planned) for cell in cells for planned in cell.evaluations)

    def cells(self, chosen: Mapping[str, Candidate] | None = None) -> list[Cell]:
        """The cells of the table, seed by seed, so that a whole table of one seed comes first. ``chosen``: other
        winners than its own."""
        winners = self.winners if chosen is None else chosen
        cells = []
        for seed in self.matrix.seeds:
            for row in self.rows:
                winner = row.candidates[0] if len(row.candidates) == 1 else winners.get(row.name)
                if winner is not None:
                    cells.append(self.cell(row, winner, seed))
        return cells

    def asked_for(self, row: Row) -> bool:
        """Whether a row is to be computed now; the table keeps all rows, with what they have."""
        return not self.only or row.name in self.only or row.spec.task in self.only

    def undecided(self) -> list[Row]:
        """Rows to be computed now whose choice is still open."""
        return [
            row for row in self.rows if len(row.candidates) > 1 and row.name not in self.winners and self.asked_for(row)
        ]

    def todo(self) -> list[Cell]:
        """Cells to be computed now that miss anything: candidates of open choices, then the table's."""
        choices = [cell for row in self.undecided() for cell in self.candidate_cells(row) if not self.done(cell, False)]
        return choices + [cell for cell in self.cells() if self.asked_for(cell.row) and not self.done(cell)]

    def missing(self, cell: Cell, final: bool | None = None) -> list[PlannedEvaluation]:
        """Evaluations of a cell that have no record that can be used (or, in a final run, one without test)."""
        final = self.final if final is None else final
        missing = []
        for planned in cell.evaluations:
            stored = self.snapshot.sound_evaluation(cell, planned)
            if (stored is None or (final and not stored.final)) and applies(cell, planned):
                missing.append(planned)
        return missing

    def done(self, cell: Cell, final: bool | None = None) -> bool:
        try:
            return self.snapshot.pretraining(cell) is not None and not self.missing(cell, final)
        except RecordError:  # it is told when the cell is computed
            return False

    def blocked(self, cell: Cell, final: bool | None = None) -> str:
        """Why a cell can only be trained again, which needs ``recompute``; "" where it needs not."""
        try:
            return self.snapshot.why_blocked(cell, missing=bool(self.missing(cell, final)))
        except RecordError:  # a folder in its place, no permission: nothing that training again would mend
            return ""


def applies(cell: Cell, planned: PlannedEvaluation) -> bool:
    """Whether an evaluator can judge a cell's row, as far as its task tells: the network is asked when it is there."""
    return suits(planned.evaluator, cell.row.task)


def suits(evaluator: type[Any], task: type[Any]) -> bool:
    """Representations that are not trained networks (pixels, PCA) cannot be fine-tuned; what an evaluator needs a task
    has to offer."""
    return (not evaluator.needs_training or task.role.fine_tunes) and evaluator.needs <= task.offers()
