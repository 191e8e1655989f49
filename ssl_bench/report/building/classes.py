"""Classes of unequal size: what an accuracy hides there, and the accuracy within every class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench.errors import RecordError
from ssl_bench.report.ground.content import LegendLine
from ssl_bench.report.ground.names import BALANCED
from ssl_bench.report.reading.correctness import TRUTH

if TYPE_CHECKING:
    from ssl_bench.report.reading.records import EvaluationOfRun, RunRecords

SPLITS = ("validation", "test")
CLASS_COLUMNS = ["row", "seed", "evaluator", "data", "protocol", "split", "metric", "of", "class", "value"]


def class_lines(results: RunRecords) -> Iterator[LegendLine]:
    """What a reader of accuracies must know where one class has many of the images, and where draws of labels do not
    keep the proportions."""
    frame = results.frame
    several = len(results.data_sets()) > 1
    for entry in results.data_sets():
        name = str(entry["name"])
        on = f"on {name}, " if several else ""
        balanced = frame[
            (frame["data"] == name) & (frame["split"] == results.split) & frame["metric"].str.startswith(BALANCED)
        ]
        if len(balanced):
            majority = _majority_share(results, entry)
            always = f": always answering the largest{majority[0]} scores {100 * majority[1]:.1f} %" if majority else ""
            means = "balanced: mean of the accuracies within each class"
            yield LegendLine(
                "classes",
                f"{on}classes are unequal in size{always}; {means} (in per_class.csv)",
                f"{on}unequal in size{always}; {means}",
            )
        changes = _changes(results, name)
        if changes:
            told = "; ".join(
                f"at {100 * share:g} % {label} is {100 * drawn:.0f} % of the draw" for share, label, _, drawn in changes
            )
            whole = f"{100 * changes[0][2]:.0f} % of train"
            yield LegendLine(
                "classes",
                f"{on}few-label draws hold the classes in other proportions than train ({told}, {whole}), "
                "which also moves accuracies with few labels",
                f"{on}few-label draws change their proportions ({told}, {whole}), and accuracies with them",
            )


def _majority_share(results: RunRecords, entry: Mapping[str, Any]) -> tuple[str, float] | None:
    """The largest class of train, as the run describes it, and its share of the split shown; in older runs of the test
    labels beside the predictions."""
    told = entry.get("majority")
    if isinstance(told, dict) and results.split in told:
        return f" ({told.get('class')})", float(told[results.split])
    for evaluation in results.evaluations if results.run.final else ():
        if evaluation.data == entry["name"]:
            try:
                truth = results.predictions(evaluation).get(TRUTH)
            except RecordError:  # told where rows are compared
                continue
            if truth is not None and len(truth):
                counts = np.bincount(truth.astype(np.int64))
                classes = entry.get("classes") or []
                largest = int(counts.argmax())
                return (f" ({classes[largest]})" if largest < len(classes) else ""), float(counts[largest] / len(truth))
    return None


def _changes(results: RunRecords, data: str) -> list[tuple[float, str, float, float]]:
    """Share of the labels, largest class of train, its part there and its part of the draws; each share once."""
    changes: dict[float, tuple[float, str, float, float]] = {}
    for evaluation in results.evaluations:
        changed = evaluation.record.details.get("draw_changes_proportions") if evaluation.data == data else None
        for share, facts in changed.items() if isinstance(changed, dict) else ():
            changes.setdefault(
                float(share), (float(share), str(facts["class"]), float(facts["train"]), float(facts["draw"]))
            )
    return [changes[share] for share in sorted(changes)]


def per_class_csv(results: RunRecords) -> str:
    """The accuracy (of detectors: the average precision, and how many objects) within every class on the split shown;
    "" where no record tells it.

    ``of`` says what was judged, as the evaluator names it: the probe's stage ("s2", "s2@0.1/0" with share and draw of
    the labels), "pooled@20" of 20 neighbours, "0.1/0" (share and draw) of fine-tuning.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CLASS_COLUMNS)
    empty = True
    classes = {
        str(entry["name"]): [str(name) for name in entry.get("classes", [])]
        for entry in (*results.data_sets(), *results.own_sets())
    }
    for evaluation in results.evaluations:
        for metric, of, name, value in _of_record(evaluation, results.split, classes.get(evaluation.data, [])):
            place = [
                evaluation.row.row,
                evaluation.seed,
                evaluation.evaluator,
                evaluation.data,
                evaluation.record.protocol,
                results.split,
            ]
            writer.writerow([*place, metric, of, name, "" if value is None else repr(float(value))])
            empty = False
    return "" if empty else buffer.getvalue()


def _of_record(
    evaluation: EvaluationOfRun, split: str, classes: list[str]
) -> Iterable[tuple[str, str, str, float | None]]:
    """Metric, what it is of, class and value; classifiers list values in the order of the classes, detectors name them
    by metric."""
    told = evaluation.record.details.get("per_class")
    if not isinstance(told, dict) or (split == "test" and not evaluation.record.final):
        return
    if set(told) & set(SPLITS):
        for metric, values in (told.get(split) or {}).items():
            for name, value in values.items() if isinstance(values, dict) else ():
                yield str(metric), "", str(name), value
        return
    for of, splits in told.items():
        values = splits.get(split) if isinstance(splits, dict) else None
        for at, value in enumerate(values if isinstance(values, list) else ()):
            yield "top1", str(of), classes[at] if at < len(classes) else str(at), value
