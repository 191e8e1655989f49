"""Which columns a table has: read from the numbers that are there and, before they are, from what the run asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from ssl_bench.records.declarations import EvaluatorDeclaration, Metric, TableColumn
from ssl_bench.report.ground.content import Column
from ssl_bench.report.ground.names import GAIN, base_name, is_stage
from ssl_bench.report.reading.records import RunRecords


def reference_row(results: RunRecords) -> str | None:
    """The row of untrained networks that gains are over: the one called "random", else the first; None where there is
    none."""
    rows = [row.row for row in results.run.rows if row.task == "random" and row.block == "baseline"]
    return "random" if "random" in rows else rows[0] if rows else None


def stages_evaluator(results: RunRecords, data: str) -> str:
    """The evaluator that compares the stages of a network on a set; "" where none does.

    Of several, the first one asked.
    """
    names = {evaluation.evaluator for evaluation in results.evaluations if evaluation.data == data}
    able = [name for name in names if results.declared(name).stages_by and name == base_name(name)]
    return min(able, key=lambda name: (results.declared(name).order, name), default="")


def columns_of(results: RunRecords, data: str, num_classes: int, wide: bool, classic: bool) -> list[Column]:
    """The columns for one labelled set: cheap and frozen first, then neighbours, few labels, what evaluators bring sets
    for, cost."""
    frame = results.frame[results.frame["data"] == data]
    asked = {evaluation.evaluator for evaluation in results.evaluations if evaluation.data == data}
    asked |= {missing.what for missing in results.missing if missing.data == data}
    columns: list[Column] = []
    for evaluator in sorted(asked, key=lambda name: (results.declared(name).order, name)):
        columns += _declared(frame[frame["evaluator"] == evaluator], evaluator, results, num_classes, wide)
    columns += _on_own_sets(results, wide)
    columns = [_of_protocol(column, results, data) for column in columns] + _cost_columns(results, wide)
    return [column for column in columns if _is_classic(column)] if classic else columns


def _of_protocol(column: Column, results: RunRecords, data: str) -> Column:
    place = column.evaluator, column.data or data
    return replace(column, protocol=results.protocols.get(place, ""), older=results.is_older(*place))


def _is_classic(column: Column) -> bool:
    """Frozen accuracy with all labels, detection after fine-tuning (Doersch & Zisserman, 2017),
    and what the rows cost."""
    judged = column.classic and column.labels in (None, 1) and column.stage != "frozen"
    return judged or not column.evaluator


def _on_own_sets(results: RunRecords, wide: bool) -> list[Column]:
    """Columns of evaluators on sets of their own; they stand beside every labelled set's."""
    columns: list[Column] = []
    for name, base in dict.fromkeys((str(entry["name"]), str(entry["evaluator"])) for entry in results.own_sets()):
        here = results.frame[(results.frame["data"] == name) & (results.frame["evaluator"].map(base_name) == base)]
        for evaluator in dict.fromkeys(here["evaluator"]) or [base]:
            made = _declared(here[here["evaluator"] == evaluator], evaluator, results, 0, wide)
            columns += [
                replace(column, key=f"{name} {column.key}", group=f"{column.group}, {name}", data=name)
                for column in made
            ]
    return columns


def _declared(frame: pd.DataFrame, evaluator: str, results: RunRecords, num_classes: int, wide: bool) -> list[Column]:
    """The columns of one evaluator on one set, from what it declares and the numbers that are there."""
    declared = results.declared(evaluator)
    split = results.split if declared.opens_test else "validation"
    frame = frame[frame["split"] == split]
    if not declared.columns:
        return _undeclared(frame, evaluator, declared, split)
    names = {column.metric for column in declared.columns}
    # a control on shuffled labels always has them all
    patterns = [Metric(name=name) for name in names if name != "*"]
    covered = {metric for metric in frame["metric"].unique() if any(pattern.covers(metric) for pattern in patterns)}
    shown = frame["metric"].isin(covered) | ("*" in names)
    shares = sorted(set(frame["labels"][shown.astype(bool)])) or _asked_shares(results, base_name(evaluator)) or [1.0]
    columns: list[Column] = []
    for wanted in declared.columns:
        if (wanted.wide and not wide) or num_classes < wanted.classes_above + bool(wanted.classes_above):
            continue
        for metric in _metrics(wanted, frame, wide):
            measured = frame[frame["metric"] == metric]
            if wanted.stage == "code":
                measured = measured[~measured["stage"].map(is_stage).astype(bool)]
            if wanted.if_measured and measured.empty:
                continue
            stages = (list(dict.fromkeys(frame["stage"])) or [""]) if wanted.stage == "*" else [wanted.stage]
            for stage in stages:
                for share in _shares_of_column(wanted, shares):
                    columns.append(_table_column(wanted, declared, evaluator, metric, stage, share, split))
    if wide:
        keys = {column.key for column in columns}
        columns += [c for c in _stage_gains(frame, evaluator, declared, split) if c.key not in keys]
    return [column for column in columns if not column.metric.endswith(GAIN) or reference_row(results) is not None]


def stage_gain_columns(results: RunRecords, data: str) -> list[Column]:
    """The gain over random at every stage, of evaluators that compare stages by a metric with a baseline gain."""
    if reference_row(results) is None:
        return []
    frame = results.frame[(results.frame["data"] == data) & (results.frame["split"] == results.split)]
    names = sorted(set(frame["evaluator"]), key=lambda name: (results.declared(name).order, name))
    columns = [
        column
        for name in names
        for column in _stage_gains(frame[frame["evaluator"] == name], name, results.declared(name), results.split)
    ]
    return [_of_protocol(column, results, data) for column in columns]


def _stage_gains(frame: pd.DataFrame, evaluator: str, declared: EvaluatorDeclaration, split: str) -> list[Column]:
    """The gain at every stage that was measured, with the most labels."""
    metric = declared.metric(declared.stages_by) if declared.stages_by else None
    frame = frame[frame["metric"] == declared.stages_by]
    stages = [stage for stage in dict.fromkeys(frame["stage"]) if is_stage(stage)]
    if metric is None or not metric.baseline_gain or len(stages) < 2:
        return []
    share = float(frame["labels"].max())
    group = f"{declared.title or base_name(evaluator)}{evaluator.removeprefix(base_name(evaluator))}"
    wanted = TableColumn(metric=metric.name, group=group, gain=True, labels="most", title="{stage}", wide=True)
    columns = [_table_column(wanted, declared, evaluator, metric.name, stage, share, split) for stage in stages]
    return [
        replace(
            column, group=f"{column.group}, over random", title="last" if column.stage == "pooled" else column.title
        )
        for column in columns
    ]


def _metrics(wanted: TableColumn, frame: pd.DataFrame, wide: bool) -> list[str]:
    """The metrics behind a declared column, numbers rising."""
    if wanted.metric == "*":
        # Facts of a single task (active units of a VAE) stay in the csv and the frame; a column is for what rows share.
        rows = frame["row"].nunique()
        return [
            str(metric) for metric, part in frame.groupby("metric", sort=False) if part["row"].nunique() > 0.5 * rows
        ]
    if not wanted.metric.endswith("@*"):
        return [wanted.metric]
    pattern = Metric(name=wanted.metric)
    numbers = sorted({int(metric.rpartition("@")[2]) for metric in frame["metric"] if pattern.covers(metric)})
    if not wide and numbers and wanted.preferred is not None:
        numbers = [wanted.preferred if wanted.preferred in numbers else numbers[0]]
    if not numbers and wanted.preferred is not None:
        numbers = [wanted.preferred]
    return [f"{wanted.metric[:-1]}{number}" for number in numbers]


def _shares_of_column(wanted: TableColumn, shares: list[float]) -> list[float | None]:
    return {"": [None], "most": shares[-1:], "fewer": shares[:-1], "each": shares}[wanted.labels]  # type: ignore[return-value]


def _table_column(
    wanted: TableColumn,
    declared: EvaluatorDeclaration,
    evaluator: str,
    metric: str,
    stage: str,
    share: float | None,
    split: str,
) -> Column:
    facts = declared.metric(metric) or Metric(name=metric, higher_is_better=None)
    words = {
        "share": "" if share is None else f"{100 * share:g} %",
        "number": metric.rpartition("@")[2],
        "stage": stage,
        "count": evaluator.removeprefix(base_name(evaluator)),
    }
    group = (wanted.group or (declared.title or base_name(evaluator)) + "{count}").format(**words)
    if wanted.labels == "most" and share != 1:
        group += f", {words['share']} of the labels"
    shown_metric = f"{metric}{GAIN}" if wanted.gain else metric
    in_key = {
        "metric": shown_metric,
        "stage": stage,
        "share": "" if wanted.labels not in ("fewer", "each") else f"{share:g}",
    }
    return Column(
        key=" ".join(part for part in (evaluator, *wanted.key.format(**in_key).split(" ")) if part),
        group=group,
        title=(wanted.title or facts.title or metric).format(**words).strip(),
        evaluator=evaluator,
        metric=shown_metric,
        stage=stage,
        labels=share,
        split=split,
        unit="points" if wanted.gain else facts.unit,
        digits=_digits(facts),
        folds=wanted.folds,
        higher_is_better=None if wanted.gain else facts.higher_is_better,
        share_of_images=facts.share_of_images and not wanted.gain,
        classic=wanted.classic,
        published=wanted.published,
        described=wanted.described,
    )


def _digits(metric: Metric) -> int | None:
    return 1 if metric.digits is None and metric.unit == "%" else metric.digits


def _undeclared(frame: pd.DataFrame, evaluator: str, declared: EvaluatorDeclaration, split: str) -> list[Column]:
    """A column for every metric, stage and share of the labels that was measured."""
    group = (declared.title or base_name(evaluator)) + evaluator.removeprefix(base_name(evaluator))
    measured = [
        (str(metric), str(stage), float(labels))
        for metric, stage, labels in frame[["metric", "stage", "labels"]].drop_duplicates().itertuples(index=False)
    ]
    if not measured:
        awaited = [
            (metric.name, metric.title or metric.name) for metric in declared.metrics if not metric.name.endswith("@*")
        ]
        return [
            Column(f"{evaluator} {title}", group, title, evaluator, name, split=split) for name, title in awaited
        ] or [Column(evaluator, group, "result", evaluator, "", split=split)]
    columns = []
    for name, stage, labels in measured:
        metric = declared.metric(name) or Metric(name=name, higher_is_better=None)
        parts = [metric.title or name, stage if stage != "pooled" else "", f"{100 * labels:g} %" if labels != 1 else ""]
        title = " ".join(part for part in parts if part)
        columns.append(
            Column(
                f"{evaluator} {title}",
                group,
                title,
                evaluator,
                name,
                stage,
                labels,
                split,
                metric.unit,
                _digits(metric),
                metric.higher_is_better,
                metric.share_of_images,
            )
        )
    return columns


def _asked_shares(results: RunRecords, evaluator: str) -> list[float]:
    """The shares of the labels that a run asks an evaluator for, before it has numbers."""
    for asked in results.run.matrix.get("evaluate", []):
        options: Any = (
            asked.get("options", {}) if isinstance(asked, dict) and asked.get("evaluator") == evaluator else {}
        )
        shares = options.get("labels") or []
        if shares:
            return sorted(float(share) for share in (shares if isinstance(shares, (list, tuple)) else [shares]))
    return []


def _cost_columns(results: RunRecords, wide: bool) -> list[Column]:
    # then rows differ in the images that they see
    shared = (results.run.matrix.get("pretrain") or {}).get("passes") is not None
    costs = [*([("images_k", "k images", 0)] if shared else []), ("passes", "passes", 1), ("minutes", "min", 1)]
    if wide:
        costs += [
            ("images_per_second", "images/s", 0),
            ("memory_gb", "GB", 1),
            ("tflops", "TFLOP", 1),
            ("parameters_m", "M par.", 2),
        ]
    return [
        Column(metric, "pretraining", title, "", metric, unit=title, digits=digits) for metric, title, digits in costs
    ]
