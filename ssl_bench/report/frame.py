"""From a results folder to tidy data: every record of a run, read once."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ssl_bench.errors import RecordError
from ssl_bench.records import EvaluationRecord, Failure, MeasurementRecord, Pretraining, Run, RunCell, RunRow, failure_files, read_record, safe_name

if TYPE_CHECKING:
    from ssl_bench.report.table import Table

FRAME_COLUMNS = [
    "row", "task", "seed", "evaluator", "data", "stage", "labels", "draw", "split", "metric", "value", "n", "best", "variant",
    "low", "high",
]


@dataclass(frozen=True)
class Missing:
    """An expected record that is not there: ``what`` is "pretraining" or an evaluator. ``failure`` says why, where that is known."""

    row: str
    seed: int
    what: str
    data: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class Found:
    """An evaluation record, the name its evaluator has in this run, and where it lies."""

    row: RunRow
    seed: int
    evaluator: str
    data: str
    path: Path
    record: EvaluationRecord

    def measurements(self, split: str) -> Iterator[MeasurementRecord]:
        """Those of one split; test numbers count only where the record says that test was opened."""
        return (m for m in self.record.measurements if m.split == split and (split != "test" or self.record.final))


@dataclass
class Results:
    """A run's records, as data frames and tables.

    ``run`` names what the table is made of, ``failures`` why cells have no numbers, ``missing`` which expected records are not there.
    """

    run: Run
    pretrainings: dict[tuple[str, int], Pretraining]
    evaluations: list[Found]
    failures: list[Failure]
    missing: list[Missing]
    expected: int
    opened_elsewhere: dict[str, int] = field(default_factory=dict)  #: row to evaluations of it that saw test and are not in this table
    _predictions: dict[Path, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One line per number: row, task, seed, evaluator, data, stage, labels, draw, split, metric, value, n, best, variant, low, high."""
        lines = [
            (f.row.row, f.row.task, f.seed, f.evaluator, f.data, m.stage, m.labels, m.draw, m.split, m.metric, m.value, m.n, m.best, m.row, m.low, m.high)
            for f in self.evaluations for split in ("validation", "test") for m in f.measurements(split)
        ]
        return pd.DataFrame(lines, columns=FRAME_COLUMNS)

    @cached_property
    def pretraining(self) -> pd.DataFrame:
        """One line per pretrained backbone: its cost, its last training values and what the task says of itself."""
        rows = {row.row: row for row in self.run.rows}
        lines = []
        for (row, seed), p in self.pretrainings.items():
            facts = {**{f"diagnose.{k}": v for k, v in p.diagnose.items()}, **p.metrics}
            lines.append({
                "row": row, "task": rows[row].task, "seed": seed, "block": rows[row].block, "uses_labels": rows[row].uses_labels,
                "seconds": p.seconds.get("total", float("nan")), "steps": p.steps, "images_seen": p.images_seen, "passes": p.passes,
                "flops": p.flops, "parameters": p.parameters, "images_per_second": p.images_per_second, "peak_memory": p.peak_memory,
                "cpu_seconds": p.seconds.get("cpu", float("nan")), "trend": p.trend, **facts,
            })
        base = ["row", "task", "seed", "block", "uses_labels", "seconds", "steps", "images_seen", "passes", "flops", "parameters",
                "images_per_second", "peak_memory", "cpu_seconds", "trend"]
        return pd.DataFrame(lines) if lines else pd.DataFrame(columns=base)

    @property
    def split(self) -> str:
        """The split that the table shows."""
        return "test" if self.run.final else "validation"

    def table(self, wide: bool = False, classic: bool = False) -> Table:
        """The comparison, one section per labelled set.

        ``wide`` adds columns: every k, codes, diagnostics, images/s, memory; ``classic`` keeps those of the classic table and the cost alone.
        """
        from ssl_bench.report.table import build_table

        return build_table(self, wide, classic)

    def data_sets(self) -> list[dict[str, Any]]:
        """The labelled sets as the run describes them: name, train, validation, test, classes."""
        known = {str(entry["name"]): entry for entry in self.run.data.get("evaluate", [])}
        own = {entry["name"] for entry in self.own_sets()}
        for cell in self.run.cells:
            for evaluation in cell.evaluations:
                if evaluation.data not in own:
                    known.setdefault(evaluation.data, {"name": evaluation.data})
        return list(known.values())

    def own_sets(self) -> list[dict[str, Any]]:
        """The sets that evaluators bring themselves, such as images with boxes: as ``data_sets``, and ``evaluator``."""
        return list(self.run.data.get("own", []))

    def predictions(self, found: Found) -> dict[str, np.ndarray]:
        """Arrays [N_test] stored beside a record; empty where there are none. Raises RecordError naming a damaged file."""
        path = found.path.with_suffix(".npz")
        if path not in self._predictions:
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    self._predictions[path] = {name: arrays[name] for name in arrays.files}
            except FileNotFoundError:
                self._predictions[path] = {}
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise RecordError(f"{path} cannot be read: {error}") from None
        return self._predictions[path]


def load(folder: str | Path) -> Results:
    """Read a results folder.

    Parameters
    ----------
    folder : where ``run.json`` lies, such as ``runs/quick``.

    Returns
    -------
    Results, also of a run that is not finished: what is not there yet is listed in ``missing``.

    Raises
    ------
    RecordError
        Naming the file: no run here, a damaged record, one of a newer ssl_bench, or one that is not what the run expects.
    """
    root = Path(folder)
    if not (root / "run.json").is_file():
        raise RecordError(f"{root} holds no run.json, so it is no results folder; give one that `ssl-bench run` wrote, such as runs/quick")
    run = read_record(root / "run.json", Run)
    rows = {row.row: row for row in run.rows}
    results = Results(run, {}, [], [], [], sum(1 + len(cell.evaluations) for cell in run.cells))
    for cell in run.cells:
        if cell.row not in rows:
            raise RecordError(f"{root / 'run.json'} has a cell of row {cell.row!r}, which is not among its rows")
        _read_cell(root, cell, rows[cell.row], results)
    results.opened_elsewhere = _opened_elsewhere(root, results)
    return results


def _opened_elsewhere(root: Path, results: Results) -> dict[str, int]:
    """What else lies in the rows' folders and was given test: other settings, seeds or evaluators' options, tried before or beside these."""
    here = {found.path.resolve() for found in results.evaluations}
    homes = {(root / cell.folder).parent.resolve(): cell.row for cell in results.run.cells}
    found: dict[str, int] = {}
    for home, row in homes.items():
        for path in sorted(home.glob("*/*.json")):
            if path.resolve() in here or path.name == "pretrain.json" or path in failure_files(path.parent):
                continue
            try:
                opened = read_record(path, EvaluationRecord).test_opened
            except RecordError:  # of another version, or half written: nothing of this table
                continue
            if opened:
                found[row] = found.get(row, 0) + 1
    return found


def _read_cell(root: Path, cell: RunCell, row: RunRow, results: Results) -> None:
    folder = root / cell.folder
    if not folder.resolve().is_relative_to(root.resolve()):
        raise RecordError(f"{root / 'run.json'} names {cell.folder!r} as the folder of {cell.row!r}, which lies outside of {root}")
    failures = [read_record(path, Failure) for path in failure_files(folder)]
    absent: list[tuple[str, str, str]] = []  # what it is called here, data, id
    if (folder / "pretrain.json").is_file():
        pretraining = read_record(folder / "pretrain.json", Pretraining)
        _check_id(folder / "pretrain.json", pretraining.id, cell.pretraining)
        results.pretrainings[cell.row, cell.seed] = pretraining
    else:
        absent.append(("pretraining", "", ""))
    seen: dict[tuple[str, str], int] = {}
    for expected in cell.evaluations:
        # The same evaluator may be asked twice with other options, and not both of every seed.
        count = seen[expected.evaluator, expected.data] = expected.number or seen.get((expected.evaluator, expected.data), 0) + 1
        name = expected.evaluator if count == 1 else f"{expected.evaluator} ({count})"
        path = folder / f"{safe_name(expected.evaluator)}-{expected.id}.json"
        if not path.is_file():
            absent.append((name, expected.data, expected.id))
            continue
        record = read_record(path, EvaluationRecord)
        _check_id(path, record.id, expected.id)
        if results.run.final and not record.final:
            absent.append((name, expected.data, expected.id))
        results.evaluations.append(Found(row, cell.seed, name, expected.data, path, record))
    # A failure is over once what failed has its record; without a backbone nothing else could be done.
    blocked = next((failure for failure in failures if failure.where == "pretraining"), None)
    for what, data, identity in absent:
        own = (failure for failure in failures if failure.where == what.split(" (")[0] and failure.id in ("", identity))
        why = blocked or next(own, None)
        results.missing.append(Missing(cell.row, cell.seed, what, data, why))
        if why is not None and why not in results.failures:
            results.failures.append(why)


def _check_id(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise RecordError(f"{path} is the record {found}, where the run expects {expected}; it was moved or edited: delete it, run again")
