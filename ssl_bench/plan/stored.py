"""What of a cell is on disk, and whether it can be used: sound, damaged, or of weights that are not there any more."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.plan.cells import Cell, PlannedEvaluation
from ssl_bench.records.files import TASK_FILE
from ssl_bench.records.predictions import checked_predictions
from ssl_bench.records.schema import (
    EvaluationRecord,
    Pretraining,
    judged_other_weights,
    read_record,
    safe_name,
)

HOW = "--recompute trains it again and measures what is missing, or all of it where the weights come out otherwise (test that is opened again is counted)"


def folder_of(cell: Cell) -> Path:
    """The folder that holds a cell, or its beginning, under whatever row's name; its own where there is none."""
    begun = []
    for folder in dict.fromkeys((cell.folder, *sorted(cell.folder.parent.parent.glob(f"*/{cell.folder.name}")))):
        if os.path.lexists(folder / "pretrain.json"):
            try:
                if read_record(folder / "pretrain.json", Pretraining).id == cell.id:
                    return folder
            except RecordError:  # told, and refused, when the cell is computed
                begun.append(folder)
        elif folder.is_dir():
            begun.append(folder)
    return begun[0] if begun else cell.folder


def read_pretraining(cell: Cell) -> Pretraining | None:
    """The record of a cell's pretraining; None where there is none. Raises RecordError naming what is damaged or another cell's."""
    path = cell.folder / "pretrain.json"
    if not os.path.lexists(path):
        return None
    record = read_record(path, Pretraining)
    if record.id != cell.id:
        raise DamagedRecord(f"{path} is the record of another cell ({record.id}, not {cell.id})")
    return record


def read_evaluation(cell: Cell, planned: PlannedEvaluation) -> EvaluationRecord | None:
    """The record of one evaluation, its predictions checked; None where there is none. Raises as ``read_pretraining`` does."""
    path = cell.folder / f"{planned.file_name}.json"
    if not os.path.lexists(path):
        return None
    record = read_record(path, EvaluationRecord)
    if record.id != planned.id:
        raise DamagedRecord(f"{path} is the record of another evaluation ({record.id}, not {planned.id})")
    checked_predictions(path.with_suffix(".npz"), record)
    return record


def sound_evaluation(cell: Cell, planned: PlannedEvaluation) -> EvaluationRecord | None:
    """The same, None also where it is damaged or of weights that were trained again since: what counts for a choice and is not measured again."""
    try:
        record, trained = read_evaluation(cell, planned), read_pretraining(cell)
    except DamagedRecord:
        return None
    return None if record is not None and trained is not None and judged_other_weights(record, trained) else record


def times_opened(cell: Cell, planned: PlannedEvaluation) -> int:
    """How often test was opened for an evaluation. A damaged record that does not tell counts as opened once."""
    try:
        record = read_evaluation(cell, planned)
        return record.test_opened if record is not None else 0
    except RecordError:
        try:
            text = (cell.folder / f"{planned.file_name}.json").read_bytes()
        except OSError:
            return 1
        found = re.search(rb'"test_opened": (\d{1,6})\b', text)
        return int(found[1]) if found else 1


def times_opened_before(cell: Cell, planned: PlannedEvaluation) -> int:
    """How often an evaluator was given the cell's test images, by this evaluation and under other versions of its protocol.

    A newer version measures an old cell again, and that is another look at the same images; its count goes on from theirs. Of several records of
    a version, which are the same evaluator with other options, each opened test for itself: the one that did most often counts.
    """
    by_version = {json.dumps(planned.spec["evaluator"], sort_keys=True): times_opened(cell, planned)}
    for path in sorted(cell.folder.glob(f"{safe_name(planned.name)}-*.json")):
        try:
            record = read_record(path, EvaluationRecord)
        except RecordError:  # damaged, or of another program: it cannot be told what it is of
            continue
        if (record.pretraining, record.evaluator, record.spec.get("data")) == (
            cell.id,
            planned.name,
            planned.spec["data"],
        ):
            version = json.dumps(record.spec.get("evaluator"), sort_keys=True)
            if version != next(iter(by_version)):
                by_version[version] = max(by_version.get(version, 0), record.test_opened)
    return max(by_version.values())


def why_not(cell: Cell, missing: bool) -> str:
    """Why a cell cannot be gone on with as it is; "" where it can. ``missing``: whether anything is still to be asked of its weights."""
    try:
        trained = read_pretraining(cell)
    except DamagedRecord as error:
        return str(error)
    if trained is not None and missing and not has_weights(cell):
        return f"its weights, {cell.folder / TASK_FILE}, are gone, and evaluations are missing"
    return ""


def has_weights(cell: Cell) -> bool:
    return (cell.folder / TASK_FILE).is_file()
