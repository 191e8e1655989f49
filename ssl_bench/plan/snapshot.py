"""What a run's cells have on disk, every file read once: the plan, the scheduler and run.json are made of the same
moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.plan.score import validation_score
from ssl_bench.plan.stored import opened_of_damaged, pretraining_in, read_evaluation, refuse_another
from ssl_bench.records.files import TASK_FILE
from ssl_bench.records.places import is_stored, matching
from ssl_bench.records.published_weights import has_task_state
from ssl_bench.records.schema import EvaluationRecord, Pretraining, failure_files


@dataclass(frozen=True)
class StoredPretraining:
    """What is kept of a sound pretraining record."""

    id: str
    weights: str  #: digest of task.safetensors
    code: str  #: version of the code that trained it
    has_weights: bool  #: whether the state of the task is there


@dataclass(frozen=True)
class StoredEvaluation:
    """What is kept of a sound evaluation record: records are too large to hold those of thousands of cells."""

    final: bool  #: measured on test
    weights: str  #: digest of the weights it judged
    test_opened: int
    score: float | None  #: what candidates are compared by; None where the evaluator has no accuracy


class Snapshot:
    """The records of a run's cells, read when first asked for and not again.

    What other processes do meanwhile shows in a new snapshot, or after ``forget``. A record that cannot be used raises
    the same RecordError (DamagedRecord where it is damaged or another cell's) each time it is asked for.
    """

    def __init__(self) -> None:
        # by folder, so that a cell can be forgotten
        self._pretraining: dict[Path, StoredPretraining | RecordError | None] = {}
        self._evaluations: dict[Path, dict[str, StoredEvaluation | RecordError | None]] = {}
        self._failed: dict[Path, bool] = {}
        # by the folder of all rows: the name of a cell's folder to those that have it, listed once for all cells
        self._named: dict[Path, dict[str, list[Path]]] = {}

    def forget(self, cell: Cell) -> None:
        """Read what a cell has on disk anew when it is asked for again."""
        self._pretraining.pop(cell.folder, None)
        self._evaluations.pop(cell.folder, None)
        self._failed.pop(cell.folder, None)

    def folder_of(self, cell: Cell) -> Path:
        """The folder that holds a cell, or its beginning, under whatever row's name; its own where there is none."""
        begun = []
        home = cell.folder.parent.parent
        if home not in self._named:
            self._named[home] = {}
            for folder in matching(home, "*/*"):
                self._named[home].setdefault(folder.name, []).append(folder)
        for folder in dict.fromkeys((cell.folder, *self._named[home].get(cell.folder.name, ()))):
            try:
                stored = self._pretraining_in(folder)
            except RecordError:  # told, and refused, when the cell is computed
                begun.append(folder)
                continue
            if stored is not None and stored.id == cell.id:
                return folder
            if stored is None and is_stored(folder):
                begun.append(folder)
        return begun[0] if begun else cell.folder

    def pretraining(self, cell: Cell) -> StoredPretraining | None:
        """The pretraining of a cell; None where it is missing. Raises RecordError."""
        stored = self._pretraining_in(cell.folder)
        if stored is not None:
            refuse_another(cell, stored.id)
        return stored

    def _pretraining_in(self, folder: Path) -> StoredPretraining | None:
        if folder not in self._pretraining:
            try:
                record = pretraining_in(folder)
            except RecordError as error:
                self._pretraining[folder] = error
            else:
                self._pretraining[folder] = None if record is None else _stored_pretraining(record, folder)
        stored = self._pretraining[folder]
        if isinstance(stored, RecordError):
            raise stored.with_traceback(None)
        return stored

    def evaluation(self, cell: Cell, planned: PlannedEvaluation) -> StoredEvaluation | None:
        """An evaluation of a cell, its predictions checked against it; None where it is missing. Raises RecordError."""
        known = self._evaluations.setdefault(cell.folder, {})
        if planned.id not in known:
            try:
                record = read_evaluation(cell, planned)
            except RecordError as error:
                known[planned.id] = error
            else:
                known[planned.id] = None if record is None else _kept_evaluation(record)
        stored = known[planned.id]
        if isinstance(stored, RecordError):
            raise stored.with_traceback(None)
        return stored

    def sound_evaluation(self, cell: Cell, planned: PlannedEvaluation) -> StoredEvaluation | None:
        """The same, None also where it is damaged or of weights that were trained again since: what counts for a choice
        and is not measured again."""
        try:
            evaluation, pretraining = self.evaluation(cell, planned), self.pretraining(cell)
        except DamagedRecord:
            return None
        if evaluation is not None and pretraining is not None and evaluation.weights != pretraining.weights:
            return None
        return evaluation

    def times_opened(self, cell: Cell, planned: PlannedEvaluation) -> int:
        """How often test was opened for an evaluation."""
        try:
            evaluation = self.evaluation(cell, planned)
        except RecordError:
            return opened_of_damaged(cell, planned)
        return evaluation.test_opened if evaluation is not None else 0

    def failed(self, cell: Cell) -> bool:
        """Whether the last attempt at a cell left a failure."""
        if cell.folder not in self._failed:
            self._failed[cell.folder] = bool(failure_files(cell.folder))
        return self._failed[cell.folder]

    def why_blocked(self, cell: Cell, missing: bool) -> str:
        """Why a cell cannot be gone on with as it is; "" where it can. ``missing``: whether its weights are still
        needed."""
        try:
            pretraining = self.pretraining(cell)
        except DamagedRecord as error:
            return str(error)
        if pretraining is not None and missing and not pretraining.has_weights:
            return f"its weights, {cell.folder / TASK_FILE}, are gone, and evaluations are missing"
        return ""


def _stored_pretraining(record: Pretraining, folder: Path) -> StoredPretraining:
    return StoredPretraining(record.id, record.weights, record.environment.code, has_task_state(folder))


def _kept_evaluation(record: EvaluationRecord) -> StoredEvaluation:
    return StoredEvaluation(record.final, record.weights, record.test_opened, validation_score(record))
