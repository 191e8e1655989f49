"""The records of a cell as they are on disk at this moment; a whole run is looked at through a ``Snapshot``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.records.places import is_stored, matching, place_of
from ssl_bench.records.predictions import checked_predictions
from ssl_bench.records.published_weights import has_task_state
from ssl_bench.records.schema import EvaluationRecord, Pretraining, read_record, safe_name

HOW = (
    "--recompute trains it again and measures what is missing, or everything if the weights come out differently "
    "(each opening of test is counted)"
)


def read_pretraining(cell: Cell) -> Pretraining | None:
    """The record of a cell's pretraining; None where there is none. Raises RecordError naming what is damaged or
    another cell's."""
    record = pretraining_in(cell.folder)
    if record is not None:
        refuse_another(cell, record.id)
    return record


def pretraining_in(folder: Path) -> Pretraining | None:
    """The record of the pretraining that a folder holds, whichever cell's it is; None where there is none. Raises
    RecordError."""
    path = folder / "pretrain.json"
    return read_record(path, Pretraining) if is_stored(path) else None


def refuse_another(cell: Cell, identity: str) -> None:
    """Raise DamagedRecord where the record in a cell's folder is of another cell."""
    if identity != cell.id:
        raise DamagedRecord(
            f"{cell.folder / 'pretrain.json'} is the record of another cell ({identity}, not {cell.id})"
        )


def read_evaluation(cell: Cell, planned: PlannedEvaluation) -> EvaluationRecord | None:
    """The record of one evaluation, its predictions checked; None where there is none. Raises as ``read_pretraining``
    does."""
    path = cell.folder / f"{planned.file_name}.json"
    if not is_stored(path):
        return None
    record = read_record(path, EvaluationRecord)
    if record.id != planned.id:
        raise DamagedRecord(f"{path} is the record of another evaluation ({record.id}, not {planned.id})")
    checked_predictions(path.with_suffix(".npz"), record)
    return record


def times_opened(cell: Cell, planned: PlannedEvaluation) -> int:
    """How often test was opened for an evaluation."""
    try:
        record = read_evaluation(cell, planned)
    except RecordError:
        return opened_of_damaged(cell, planned)
    return record.test_opened if record is not None else 0


def opened_of_damaged(cell: Cell, planned: PlannedEvaluation) -> int:
    """How often test was opened, as the text of a damaged record still tells; one that does not counts as opened
    once."""
    path = cell.folder / f"{planned.file_name}.json"
    try:
        text = place_of(path).read(path)
    except OSError:
        return 1
    counted = re.search(rb'"test_opened": (\d{1,6})\b', text)
    return int(counted[1]) if counted else 1


def times_opened_before(cell: Cell, planned: PlannedEvaluation) -> int:
    """How often an evaluator was given the cell's test images, by this evaluation and under other versions of its
    protocol.

    A newer version measures an old cell again, and that is another look at the same images; its count goes on from
    theirs. Of several records of a version, which are the same evaluator with other options, each opened test for
    itself: the one that did most often counts.
    """
    by_version = {json.dumps(planned.spec["evaluator"], sort_keys=True): times_opened(cell, planned)}
    for path in matching(cell.folder, f"{safe_name(planned.name)}-*.json"):
        try:
            record = read_record(path, EvaluationRecord)
        except RecordError:  # damaged, or of another program: it cannot be told what it is of
            continue
        same = (record.pretraining, record.evaluator, record.spec.get("data"))
        if same == (cell.id, planned.name, planned.spec["data"]):
            version = json.dumps(record.spec.get("evaluator"), sort_keys=True)
            if version != next(iter(by_version)):
                by_version[version] = max(by_version.get(version, 0), record.test_opened)
    return max(by_version.values())


def has_weights(cell: Cell) -> bool:
    return has_task_state(cell.folder)
