"""A finished run as a few compressed files: what is committed, and what every table and figure can be made of again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ssl_bench.errors import DamagedRecord, RecordError, SSLBenchError, WriteError
from ssl_bench.plugins.registry import EVALUATORS
from ssl_bench.records.archive import PREDICTIONS_FILE, RECORDS_FILE, TRUTH, WRONG, Archive, archived
from ssl_bench.records.manifest import MANIFEST, read_manifest
from ssl_bench.records.places import RUN_FILE, matching, place_of
from ssl_bench.records.predictions import prediction_name, read_predictions
from ssl_bench.records.published_weights import write_published_weights
from ssl_bench.records.schema import EvaluationRecord, failure_files, read_record, write_bytes
from ssl_bench.report.files import table_texts, write_report
from ssl_bench.report.results import Results, load
from ssl_bench.system.disk import reason

SAME = ("table.csv", "comparisons.csv", "per_class.csv")  #: what must come out of the archive as it does of the run


def publish(run: str | Path, folder: str | Path, weights: int | None = None) -> list[Path]:
    """Pack a run's records and predictions into ``folder``, with its table and figures; and the weights of one seed.

    Records are kept as they were written, and of predictions what their evaluator's ``published`` returns; of those
    with a share of the labels only whether each image was right. That table.csv, comparisons.csv and per_class.csv come
    out the same is checked. Other files in ``folder``, such as a README.md, stay.

    Parameters
    ----------
    run : a results folder; also one that was published before, and gone on with.
    folder : new, or an earlier publication of the run.
    weights : the seed of the cells whose weights are published: backbones and, of every task, what else it has trained.
        They lie where they do in a results folder, so that `load_backbone`, `weights:`, `init:` and further evaluations
        take them from there. None: no weights, and those published here before are removed.

    Returns
    -------
    The files written.

    Raises
    ------
    RecordError : no run, records in ``folder`` that are not published, or a table that would come out differently.
        DamagedRecord where a file of the run is damaged; WriteError, NoRoomError where a file cannot be written.
    DamagedWeights : weights that are not those of the record beside them.
    """
    source, target = Path(run), Path(folder)
    results = load(source)
    if problems := [*results.damaged, *results.doubtful]:
        raise DamagedRecord(f"a damaged run is not published: {problems[0]} ({len(problems):,} such files)")
    if target.exists() and target.resolve() == source.resolve():
        raise RecordError(f"{target} is the run itself; give another folder, such as results/{source.resolve().name}")
    if any(target.glob("cells/*/*/*.json")):
        raise RecordError(f"{target} holds records of a run that is not published; give another folder")
    records, predictions = _contents(source)
    expected = table_texts(results)
    files = archived(records, predictions)
    written = [target / RUN_FILE, *(target / name for name in files)]
    cells = {} if weights is None else _cells_of_seed(results, weights)
    before = read_manifest(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".publishing-", dir=target) as scratch:
            made = Path(scratch)  # what was published before stays until this has been checked
            for name, content in files.items():
                write_bytes(made / name, content)
            write_bytes(made / RUN_FILE, place_of(source / RUN_FILE).read(source / RUN_FILE))
            _check(Archive(made), records, predictions)
            texts = table_texts(load(made))
            for name in SAME:
                if texts[name] != expected[name]:
                    raise RecordError(
                        f"{name} does not come out of the archived records as it does of {source}: not published"
                    )
            of_weights = write_published_weights(source, cells, made) if cells else []
            for name in [*before, MANIFEST]:
                (target / name).unlink(missing_ok=True)
            for path in written:
                os.replace(made / path.name, path)
            for name in of_weights:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(made / name, target / name)
                written.append(target / name)
            _remove_empty_folders(target, before)
        if PREDICTIONS_FILE not in files:
            (target / PREDICTIONS_FILE).unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, SSLBenchError):
            raise
        raise WriteError(f"{target} cannot be written: {reason(error)}") from error
    return [*written, *write_report(target, photographs=False)]


def _cells_of_seed(results: Results, seed: int) -> dict[str, str]:
    """Folder in the run -> digest of its weights, of every cell of a seed that is pretrained."""
    if seed not in results.run.seeds:
        raise RecordError(f"{results.run.name} has no seed {seed}; it has {', '.join(map(str, results.run.seeds))}")
    cells = {cell.folder: results.pretrainings.get((cell.row, seed)) for cell in results.run.cells if cell.seed == seed}
    return {folder: record.weights for folder, record in cells.items() if record is not None}


def _remove_empty_folders(run: Path, names: Iterable[str]) -> None:
    """Folders of files that were removed, where nothing else is in them."""
    for folder in sorted({(run / name).parent for name in names}, reverse=True):
        for each in (folder, folder.parent, folder.parent.parent):
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def _contents(run: Path) -> tuple[dict[str, bytes], dict[str, dict[str, np.ndarray]]]:
    """The records of a run, and what is published of the predictions beside them, by their paths in its folder."""
    records: dict[str, bytes] = {}
    predictions: dict[str, dict[str, np.ndarray]] = {}
    for path in matching(run / "cells", "*/*/*.json"):
        if path.name.startswith("failed") and path not in failure_files(path.parent):
            continue  # of an attempt before the cell was gone on with
        name = path.relative_to(run)
        content = records[name.as_posix()] = place_of(path).read(path)
        try:
            kind = json.loads(content).get("kind")
        except (ValueError, AttributeError):  # half written, or of another program: nothing of the table
            continue
        if kind == "evaluation":
            record = read_record(path, EvaluationRecord)
            if arrays := read_predictions(path, record):
                predictions[name.with_suffix(".npz").as_posix()] = published_predictions(record, arrays)
    return records, predictions


def published_predictions(record: EvaluationRecord, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is published of an evaluation's predictions: with a share of the labels, ``WRONG`` in place of a wrong
    class.

    Draws of labels are most of the arrays and hardly compress; comparisons and accuracies by class need only who was
    right.
    """
    kept = dict(EVALUATORS.get(record.evaluator).published(arrays) if record.evaluator in EVALUATORS else arrays)
    truth = kept.get(TRUTH)
    if truth is None or truth.dtype.kind not in "iu" or not truth.size or truth.min() < 0:
        return kept
    for m in record.measurements:
        name = prediction_name(record.evaluator, m)
        predicted = kept.get(name)
        top1 = m.split == "test" and m.metric.partition("@")[0] == "top1" and m.labels < 1
        if top1 and predicted is not None and predicted.dtype.kind == "i" and predicted.shape == truth.shape:
            kept[name] = np.where(predicted == truth, predicted, WRONG).astype(predicted.dtype)
    return kept


def _check(archive: Archive, records: Mapping[str, bytes], predictions: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Raise RecordError where what is read back is not what was archived."""
    for name, content in records.items():
        if archive.read(archive.root / name) != content:
            raise RecordError(f"{archive.root / RECORDS_FILE}: {name} is not read back as it was written")
    for name, arrays in predictions.items():
        read = archive.predictions(archive.root / name, "")
        back = read() if read is not None else {}
        if list(back) != list(arrays) or not all(_equal_arrays(back[key], array) for key, array in arrays.items()):
            raise RecordError(f"{archive.root / PREDICTIONS_FILE}: {name} is not read back as it was written")


def _equal_arrays(first: np.ndarray, second: np.ndarray) -> bool:
    same = (first.dtype, first.shape) == (second.dtype, second.shape)
    return same and np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()
