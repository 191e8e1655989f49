"""Running a matrix: plan, compute what is missing, choose, test, report. Nothing finished is ever lost by a later failure."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ssl_bench.cells import Examination, Workshop, has_weights, pretrain_cell
from ssl_bench.data import Data, load
from ssl_bench.environment import now
from ssl_bench.errors import Interrupted, RecordError, SpecError, SSLBenchError, did_you_mean
from ssl_bench.fit import Progress, choose_device
from ssl_bench.matrix import HEADLINE, Candidate, Cell, PlannedEvaluation, Row, as_matrix, cell_of, evaluators_of, rows_of
from ssl_bench.records import EvaluationRecord, Failure, Pretraining, Run, RunCell, RunEvaluation, RunRow, read_record, write_record
from ssl_bench.registry import load_plugin
from ssl_bench.spec import Matrix

LOCK_POLL_SECONDS = 2.0


class Observer:
    """Who watches a run; every method may be overridden, none has to be."""

    def planned(self, work: Work) -> None: ...
    def cell_started(self, cell: Cell, number: int, total: int) -> None: ...
    def progressed(self, progress: Progress) -> None: ...
    def noted(self, text: str) -> None: ...
    def cell_finished(self, cell: Cell, pretraining: Pretraining, evaluations: list[EvaluationRecord]) -> None: ...
    def cell_failed(self, cell: Cell, failure: Failure) -> None: ...
    def chose(self, row: Row, winner: Candidate, scores: Mapping[str, float]) -> None: ...


@dataclass
class Work:
    """A matrix made concrete on one machine: data, rows, cells, and what of it is done."""

    matrix: Matrix
    out: Path
    data: Data
    rows: list[Row]
    evaluators: list[tuple[Any, type[Any], Any]]
    device: torch.device
    final: bool
    only: tuple[str, ...] = ()
    winners: dict[str, Candidate] = field(default_factory=dict)

    def candidate_cells(self, row: Row) -> list[Cell]:
        """The cells that decide a choice: every candidate, first seed, headline evaluator only."""
        headline = [e for e in self.evaluators if e[1].name == HEADLINE] or self.evaluators[:1]
        return [cell_of(self.matrix, self.data, row, candidate, self.matrix.seeds[0], self.out, headline) for candidate in row.candidates]

    def cells(self) -> list[Cell]:
        """The cells of the table, seed by seed, so that a whole table of one seed comes first."""
        found = []
        for seed in self.matrix.seeds:
            for row in self.rows:
                winner = row.candidates[0] if len(row.candidates) == 1 else self.winners.get(row.name)
                if winner is not None:
                    found.append(cell_of(self.matrix, self.data, row, winner, seed, self.out, self.evaluators))
        return found

    def asked_for(self, row: Row) -> bool:
        """Whether a row is to be computed now; the table keeps all rows, with what they have."""
        return not self.only or row.name in self.only or row.spec.task in self.only

    def undecided(self) -> list[Row]:
        """Rows to be computed now whose choice is still open."""
        return [row for row in self.rows if len(row.candidates) > 1 and row.name not in self.winners and self.asked_for(row)]

    def todo(self) -> list[Cell]:
        """Cells to be computed now that miss anything: candidates of open choices, then the table's."""
        choices = [cell for row in self.undecided() for cell in self.candidate_cells(row) if not self.done(cell, False)]
        return choices + [cell for cell in self.cells() if self.asked_for(cell.row) and not self.done(cell)]

    def missing(self, cell: Cell, final: bool | None = None) -> list[PlannedEvaluation]:
        """Evaluations of a cell that have no record yet (or, in a final run, one without test)."""
        final = self.final if final is None else final
        found = []
        for planned in cell.evaluations:
            record = read_evaluation(cell, planned)
            if (record is None or (final and not record.final)) and applies(cell, planned):
                found.append(planned)
        return found

    def done(self, cell: Cell, final: bool | None = None) -> bool:
        return read_pretraining(cell) is not None and not self.missing(cell, final)


def applies(cell: Cell, planned: PlannedEvaluation) -> bool:
    """Representations that are not trained networks (pixels, PCA) cannot be fine-tuned."""
    return not planned.evaluator.needs_training or cell.row.task.trainable


def read_pretraining(cell: Cell) -> Pretraining | None:
    path = cell.folder / "pretrain.json"
    return read_record(path, Pretraining) if path.is_file() else None


def read_evaluation(cell: Cell, planned: PlannedEvaluation) -> EvaluationRecord | None:
    path = cell.folder / f"{planned.file_name}.json"
    return read_record(path, EvaluationRecord) if path.is_file() else None


def prepare(
    matrix: Matrix | Mapping[str, Any] | str | Path, out: str | Path | None = None, *, sets: tuple[str, ...] = (), only: tuple[str, ...] = (),
    val: bool = False, limit: int | None = None, device: str | None = None, data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (), smoke: bool = False, progress: Callable[[str, int, int], None] | None = None,
) -> Work:
    """Everything before training: plugins, matrix, data, checks. Every mistake that can be found without training is found here."""
    for plugin in plugins:
        load_plugin(plugin)
    spec = as_matrix(matrix, sets)
    if limit is not None:
        if limit < 1:
            raise SpecError(f"--limit {limit}: at least 1 image")
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"limit": spec.data.limit.model_copy(update={"train": limit, "test": limit})})})
    _check_only(spec, only)
    chosen_device = choose_device(device)
    folder = Path(out) if out is not None else Path("runs") / spec.name
    _refuse_newer(folder)
    data = load(spec.data, data_root=Path(data_root) if data_root else None, progress=progress)
    rows = rows_of(spec, data)
    if not rows:
        raise SpecError(f"matrix {spec.name!r} has no rows: give it `tasks` or `baselines`")
    work = Work(spec, folder, data, rows, evaluators_of(spec, data, smoke), chosen_device, final=not val, only=only)
    if not smoke:
        for row in rows:
            if len(row.candidates) > 1:
                _choose(work, row)
    return work


def _check_only(spec: Matrix, only: tuple[str, ...]) -> None:
    known = {name for row in (*spec.tasks, *spec.baselines) for name in (row.row, row.task)}
    for name in only:
        if name not in known:
            raise SpecError(f"--only {name!r}: no such row in matrix {spec.name!r}; {did_you_mean(name, known)}")


def _refuse_newer(folder: Path) -> None:
    if (folder / "run.json").is_file():
        read_record(folder / "run.json", Run)
    elif folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file; --out needs a folder")


def run(
    matrix: Matrix | Mapping[str, Any] | str | Path, out: str | Path | None = None, *, observer: Observer | None = None, report: bool = True, **settings: Any
) -> Any:
    """Run a benchmark matrix and return its Results.

    Parameters
    ----------
    matrix : a Matrix, plain data, a shipped name ("quick") or a YAML file.
    out : results folder; ``runs/NAME`` unless given. What it already holds is not computed again.
    settings : as for ``prepare``: sets, only, val, limit, device, data_root, plugins.

    Raises
    ------
    SSLBenchError : the matrix or its data cannot work. A cell that fails later does not raise: it is recorded, shown in the table
        and counted in ``Results.failures``.
    Interrupted : Ctrl-C or SIGTERM; everything reached is saved and the same call goes on from there.
    """
    from ssl_bench.report import load as load_results
    from ssl_bench.report import write_report

    observer = observer or Observer()
    work = prepare(matrix, out, **settings)
    observer.planned(work)
    carry_out(work, observer)
    if report:
        write_report(work.out)
    return load_results(work.out)


def carry_out(work: Work, observer: Observer) -> None:
    """Compute every missing cell: choices first (validation only), then the table."""
    started, before = time.monotonic(), _seconds_before(work)
    with _stoppable() as stop:
        shop = Workshop(
            data=work.data, backbone=work.matrix.backbone, device=work.device, precision=work.matrix.precision,
            checkpoint_seconds=work.matrix.pretrain.checkpoint_seconds, looks=work.matrix.pretrain.monitor, stop=stop,
            on_progress=observer.progressed, on_note=observer.noted,
        )
        _write_run(work, before)
        try:
            todo = [cell for row in work.undecided() for cell in work.candidate_cells(row)]
            _compute(todo, work, shop, observer, final=False)
            for row in work.undecided():
                _choose(work, row, observer)
            _write_run(work, before + time.monotonic() - started)
            _compute([cell for cell in work.cells() if work.asked_for(cell.row)], work, shop, observer, final=work.final)
        finally:
            _write_run(work, before + time.monotonic() - started)


def _compute(cells: list[Cell], work: Work, shop: Workshop, observer: Observer, final: bool) -> None:
    """Divide the missing cells with whoever else works on the folder; come back to those others hold until they are done."""
    waiting = [cell for cell in cells if not work.done(cell, final)]
    total = len(waiting)
    tried: set[str] = set()
    while waiting:
        held = []
        for cell in waiting:
            if shop.stop():
                raise Interrupted(f"stopped; {total - len(waiting)} of {total} cells are finished, and the same command goes on from here")
            if cell.id in tried or work.done(cell, final):
                continue
            cell.folder.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(cell.folder / ".lock", blocking=False):
                    tried.add(cell.id)
                    if not work.done(cell, final):
                        observer.cell_started(cell, len(tried), total)
                        _attempt(cell, work, shop, observer, final)
            except Timeout:
                held.append(cell)
        waiting = [cell for cell in held if not work.done(cell, final)]
        if waiting:
            shop.on_note(f"waiting for {len(waiting)} cells that another process computes")
            time.sleep(LOCK_POLL_SECONDS)


def _attempt(cell: Cell, work: Work, shop: Workshop, observer: Observer, final: bool) -> None:
    """One cell, its failure contained: the rest of the matrix goes on."""
    where = "pretraining"
    try:
        missing = work.missing(cell, final)
        pretraining = read_pretraining(cell)
        if pretraining is None or (missing and not has_weights(cell)):
            pretraining = pretrain_cell(cell, shop)
        examination = Examination(cell, shop)
        for planned in missing:
            where = planned.name
            shop.on_note(f"{cell.address}: {planned.name}")
            before = read_evaluation(cell, planned)
            examination.ask(planned, final, before.test_opened if before else 0)
        (cell.folder / "failed.json").unlink(missing_ok=True)
        evaluations = [record for planned in cell.evaluations if (record := read_evaluation(cell, planned)) is not None]
        observer.cell_finished(cell, pretraining, evaluations)
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        known = isinstance(error, SSLBenchError)
        failure = Failure(
            row=cell.row.name, task=cell.row.task.name, seed=cell.seed, where=where, error=type(error).__name__,
            message=str(error) or type(error).__name__, traceback="" if known else traceback.format_exc(), created=now(),
        )
        write_record(cell.folder / "failed.json", failure)
        observer.cell_failed(cell, failure)


def _choose(work: Work, row: Row, observer: Observer | None = None) -> None:
    """Pick a row's candidate by the headline evaluator on validation, once all its candidates are judged."""
    scores: dict[int, float] = {}
    for number, cell in enumerate(work.candidate_cells(row)):
        records = [read_evaluation(cell, planned) for planned in cell.evaluations[:1]]
        if records and records[0] is not None:
            scores[number] = validation_score(records[0])
        elif not (cell.folder / "failed.json").is_file():
            return
    if not scores:
        return
    best = max(scores, key=lambda number: (scores[number], -number))
    work.winners[row.name] = row.candidates[best]
    if observer is not None:
        named = {json.dumps(dict(row.candidates[n].chosen), default=str): score for n, score in scores.items()}
        observer.chose(row, row.candidates[best], named)


def validation_score(record: EvaluationRecord) -> float:
    """The number a choice is made by: best stage's top-1 on validation, else the evaluator's first validation number."""
    validation = [m for m in record.measurements if m.split == "validation"]
    best = [m.value for m in validation if m.best and m.metric == "top1" and m.labels == 1.0]
    return best[0] if best else validation[0].value


def _write_run(work: Work, seconds: float) -> None:
    matrix, data = work.matrix, work.data
    cells = work.cells()
    table = {cell.id for cell in cells}
    losers = [cell for row in work.rows if len(row.candidates) > 1 for cell in work.candidate_cells(row) if cell.id not in table]
    rows = [
        RunRow(
            row=row.name, task=row.task.name, block=row.block, uses_labels=row.task.uses_labels, choices=len(row.candidates),
            chosen=dict(work.winners[row.name].chosen) if row.name in work.winners else {},
        )
        for row in work.rows
    ]
    path = work.out / "run.json"
    created = read_record(path, Run).created if path.is_file() else now()
    record = Run(
        name=matrix.name, matrix=matrix.model_dump(mode="json"),
        data={
            "pretrain": {"name": data.pretrain.name, "images": len(data.pretrain), "size": data.size, "skipped": data.pretrain.skipped},
            "evaluate": [
                {"name": e.name, "train": len(e.train), "validation": len(e.validation), "test": len(e.test), "classes": list(e.train.classes)}
                for e in data.evaluate
            ],
        },
        backbone=describe_backbone(work), budget=describe_budget(work), final=work.final, seeds=list(matrix.seeds), rows=rows,
        cells=[_run_cell(work, cell) for cell in cells], losers=[_run_cell(work, cell) for cell in losers], seconds=seconds, created=created,
    )
    write_record(path, record)


def _run_cell(work: Work, cell: Cell) -> RunCell:
    expected = [RunEvaluation(evaluator=p.name, data=p.labelled.name, id=p.id) for p in cell.evaluations if applies(cell, p)]
    folder = cell.folder.relative_to(work.out).as_posix()
    return RunCell(row=cell.row.name, seed=cell.seed, folder=folder, pretraining=cell.id, evaluations=expected)


def describe_backbone(work: Work) -> str:
    """ "resnet18, width 0.25, 3x3 stem, stride 2"."""
    spec, parts = work.matrix.backbone, [work.matrix.backbone.name]
    if spec.width != 1:
        parts.append(f"width {spec.width:g}")
    if spec.stem == "3x3" or (spec.stem == "auto" and work.data.size <= 96):
        parts += ["3x3 stem", f"stride {spec.stem_stride or (1 if work.data.size <= 32 else 2)}"]
    return ", ".join(parts)


def describe_budget(work: Work) -> str:
    """ "4 epochs x 4,500 images"."""
    spec, images = work.matrix.pretrain, len(work.data.pretrain)
    return f"{spec.images:,} images seen" if spec.images else f"{spec.epochs:g} epochs x {images:,} images"


def _seconds_before(work: Work) -> float:
    path = work.out / "run.json"
    return read_record(path, Run).seconds if path.is_file() else 0.0


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop at the next step; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def smoke(matrix: Matrix | Mapping[str, Any] | str | Path, *, observer: Observer | None = None, **settings: Any) -> Any:
    """Two steps of every cell on a few images, in a folder that is thrown away: a mistake in the last cell shows in the first minute.

    The matrix is checked against the whole data first, as ``run`` would.
    """
    for plugin in settings.get("plugins", ()):
        load_plugin(plugin)
    spec = as_matrix(matrix, settings.pop("sets", ()))
    settings.pop("limit", None)
    settings.pop("val", None)
    whole = prepare(spec, **settings)
    classes = max((len(e.train.classes) for e in whole.data.evaluate), default=10)
    batch = 32
    few = spec.data.limit.model_copy(update={"train": max(20 * classes, 4 * batch), "test": max(4 * classes, 64)})
    cut = spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"limit": few}),
            "pretrain": spec.pretrain.model_copy(update={"epochs": None, "images": 2 * batch, "monitor": 1, "batch_size": None}),
            "tasks": tuple(_small_batch(row, batch) for row in spec.tasks), "baselines": tuple(_small_batch(row, batch) for row in spec.baselines),
        }
    )
    with tempfile.TemporaryDirectory(prefix="ssl-bench-smoke-") as folder:
        return run(cut, folder, observer=observer, smoke=True, **settings)


def _small_batch(row: Any, batch: int) -> Any:
    return row.model_copy(update={"options": {**row.options, "batch_size": batch}})
