"""Reading a results folder: every record of a run once, what is missing, what is damaged, and what was measured under
another protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ssl_bench.errors import ContradictedRecord, RecordError
from ssl_bench.records.places import is_stored, matching
from ssl_bench.records.protocols import is_older, split_protocol
from ssl_bench.records.schema import (
    EvaluationRecord,
    Failure,
    Pretraining,
    Record,
    Run,
    RunCell,
    RunEvaluation,
    RunRow,
    failure_files,
    judged_other_weights,
    read_record,
    safe_name,
)
from ssl_bench.report.reading.records import EvaluationOfRun, Missing, RunRecords
from ssl_bench.system import digests
from ssl_bench.system.collection import collection_put_off

R = TypeVar("R", bound=Record)


def read_run(folder: str | Path) -> RunRecords:
    """The records of a results folder, as ``ssl_bench.load`` describes it."""
    with collection_put_off():
        return _read_run(Path(folder))


def _read_run(root: Path) -> RunRecords:
    if not (root / "run.json").is_file():
        raise RecordError(
            f"{root} holds no run.json, so it is no results folder; give one that `ssl-bench run` wrote, such as "
            "runs/quick"
        )
    run = read_record(root / "run.json", Run)
    rows = {row.row: row for row in run.rows}
    results = RunRecords(run, {}, [], [], [], sum(1 + len(cell.evaluations) for cell in run.cells), folder=root)
    others: list[list[tuple[Path, EvaluationRecord]]] = []  # of each cell
    for cell in run.cells:
        if cell.row not in rows:
            raise RecordError(f"{root / 'run.json'} has a cell of row {cell.row!r}, which is not among its rows")
        _read_cell(root, cell, rows[cell.row], results)
        others.append(_others(root, cell, results.pretrainings.get((cell.row, cell.seed))))
    _settle_protocols(results)
    for cell, of_cell in zip(run.cells, others, strict=True):
        if of_cell:
            _find_earlier(cell, rows[cell.row], of_cell, results)
    results.opened_elsewhere = _opened_elsewhere(root, results)
    results.failed_candidates = _failed_candidates(root, results)
    results.unchecked = _unchecked(root, results)
    return results


def _failed_candidates(root: Path, results: RunRecords) -> dict[str, int]:
    undecided = {row.row for row in results.run.rows if row.choices > 1 and not row.chosen}
    tried = {
        cell.folder: cell.row
        for cell in (*results.run.losers, *(cell for cell in results.run.cells if cell.row in undecided))
    }
    return dict(Counter(row for folder, row in tried.items() if failure_files(root / folder)))


def _unchecked(root: Path, results: RunRecords) -> int:
    """How many of the table's files carry no digest; not what else this process may have read there."""
    paths = {root / "run.json", *(root / cell.folder / "pretrain.json" for cell in results.run.cells)}
    paths |= {
        path
        for evaluation in (*results.evaluations, *results.earlier)
        for path in (evaluation.path, evaluation.path.with_suffix(".npz"))
    }
    return len({str(path.absolute()) for path in paths} & set(digests.unchecked_below(root)))


def named_evaluations(cell: RunCell) -> list[tuple[str, RunEvaluation]]:
    """A cell's evaluations with the names that they have in this run: the same evaluator may be asked twice with other
    options, not both of every seed."""
    seen: dict[tuple[str, str], int] = {}
    named = []
    for expected in cell.evaluations:
        place = expected.evaluator, expected.data
        seen[place] = expected.number or seen.get(place, 0) + 1
        named.append((expected.evaluator if seen[place] == 1 else f"{expected.evaluator} ({seen[place]})", expected))
    return named


def _path_of(folder: Path, expected: RunEvaluation) -> Path:
    return folder / f"{safe_name(expected.evaluator)}-{expected.id}.json"


def _read_cell(root: Path, cell: RunCell, row: RunRow, results: RunRecords) -> None:
    folder = root / cell.folder
    if not folder.resolve().is_relative_to(root.resolve()):
        raise RecordError(
            f"{root / 'run.json'} names {cell.folder!r} as the folder of {cell.row!r}, which lies outside of {root}"
        )
    absent: list[tuple[str, str, str, str]] = []  # what it is called here, data, id, damage
    pretraining, damage = _read_or_damage(folder / "pretrain.json", Pretraining, cell.pretraining, results)
    if pretraining is not None:
        results.pretrainings[cell.row, cell.seed] = pretraining
    else:
        absent.append(("pretraining", "", "", damage))
    for name, expected in named_evaluations(cell):
        path = _path_of(folder, expected)
        record, damage = _read_or_damage(path, EvaluationRecord, expected.id, results)
        if record is not None and pretraining is not None and judged_other_weights(record, pretraining):
            record = None  # the weights were trained again since, and it waits to be measured on these
        evaluation = EvaluationOfRun(row, cell.seed, name, expected.data, path, record) if record is not None else None
        if evaluation is not None and (damage := _contradiction(evaluation, results)):
            record = evaluation = None
        if record is None or (results.run.final and not record.final):
            absent.append((name, expected.data, expected.id, damage))
        if evaluation is not None:
            results.evaluations.append(evaluation)
    failures = [
        failure
        for path in failure_files(folder)
        if (failure := _read_or_damage(path, Failure, None, results)[0]) is not None
    ]
    # A failure is over once what failed has its record; without a backbone nothing else could be done.
    blocked = next((failure for failure in failures if failure.where == "pretraining"), None)
    for what, data, identity, damage in absent:
        matching = (
            failure for failure in failures if failure.where == what.split(" (")[0] and failure.id in ("", identity)
        )
        why = None if damage else blocked or next(matching, None)
        results.missing.append(Missing(cell.row, cell.seed, what, data, why, damage))
        if why is not None and why not in results.failures:
            results.failures.append(why)


def _read_or_damage(path: Path, kind: type[R], identity: str | None, results: RunRecords) -> tuple[R | None, str]:
    """The record and what is wrong with its file; (None, "") where there is none."""
    if not is_stored(path):
        return None, ""
    try:
        record = read_record(path, kind)
        identity_inside = getattr(record, "id", None)
        if identity is not None and identity_inside != identity:
            raise RecordError(
                f"{path} is the record {identity_inside}, where the run expects {identity}; it was moved or edited: "
                "delete it, run again"
            )
    except RecordError as error:
        results.damaged.append(str(error))
        return None, str(error)
    return record, ""


def _contradiction(evaluation: EvaluationOfRun, results: RunRecords) -> str:
    """Why a record's numbers cannot be shown: its own predictions say otherwise; "" else.

    Predictions that are damaged cost comparisons alone.
    """
    try:
        results.predictions(evaluation)
    except ContradictedRecord as error:
        results.damaged.append(str(error))
        return str(error)
    except RecordError as error:
        results.doubtful.append(str(error))
    return ""


def _settle_protocols(results: RunRecords) -> None:
    """One version of a protocol for the numbers of an evaluator on a set: the newest that is there.

    Others are earlier, their cells wait for it.
    """
    newest: dict[tuple[str, str], tuple[tuple[int, str], str]] = {}
    for evaluation in results.evaluations:
        rank = (split_protocol(evaluation.record.protocol)[1], evaluation.record.created), evaluation.record.protocol
        newest[evaluation.evaluator, evaluation.data] = max(
            newest.get((evaluation.evaluator, evaluation.data), rank), rank
        )
    results.protocols = {place: protocol for place, (_, protocol) in newest.items()}
    kept = [
        evaluation
        for evaluation in results.evaluations
        if evaluation.record.protocol == results.protocols[evaluation.evaluator, evaluation.data]
    ]
    results.earlier = [
        evaluation
        for evaluation in results.evaluations
        if evaluation.record.protocol != results.protocols[evaluation.evaluator, evaluation.data]
    ]
    results.evaluations = kept
    listed = {(m.row, m.seed, m.what, m.data) for m in results.missing}
    for evaluation in results.earlier:
        if (evaluation.row.row, evaluation.seed, evaluation.evaluator, evaluation.data) not in listed:
            results.missing.append(Missing(evaluation.row.row, evaluation.seed, evaluation.evaluator, evaluation.data))


def _others(root: Path, cell: RunCell, pretraining: Pretraining | None) -> list[tuple[Path, EvaluationRecord]]:
    """Evaluations of a cell's weights that the run does not list.

    What cannot be read, or is of weights before these, is nothing of this table.
    """
    folder = root / cell.folder
    listed = {
        folder / "pretrain.json",
        *(_path_of(folder, expected) for expected in cell.evaluations),
        *failure_files(folder),
    }
    others = []
    for path in matching(folder, "*.json"):
        if path not in listed:
            try:
                record = read_record(path, EvaluationRecord)
            except RecordError:
                continue
            if record.pretraining == cell.pretraining and not (
                pretraining is not None and judged_other_weights(record, pretraining)
            ):
                others.append((path, record))
    return others


def _find_earlier(cell: RunCell, row: RunRow, others: list[tuple[Path, EvaluationRecord]], results: RunRecords) -> None:
    """Which of a cell's other records are its evaluations under another version of their protocol: of several, the one
    whose options agree most."""
    for name, expected in named_evaluations(cell):
        protocol = results.protocols.get((name, expected.data))
        candidates: dict[str, list[tuple[Path, EvaluationRecord]]] = {}
        for path, record in others:
            another = record.protocol != protocol if protocol is not None else is_older(record)
            if (record.evaluator, record.data) == (expected.evaluator, expected.data) and another:
                candidates.setdefault(record.protocol, []).append((path, record))
        asked = next(
            (
                evaluation.record.spec
                for evaluation in results.evaluations
                if (evaluation.evaluator, evaluation.data) == (name, expected.data)
            ),
            {},
        )
        taken = {evaluation.path for evaluation in results.earlier}
        for same in candidates.values():
            free = [candidate for candidate in same if candidate[0] not in taken]
            if free:
                path, record = max(
                    free, key=lambda candidate: (_agreement(asked, candidate[1].spec), candidate[1].created)
                )
                evaluation = EvaluationOfRun(row, cell.seed, name, expected.data, path, record)
                if not _contradiction(evaluation, results):
                    results.earlier.append(evaluation)


def _agreement(asked: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    first, second = asked.get("options") or {}, other.get("options") or {}
    return sum(first[key] == second[key] for key in first.keys() & second.keys())


def _opened_elsewhere(root: Path, results: RunRecords) -> dict[str, int]:
    """What else lies in the rows' folders and was given test: other settings, seeds or evaluators' options, tried
    before or beside these."""
    # Links are followed once for a folder: a run has tens of thousands of files, and their names are what they are.
    resolved = lru_cache(maxsize=None)(Path.resolve)
    known = (evaluation.path for evaluation in (*results.evaluations, *results.earlier))
    here = {resolved(path.parent) / path.name for path in known}
    homes = {resolved((root / cell.folder).parent): cell.row for cell in results.run.cells}
    times_opened: dict[str, int] = {}
    for home, row in homes.items():
        for path in matching(home, "*/*.json"):
            if path in here or path.name == "pretrain.json":
                continue
            if path.resolve() in here or path in failure_files(path.parent):
                continue
            try:
                opened = read_record(path, EvaluationRecord).test_opened
            except RecordError:  # of another version, or half written: nothing of this table
                continue
            if opened:
                times_opened[row] = times_opened.get(row, 0) + 1
    return times_opened
