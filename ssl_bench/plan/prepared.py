"""A matrix made concrete on one machine: its data, rows and cells, what of them is on disk, and the run.json that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_bench.backbones.weights import from_cache_alone
from ssl_bench.data import Data, Labelled, load, places_of
from ssl_bench.data.loading import check
from ssl_bench.data.looking import looking
from ssl_bench.errors import DamagedRecord, RecordError, SpecError, did_you_mean, quoted
from ssl_bench.plan.cells import (
    HEADLINE,
    Candidate,
    Cell,
    PlannedEvaluation,
    Row,
    as_matrix,
    budget_images,
    cell_of,
    rows_of,
    why_absent,
)
from ssl_bench.plan.effort import effort_of, resolved
from ssl_bench.plan.evaluations import Asked, asked_of, judged_elsewhere, on_data
from ssl_bench.plan.stored import folder_of, read_pretraining, sound_evaluation, times_opened, why_not
from ssl_bench.plugins.registry import load_plugin
from ssl_bench.records.environment import now
from ssl_bench.records.protocols import unequal
from ssl_bench.records.schema import (
    EvaluationRecord,
    Run,
    RunCell,
    RunEvaluation,
    RunRow,
    failure_files,
    read_record,
    write_record,
)
from ssl_bench.spec.matrix import DataSpec, Matrix, parse
from ssl_bench.spec.reading import missing_file
from ssl_bench.system.digests import notice
from ssl_bench.system.disk import refuse_unwritable
from ssl_bench.training.loop import choose_device


@dataclass
class Work:
    """A matrix made concrete on one machine: data, rows, cells, and what of it is done."""

    matrix: Matrix
    out: Path
    data: Data
    rows: list[Row]
    evaluators: list[Asked]
    device: torch.device
    final: bool
    only: tuple[str, ...] = ()
    #: train again where a record is damaged, or weights are that are still needed, or those are gone
    recompute: bool = False
    winners: dict[str, Candidate] = field(default_factory=dict)
    skip_checks: bool = False
    #: images that noise stands in for: what they are, and their bytes once packed
    unpacked: Mapping[str, int] = field(default_factory=dict)
    #: rows left out of a plan, and why: weights that would have to be downloaded
    unseen: Mapping[str, str] = field(default_factory=dict)
    _cells: dict[tuple[str, int, int], Cell] = field(default_factory=dict, repr=False)
    _folders: dict[str, Path] = field(default_factory=dict, repr=False)

    def cell(self, row: Row, candidate: Candidate, seed: int, evaluators: list[Asked] | None = None) -> Cell:
        """One cell, where it lies already or will: rows of equal settings share one, and a row's name decides nothing."""
        key = (row.name, id(candidate), seed)  # a matrix of thousands of cells is gone through several times
        if evaluators is None and key in self._cells:
            return self._cells[key]
        found = cell_of(
            self.matrix,
            self.data,
            row,
            candidate,
            seed,
            self.out,
            self.evaluators if evaluators is None else evaluators,
        )
        if found.id not in self._folders:
            self._folders[found.id] = folder_of(found)
        found = replace(found, folder=self._folders[found.id])
        if evaluators is None:
            self._cells[key] = found
        return found

    def candidate_cells(self, row: Row) -> list[Cell]:
        """The cells that decide a choice: every candidate, first seed, and the one evaluator that decides (the linear probe where there is one)."""
        able = [
            e
            for e in self.evaluators
            if e.evaluator.accuracy and (row.task.trainable or not e.evaluator.needs_training)
        ]
        able = [e for e in able if self.matrix.seeds[0] in e.seeds]
        headline = [e for e in able if e.evaluator.name == HEADLINE] or able[:1]
        if not headline:
            raise SpecError(
                f"task {row.name!r} has options to choose between, and no evaluator that could choose; add `linear` to `evaluate`"
            )
        return [self.cell(row, candidate, self.matrix.seeds[0], headline) for candidate in row.candidates]

    def opened(self, row: Row) -> bool:
        """Whether any candidate of a row has seen test."""
        cells = [self.cell(row, candidate, self.matrix.seeds[0]) for candidate in row.candidates]
        return any(times_opened(cell, planned) for cell in cells for planned in cell.evaluations)

    def cells(self, chosen: Mapping[str, Candidate] | None = None) -> list[Cell]:
        """The cells of the table, seed by seed, so that a whole table of one seed comes first. ``chosen``: other winners than its own."""
        winners = self.winners if chosen is None else chosen
        found = []
        for seed in self.matrix.seeds:
            for row in self.rows:
                winner = row.candidates[0] if len(row.candidates) == 1 else winners.get(row.name)
                if winner is not None:
                    found.append(self.cell(row, winner, seed))
        return found

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
        found = []
        for planned in cell.evaluations:
            record = sound_evaluation(cell, planned)
            if (record is None or (final and not record.final)) and applies(cell, planned):
                found.append(planned)
        return found

    def done(self, cell: Cell, final: bool | None = None) -> bool:
        try:
            return read_pretraining(cell) is not None and not self.missing(cell, final)
        except RecordError:  # it is told when the cell is computed
            return False

    def blocked(self, cell: Cell, final: bool | None = None) -> str:
        """Why a cell can only be trained again, which needs ``recompute``; "" where it needs not."""
        try:
            return why_not(cell, missing=bool(self.missing(cell, final)))
        except RecordError:  # a folder in its place, no permission: nothing that training again would mend
            return ""


def applies(cell: Cell, planned: PlannedEvaluation) -> bool:
    """Representations that are not trained networks (pixels, PCA) cannot be fine-tuned."""
    return not planned.evaluator.needs_training or cell.row.task.trainable


def prepare(
    matrix: Matrix | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    sets: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    val: bool = False,
    limit: int | None = None,
    device: str | None = None,
    data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (),
    smoke: bool = False,
    judged: bool = True,
    pack: bool = True,
    recompute: bool = False,
    skip_checks: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Work:
    """Everything before training: plugins, matrix, data, checks. Every mistake that can be found without training is found here.

    ``judged``: whether there must be labelled images to judge on. ``pack``: False lets noise stand in for images that are not packed yet,
    to check and to plan from their counts, labels and sizes; nothing of them is then known to be done. Nor are weights downloaded for it:
    rows of those that are not here are left out, and told as ``unseen``. ``recompute``: train cells again
    whose record is damaged, or whose weights are damaged or gone while evaluations are missing; without it such cells fail, and nothing is replaced.
    ``skip_checks``: train tasks of plugins without the quick part of their battery; their records and the table tell.
    """
    for plugin in (plugins,) if isinstance(plugins, (str, Path)) else plugins:
        load_plugin(plugin)
    spec = as_matrix(matrix, sets)
    if limit is not None:
        both = parse(DataSpec, {"source": "any", "limit": limit}, "--limit").limit
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"limit": both})})
    only = (only,) if isinstance(only, str) else tuple(only)
    _check_only(spec, only)
    if judged and not spec.data.evaluate:
        raise SpecError(
            f"matrix {spec.name!r}: data.evaluate is empty, and rows are compared on labelled images; name a labelled source"
        )
    chosen_device = choose_device(device)
    folder = Path(out) if out is not None else Path("runs") / spec.name
    _refuse_newer(folder)
    if pack and not smoke:
        refuse_unwritable(folder)
    places = places_of(data_root, progress=progress)
    check(spec.data, places)
    context: AbstractContextManager[dict[str, int]] = nullcontext({}) if pack else looking()
    with context as unpacked:
        # before the data: a folder of boxes that is missing shows before much is packed
        asked = asked_of(spec.evaluate, spec.seeds, places, smoke)
        data = load(spec.data, data_root=places.root, progress=progress, judged=judged_elsewhere(asked))
    unseen: dict[str, str] = {}
    with nullcontext() if pack else from_cache_alone():
        rows = rows_of(spec, data, None if pack else unseen)
    absent = why_absent(spec, data)
    data.notes.extend(absent)
    here = {name for row in rows for name in (row.name, row.spec.task)}
    if gone := [name for name in only if name not in here and not unseen]:
        raise SpecError(f"--only {quoted(gone[0])}: {'; '.join(absent)}")
    if spec.pretrain.passes is not None:
        from ssl_bench.plan.equal_passes import at_equal_passes

        rows = at_equal_passes(rows, spec, data, spec.pretrain.passes)
    if not rows and not unseen:
        raise SpecError(f"matrix {spec.name!r} has no rows: give it `tasks` or `baselines`")
    asked = on_data(asked, data.evaluate)
    images = budget_images(spec, len(data.pretrain))
    asked = resolved(asked, lambda: effort_of(spec.backbone, data.size, images, spec.stage_values))
    data.notes.extend(
        dict.fromkeys(note for one in asked if one.own for judged in one.sets for note in getattr(judged, "notes", ()))
    )
    work = Work(
        spec,
        folder,
        data,
        rows,
        asked,
        chosen_device,
        final=not val,
        only=only,
        recompute=recompute,
        skip_checks=skip_checks,
        unpacked=unpacked,
        unseen=unseen,
    )
    if not smoke:
        for row in rows:
            if len(row.candidates) > 1:
                choose(work, row, give_up=False)
    return work


def _check_only(spec: Matrix, only: tuple[str, ...]) -> None:
    known = {name for row in (*spec.tasks, *spec.baselines, *spec.weights) for name in (row.row, row.task)}
    for name in only:
        if name not in known:
            raise SpecError(f"--only {quoted(name)}: no such row in matrix {spec.name!r}; {did_you_mean(name, known)}")


def _refuse_newer(folder: Path) -> None:
    why = missing_file(folder)
    if why.startswith("cannot be read"):
        raise RecordError(f"--out {quoted(str(folder))} {why}; give another folder")
    if (folder / "run.json").is_file():
        try:
            read_record(folder / "run.json", Run)
        except DamagedRecord as error:
            notice(f"{error}; it is written anew")
    elif not why or folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file; --out needs a folder")


def choose(work: Work, row: Row, give_up: bool = True) -> dict[str, float]:
    """Decide a row's choice if it can be decided, and return the candidates' scores; see ``decide``."""
    winner, scores = decide(work, row, give_up)
    if winner is not None:
        work.winners[row.name] = winner
    return scores


def decide(work: Work, row: Row, give_up: bool) -> tuple[Candidate | None, dict[str, float]]:
    """A row's best candidate by the headline evaluator on validation once all are judged, and their scores; None while there is one to wait for.

    ``give_up``: leave candidates that failed out of the choice; otherwise they are left to be tried again, unless another one has seen test:
    what was decided then stands, since a failure that is made good later and wins would be a second look at test.
    """
    scores: dict[int, float] = {}
    failed = False
    for number, cell in enumerate(work.candidate_cells(row)):
        records = [sound_evaluation(cell, planned) for planned in cell.evaluations[:1]]
        if records and records[0] is not None:
            scores[number] = validation_score(records[0])
        elif failure_files(cell.folder):
            failed = True
        else:
            return None, {}
    if not scores or (failed and not give_up and not work.opened(row)):
        return None, {}
    best = max(scores, key=lambda number: (scores[number], -number))
    return row.candidates[best], {row.candidates[n].settings: score for n, score in scores.items()}


def validation_score(record: EvaluationRecord) -> float:
    """The number a choice is made by: accuracy on validation with the largest share of labels, mean of its draws.

    That of the best stage, where stages are compared; else the first one that the record holds. Accuracy is what rows are compared by, and
    between networks log loss decides no better, also on few images: of 247 pairs of stages of results/quick that test tells apart by one
    to six points, 225 validation images order 183 as test does by accuracy and 191 by log loss; of the best stages' 9 pairs, 7 and 5.
    """
    validation = [m for m in record.measurements if m.split == "validation" and m.metric.startswith("top1")]
    validation = [m for m in validation if m.metric not in ("top1_shuffled", "top1_chance")]
    first = validation[0]
    best = [m for m in validation if m.best and m.metric == "top1"]
    best = best or [m for m in validation if (m.metric, m.stage, m.row) == (first.metric, first.stage, first.row)]
    share = max(m.labels for m in best)
    values = [m.value for m in best if m.labels == share]
    return sum(values) / len(values)


def write_run(work: Work) -> None:
    """Write run.json: what the table is made of, as far as it is decided, by this command, an earlier one or another process.

    While a candidate that failed is to be tried again, the best of the others stands for its row.
    """
    matrix, data = work.matrix, work.data
    open_rows = [row for row in work.rows if len(row.candidates) > 1 and row.name not in work.winners]
    standing = {row.name: best for row in open_rows if (best := decide(work, row, give_up=True)[0]) is not None}
    chosen = {**work.winners, **standing}
    cells = work.cells(chosen)
    for row in open_rows:  # nothing to choose from: one of the failures stands for the row
        if row.name not in chosen:
            cells += [cell for cell in work.candidate_cells(row) if failure_files(cell.folder)][:1]
    table = {cell.id for cell in cells}
    losers = [
        cell
        for row in work.rows
        if len(row.candidates) > 1
        for cell in work.candidate_cells(row)
        if cell.id not in table
    ]
    rows = []
    for row in work.rows:
        winner = chosen.get(row.name) if len(row.candidates) > 1 else row.candidates[0]
        init, labels = row.start(winner)
        rows.append(RunRow(
            row=row.name, task=row.task.name, block=row.block, uses_labels=labels, init=init, choices=len(row.candidates),
            chosen=dict(winner.chosen) if winner is not None else {},
        ))  # fmt: skip
    path = work.out / "run.json"
    try:
        created = read_record(path, Run).created if path.is_file() else now()
    except DamagedRecord:  # told before
        created = now()
    record = Run(
        name=matrix.name,
        matrix=matrix.model_dump(mode="json"),
        data={
            "pretrain": {
                "name": data.pretrain.name,
                "images": len(data.pretrain),
                "size": data.size,
                "skipped": data.pretrain.skipped,
            },
            "evaluate": [_describe(e) | _majority(e) for e in data.evaluate],
            "notes": list(data.notes),
            "own": [
                _describe(e) | {"evaluator": asked.evaluator.name}
                for asked in work.evaluators
                if asked.own
                for e in asked.sets
            ],
        },
        backbone=describe_backbone(work),
        budget=describe_budget(work),
        final=work.final,
        seeds=list(matrix.seeds),
        rows=rows,
        cells=[_run_cell(work, cell) for cell in cells],
        losers=[_run_cell(work, cell) for cell in losers],
        only=list(work.only),
        created=created,
    )
    write_record(path, record)


def _describe(judged: Any) -> dict[str, Any]:
    counts = {split: len(getattr(judged, split)) for split in ("train", "validation", "test")}
    return {"name": judged.name, **counts, "classes": list(judged.train.classes)}


def _majority(judged: Labelled) -> dict[str, Any]:
    """The largest class of train and its share of every split, where it has so much of one that accuracies are balanced; {} else."""
    labels = {split: np.asarray(getattr(judged, split).labels) for split in ("train", "validation", "test")}
    classes = len(judged.train.classes)
    if not classes or not all(len(found) for found in labels.values()):
        return {}
    largest = int(np.bincount(labels["train"], minlength=classes).argmax())
    if not any(unequal(int(np.sum(found == largest)), len(found), classes) for found in labels.values()):
        return {}
    return {
        "majority": {
            "class": judged.train.classes[largest],
            **{split: float(np.mean(found == largest)) for split, found in labels.items()},
        }
    }


def _run_cell(work: Work, cell: Cell) -> RunCell:
    expected = [
        RunEvaluation(evaluator=p.name, data=p.labelled.name, id=p.id, number=p.number)
        for p in cell.evaluations
        if applies(cell, p)
    ]
    folder = cell.folder.relative_to(work.out).as_posix()
    chosen = dict(cell.candidate.chosen) if len(cell.row.candidates) > 1 else {}
    return RunCell(
        row=cell.row.name, seed=cell.seed, folder=folder, pretraining=cell.id, evaluations=expected, chosen=chosen
    )


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
    if spec.passes:
        return f"{spec.passes:,} network passes a row"
    return f"{spec.images:,} images seen" if spec.images else f"{spec.epochs:g} epochs x {images:,} images"
