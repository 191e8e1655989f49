"""Which columns a table has: read from the numbers that are there and, before they are, from what the run asks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd

from ssl_bench.report.ground.content import Column
from ssl_bench.report.ground.names import BALANCED, GAIN, base_name, is_stage
from ssl_bench.report.reading.records import RunRecords

TOP5_ABOVE = 20  # classes; below, a top-5 accuracy says little
_FRACTION = re.compile(
    r"((balanced_)?top\d|acc|accuracy|balanced_accuracy|m?ap\d*|miou|iou|f1|auc|auroc|precision|recall)(@|_|$)",
    re.IGNORECASE,
)


def reference_row(results: RunRecords) -> str | None:
    """The row of untrained networks that gains are over: the one called "random", else the first; None where there is none."""
    rows = [row.row for row in results.run.rows if row.task == "random" and row.block == "baseline"]
    return "random" if "random" in rows else rows[0] if rows else None


def columns_of(results: RunRecords, data: str, num_classes: int, wide: bool, classic: bool) -> list[Column]:
    """The columns for one labelled set: cheap and frozen first, then neighbours, few labels, what evaluators bring sets for, cost."""
    frame = results.frame
    frame = frame[frame["data"] == data]
    asked = {found.evaluator for found in results.evaluations if found.data == data}
    asked |= {missing.what for missing in results.missing if missing.data == data}
    order = {"linear": 0, "knn": 1, "finetune": 3, "diagnostics": 4}
    columns: list[Column] = []
    for evaluator in sorted(asked, key=lambda name: (order.get(base_name(name), 2), name)):
        own = frame[(frame["evaluator"] == evaluator) & (frame["split"] == results.split)]
        count = evaluator.removeprefix(base_name(evaluator))
        if base_name(evaluator) == "linear":
            columns += _linear(own, evaluator, count, results, num_classes > TOP5_ABOVE, wide)
        elif base_name(evaluator) == "knn":
            columns += _knn(own, evaluator, count, results.split, wide)
        elif base_name(evaluator) == "finetune":
            columns += _finetune(
                own, evaluator, count, results, num_classes > TOP5_ABOVE and wide, wide and _is_balanced(own)
            )
        elif base_name(evaluator) == "diagnostics":
            if wide:
                columns += _diagnostics(frame[frame["evaluator"] == evaluator], evaluator)
        else:
            columns += _other(own, evaluator, results.split)
    columns = [_of_protocol(column, results, data) for column in (*columns, *_own(results, wide))] + _cost(
        results, wide
    )
    return [column for column in columns if _is_classic(column)] if classic else columns


def _of_protocol(column: Column, results: RunRecords, data: str) -> Column:
    place = column.evaluator, column.data or data
    return replace(column, protocol=results.protocols.get(place, ""), older=results.is_older(*place))


def _is_classic(column: Column) -> bool:
    """Frozen accuracy at the best stage with all labels, detection mAP after fine-tuning (Doersch & Zisserman, 2017), and what the rows cost."""
    probe = base_name(column.evaluator) == "linear" and column.stage == "best" and column.labels == 1
    detection = column.metric == "map_voc07" and column.stage != "frozen"
    return probe or detection or not column.evaluator


def _own(results: RunRecords, wide: bool) -> list[Column]:
    """Columns of evaluators on sets of their own; they stand beside every labelled set's."""
    found = []
    frame = results.frame[results.frame["split"] == results.split]
    for name, base in dict.fromkeys((str(entry["name"]), str(entry["evaluator"])) for entry in results.own_sets()):
        here = frame[(frame["data"] == name) & (frame["evaluator"].map(base_name) == base)]
        for evaluator in dict.fromkeys(here["evaluator"]) or [base]:
            own = here[here["evaluator"] == evaluator]
            columns = (
                _detection(own, evaluator, results.split, wide)
                if base == "detection"
                else _other(own, evaluator, results.split)
            )
            found += [
                replace(column, key=f"{name} {column.key}", group=f"{column.group}, {name}", data=name)
                for column in columns
            ]
    return found


def _detection(own: pd.DataFrame, evaluator: str, split: str, wide: bool) -> list[Column]:
    titles = {"map_voc07": "mAP", "ap": "AP"} | ({"map": "mAP, area", "ap50": "AP50", "ap75": "AP75"} if wide else {})
    stages = list(dict.fromkeys(own["stage"])) or [""]
    return [
        Column(
            f"{evaluator} {metric} {stage}".strip(),
            "detection",
            f"{title} {stage}".strip(),
            evaluator,
            metric,
            stage,
            split=split,
        )
        for stage in stages
        for metric, title in titles.items()
    ]


def _linear(own: pd.DataFrame, evaluator: str, count: str, results: RunRecords, top5: bool, wide: bool) -> list[Column]:
    split = results.split
    # the control on shuffled labels always has them all
    shares = sorted(set(own[own["metric"] == "top1"]["labels"])) or [1.0]
    group = f"linear probe{count}" + (f", {100 * shares[-1]:g} % of the labels" if shares[-1] != 1 else "")

    def column(stage: str, title: str, metric: str = "top1") -> Column:
        return Column(f"{evaluator} {metric} {stage}", group, title, evaluator, metric, stage, shares[-1], split)

    found = [column("best", "best stage")]
    balanced = _is_balanced(own)
    if balanced:
        found.append(column("best", "balanced", f"{BALANCED}top1"))
    if reference_row(results) is not None:
        found.append(replace(column("best", "over random", f"top1{GAIN}"), unit="points"))
    found.append(column("pooled", "last stage"))
    if balanced and wide:
        found.append(column("pooled", "last, balanced", f"{BALANCED}top1"))
    if top5:
        found += [column("best", "best, top-5", "top5"), column("pooled", "last, top-5", "top5")]
    if wide and any(not is_stage(stage) for stage in own["stage"]):
        found.append(column("code", "code"))
    few = f"linear probe{count}, best stage"
    found += [
        Column(
            f"{evaluator} {metric} best {share:g}",
            few,
            f"{100 * share:g} %{suffix}",
            evaluator,
            metric,
            "best",
            share,
            split,
            folds=True,
        )
        for share in shares[:-1]
        for metric, suffix in _with_balanced("top1", balanced and wide)
    ]
    return found


def _is_balanced(own: pd.DataFrame) -> bool:
    """Whether balanced accuracies were measured: where classes are of very unequal size."""
    return any(str(metric).startswith(BALANCED) for metric in set(own["metric"]))


def _with_balanced(metric: str, balanced: bool) -> list[tuple[str, str]]:
    """A metric and what its title adds; the balanced one beside it."""
    return [(metric, ""), (f"{BALANCED}{metric}", ", balanced")] if balanced else [(metric, "")]


def _knn(own: pd.DataFrame, evaluator: str, count: str, split: str, wide: bool) -> list[Column]:
    numbers = sorted({int(m.group(1)) for metric in own["metric"] if (m := re.fullmatch(r"top1@(\d+)", metric))})
    if not wide and numbers:
        numbers = [20 if 20 in numbers else numbers[0]]
    return [
        Column(f"{evaluator} {metric}", f"kNN{count}", f"k={k}{suffix}", evaluator, metric, "pooled", split=split)
        for k in numbers or [20]
        for metric, suffix in _with_balanced(f"top1@{k}", wide and _is_balanced(own))
    ]


def _finetune(
    own: pd.DataFrame, evaluator: str, count: str, results: RunRecords, top5: bool, balanced: bool
) -> list[Column]:
    shares = sorted(set(own["labels"])) or _asked_shares(results) or [1.0]
    group = f"fine-tune{count}, share of labels"
    split = results.split
    return [
        Column(
            f"{evaluator} {metric} {share:g}",
            group,
            f"{100 * share:g} %{suffix}",
            evaluator,
            metric,
            "",
            share,
            split,
            folds=True,
        )
        for metric, suffix in (*_with_balanced("top1", balanced), *([("top5", ", top-5")] if top5 else []))
        for share in shares
    ]


def _asked_shares(results: RunRecords) -> list[float]:
    for asked in results.run.matrix.get("evaluate", []):
        options: Any = (
            asked.get("options", {}) if isinstance(asked, dict) and asked.get("evaluator") == "finetune" else {}
        )
        shares = options.get("labels") or []
        if shares:
            return sorted(float(share) for share in (shares if isinstance(shares, (list, tuple)) else [shares]))
    return []


def _diagnostics(own: pd.DataFrame, evaluator: str) -> list[Column]:
    # Facts of a single task (active units of a VAE) stay in the csv and the frame; a column is for what rows share.
    shared = [
        str(metric)
        for metric, part in own.groupby("metric", sort=False)
        if part["row"].nunique() > 0.5 * own["row"].nunique()
    ]
    return [
        Column(
            f"{evaluator} {metric}",
            "diagnostics",
            metric,
            evaluator,
            metric,
            split=str(own["split"].iloc[0]),
            unit="%" if _FRACTION.match(metric) else "",
        )
        for metric in shared
    ]


def _other(own: pd.DataFrame, evaluator: str, split: str) -> list[Column]:
    found = []
    for metric, stage, labels in own[["metric", "stage", "labels"]].drop_duplicates().itertuples(index=False):
        parts = [str(metric), stage if stage != "pooled" else "", f"{100 * labels:g} %" if labels != 1 else ""]
        title = " ".join(part for part in parts if part)
        unit = "%" if _FRACTION.match(str(metric)) else ""
        found.append(
            Column(
                f"{evaluator} {title}", evaluator, title, evaluator, str(metric), str(stage), float(labels), split, unit
            )
        )
    return found or [Column(evaluator, evaluator, "result", evaluator, "", split=split)]


def _cost(results: RunRecords, wide: bool) -> list[Column]:
    # then rows differ in the images that they see
    shared = (results.run.matrix.get("pretrain") or {}).get("passes") is not None
    found = [*([("images_k", "k images", 0)] if shared else []), ("passes", "passes", 1), ("minutes", "min", 1)]
    if wide:
        found += [
            ("images_per_second", "images/s", 0),
            ("memory_gb", "GB", 1),
            ("tflops", "TFLOP", 1),
            ("parameters_m", "M par.", 2),
        ]
    return [
        Column(metric, "pretraining", title, "", metric, unit=title, digits=digits) for metric, title, digits in found
    ]
