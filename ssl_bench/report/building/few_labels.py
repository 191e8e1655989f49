"""Accuracy against the number of labels, and how many labels a pretraining saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from ssl_bench.errors import SSLBenchError
from ssl_bench.records.schema import EvaluationRecord
from ssl_bench.report.ground.content import Column, Entry, Section
from ssl_bench.report.ground.intervals import FEWEST_SEEDS
from ssl_bench.report.ground.names import base_name
from ssl_bench.report.reading.records import RunRecords


@dataclass(frozen=True)
class LabelCurve:
    """Top-1 of a row (or of its variant) by share of the labels: share -> seed -> mean over draws, a fraction."""

    row: str
    variant: str
    values: dict[float, dict[int, float]]

    def mean(self, share: float, seeds: Sequence[int]) -> float:
        """Over these seeds, which must all be there."""
        return float(np.mean([self.values[share][seed] for seed in seeds]))


@dataclass(frozen=True)
class Needed:
    """A number of labels;
    ``bound`` says that it is only known to be more (">") or at most that (less or equal, "<=")."""

    labels: float
    bound: Literal["", ">", "<="] = ""


@dataclass(frozen=True)
class Saving:
    """How many labels a network without pretraining needs where ``row`` has ``labels``: on the means over seeds, and
    seed by seed."""

    row: str
    evaluator: str
    share: float
    labels: float
    mean: Needed
    seeds: dict[int, Needed]

    def factor(self, needed: Needed) -> float:
        return needed.labels / self.labels

    @property
    def range(self) -> tuple[Needed, Needed] | None:
        """The lowest and the highest seed, a bound beyond every number; None below three seeds."""
        if len(self.seeds) < FEWEST_SEEDS:
            return None
        ordered = sorted(
            self.seeds.values(), key=lambda needed: (needed.labels, {"<=": 0, "": 1, ">": 2}[needed.bound])
        )
        return ordered[0], ordered[-1]


@dataclass
class SavedEntry(Entry):
    """A cell of the table of labels saved."""

    saving: Saving | None = None

    def text(self, column: Column) -> str:
        """ "4.2× (2.9 to >10)": the factor, and the lowest and highest seed's where they read otherwise; "none": random
        needs no more."""
        if self.saving is None:
            return super().text(column)
        text, *ends = (_times(self.saving, needed) for needed in (self.saving.mean, *(self.saving.range or ())))
        return text + ("" if text == "none" else "×") + (f" ({ends[0]} to {ends[1]})" if set(ends) - {text} else "")


def _times(saving: Saving, needed: Needed) -> str:
    factor = saving.factor(needed)
    if needed.bound == "<=" and factor <= 1:
        return "none"
    number = f"{factor:,.0f}" if factor >= 9.95 else f"{factor:.1f}" if factor >= 0.095 else f"{factor:.2g}"
    return {"": "", ">": ">", "<=": "≤"}[needed.bound] + number


def labels_needed(accuracy: float, labels: Sequence[float], accuracies: Sequence[float]) -> Needed:
    """The fewest labels with which a measured curve reaches an accuracy: linear in the logarithm of the labels between
    its points.

    A curve that falls again counts where it first gets there; so what is saved against it is never overstated by a dip,
    and more accuracy never needs fewer labels. Nothing is extrapolated: at or below the first point the answer is "at
    most its labels", above every point "more than the last one's".

    Parameters
    ----------
    accuracy : to reach.
    labels : [N >= 1] numbers of labels, positive and rising.
    accuracies : [N] of the curve.
    """
    if not labels or len(labels) != len(accuracies) or labels[0] <= 0 or any(b <= a for a, b in pairwise(labels)):
        raise SSLBenchError(
            f"a curve needs positive, rising numbers of labels and an accuracy for each, not {list(labels)} and "
            f"{list(accuracies)}"
        )
    if accuracy <= accuracies[0]:
        return Needed(labels[0], "<=")
    for (n0, a0), (n1, a1) in pairwise(zip(labels, accuracies, strict=True)):
        if accuracy <= a1:
            return Needed(min(n1, n0 * (n1 / n0) ** ((accuracy - a0) / (a1 - a0))))
    return Needed(labels[-1], ">")


def with_shares(results: RunRecords, data: str) -> list[str]:
    """Evaluators of a labelled set that have numbers for two shares of the labels or more: probes first, then
    fine-tuning."""
    frame = results.frame
    frame = frame[(frame["data"] == data) & (frame["split"] == results.split)]
    metrics = frame["evaluator"].map(lambda name: results.declared(name).labels_by)
    counts = frame[frame["metric"] == metrics].groupby("evaluator")["labels"].nunique()
    names = [str(name) for name in counts.index[counts > 1]]
    return sorted(names, key=lambda name: (results.declared(name).order, name))


def label_curves(results: RunRecords, data: str, evaluator: str) -> list[LabelCurve]:
    """The curves of every row and variant, shares rising; the linear probe's at its best stage."""
    numbers = results.frame
    numbers = numbers[
        (numbers["data"] == data)
        & (numbers["evaluator"] == evaluator)
        & (numbers["split"] == results.split)
        & (numbers["metric"] == results.declared(evaluator).labels_by)
    ]
    if results.declared(evaluator).stages_by:
        numbers = numbers[numbers["best"].astype(bool)]
    means = numbers.groupby(["row", "variant", "labels", "seed"])["value"].mean()
    curves: dict[tuple[str, str], dict[float, dict[int, float]]] = {}
    for (row, variant, share, seed), value in means.items():  # type: ignore[misc]  # pandas' stubs know no tuple here
        curves.setdefault((str(row), str(variant)), {}).setdefault(float(share), {})[int(seed)] = float(value)
    order = {row.row: at for at, row in enumerate(results.run.rows)}
    return [LabelCurve(*name, curves[name]) for name in sorted(curves, key=lambda name: (order[name[0]], name[1]))]


def label_counts(results: RunRecords, data: str, evaluator: str) -> dict[float, float]:
    """Share to the number of labels that the fits behind the numbers saw.

    As the records tell it: class-balanced draws are rounded, and the test number of a probe on all labels is of a fit
    on train and validation. Without that, the share of the training images; without those, the share itself.
    """
    counts: dict[float, float] = {}
    for evaluation in results.evaluations:
        if evaluation.data == data and evaluation.evaluator == evaluator:
            counts |= dict(_fitted(evaluation.record, results.split))
    train = next((entry.get("train") for entry in results.data_sets() if entry["name"] == data), None) or 1
    shares = {
        m.labels
        for evaluation in results.evaluations
        if (evaluation.data, evaluation.evaluator) == (data, evaluator)
        for m in evaluation.record.measurements
    }
    return {share: counts.get(share, share * train) for share in sorted(shares)}


def _fitted(record: EvaluationRecord, split: str) -> Iterator[tuple[float, float]]:
    for run in record.details.get("runs", []):
        yield float(run["labels"]), float(run["images"])
    for fit in record.details.get("fits", []):
        facts = (fit.get("final_fit") if split == "test" else None) or fit["fit"]
        yield float(fit["labels"]), float(facts["images"])


def savings(results: RunRecords, data: str, evaluator: str) -> list[Saving]:
    """Labels saved by every row that was pretrained without labels, at every share below 1.

    The reference is `random`; where it was fine-tuned for longer as well, the better of the two at every share, on the
    mean over the seeds. Row and reference are compared on the seeds they share. Nothing comes back where the reference
    has one share only. Of a row that was trained for the longest length offered nothing but a lower bound is known, and
    nothing at all where `random` matches it with the fewest labels.
    """
    curves = label_curves(results, data, evaluator)
    rows = {row.row: row for row in results.run.rows}
    random = [curve for curve in curves if rows[curve.row].task == "random" and rows[curve.row].block == "baseline"]
    points = [(share, curve) for curve in random for share in curve.values]
    shares = sorted({share for share, _ in points})
    if len(shares) < 2:
        return []
    counts = label_counts(results, data, evaluator)
    complete = set.intersection(*(set(curve.values[share]) for share, curve in points))
    saved = []
    for curve in curves:
        row = rows[curve.row]
        if row.block not in ("pretext", "elsewhere") or row.uses_labels or curve.variant:
            continue
        for share in curve.values:
            seeds = sorted(complete & set(curve.values[share]))
            if share < 1 and seeds:
                better = _better(random, shares, seeds)
                mean = _needed_to_match(curve, share, better, counts, seeds)
                of_seeds = {s: _needed_to_match(curve, share, better, counts, [s]) for s in seeds}
                if (curve.row, evaluator, data, share) in results.at_longest:
                    # the row's accuracy is a lower bound: of what random needs, all that is known is that it is more
                    if mean.bound == "<=":
                        continue
                    mean = Needed(mean.labels, ">")
                    of_seeds = {s: Needed(n.labels, ">") for s, n in of_seeds.items() if n.bound != "<="}
                saved.append(Saving(curve.row, evaluator, share, counts[share], mean, of_seeds))
    return saved


def _better(random: list[LabelCurve], shares: list[float], seeds: list[int]) -> dict[float, LabelCurve]:
    """The curve with the higher mean at every share: one choice for all seeds, the higher of each seed would be a
    selection of luck."""
    return {
        share: max((curve for curve in random if share in curve.values), key=lambda curve: curve.mean(share, seeds))
        for share in shares
    }


def _needed_to_match(
    curve: LabelCurve, share: float, better: dict[float, LabelCurve], counts: dict[float, float], seeds: list[int]
) -> Needed:
    points: dict[float, float] = {}
    for at, other in better.items():  # shares of a small set may be rounded to the same number of labels
        points[counts[at]] = max(other.mean(at, seeds), points.get(counts[at], 0.0))
    return labels_needed(curve.mean(share, seeds), list(points), list(points.values()))


def saved_section(results: RunRecords, section: Section) -> Section | None:
    """The table of labels saved, rows as in the table above it; None where there is nothing to compare."""
    evaluators = with_shares(results, section.data)
    savings_of = {(s.row, s.evaluator, s.share): s for name in evaluators for s in savings(results, section.data, name)}
    measured = {name for _, name, _ in savings_of}
    above = sorted(
        (
            c
            for c in section.columns
            if c.evaluator in measured
            and c.metric == results.declared(c.evaluator).labels_by
            and c.stage in ("best", "")
            and c.labels is not None
            and c.labels < 1
        ),
        key=lambda column: (evaluators.index(column.evaluator), column.labels),
    )
    lines = []
    for line in section.lines:
        if line.block in ("pretext", "elsewhere") and not line.uses_labels and not line.variant:
            cells: dict[str, Entry] = {}
            for column in above:
                assert column.labels is not None
                saving = savings_of.get((line.row, column.evaluator, column.labels))
                shown = line.cells[column.key].status
                cells[column.key] = (
                    SavedEntry("value", saving=saving) if saving else Entry(shown if shown != "value" else "none")
                )
            lines.append(replace(line, cells=cells, failures=[]))
    if not above or not lines:
        return None
    columns = [
        replace(
            column,
            group=_heading(results, column.evaluator),
            title=f"{100 * (column.labels or math.nan):g} %",
            unit="×",
            folds=False,
        )
        for column in above
    ]
    return Section(section.data, columns, lines, title="labels saved")


def _heading(results: RunRecords, evaluator: str) -> str:
    declared, count = results.declared(evaluator), evaluator.removeprefix(base_name(evaluator))
    of_shares = (
        column
        for column in declared.columns
        if column.metric == declared.labels_by and column.labels in ("fewer", "each")
    )
    column = next(of_shares, None)
    return column.group.format(count=count) if column is not None and column.group else declared.title + count
