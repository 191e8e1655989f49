"""What an evaluator says of its numbers: metrics, columns of the table, notes. Plain data, so that a table can be made
of records alone."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_ROUNDING = 1e-6  # of float32


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Plain):
    """A metric that an evaluator measures."""

    name: str = Field(min_length=1)  #: as in its measurements; "top1@*" stands for "top1@20", "top1@200" and so on
    title: str = ""  #: heading of its column; "" for the name
    unit: str = ""  #: "%" for a fraction that is shown in per cent; else the unit itself
    higher_is_better: bool | None = True  #: None: neither, so that rows are not compared by it
    low: float | None = None  #: least value possible; None: no bound
    high: float | None = None
    #: the value is the share of ``n`` images that were answered right, so that one seed has a binomial interval
    share_of_images: bool = False
    digits: int | None = Field(default=None, ge=0, le=9)  #: behind the point; None: 1 in per cent, else 3 that count
    #: an untrained network has a value of it at every stage, and what pretraining added to that is told beside it
    baseline_gain: bool = False

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: Any) -> Any:
        """A share is a fraction from 0 to 1, shown in per cent."""
        if isinstance(values, dict) and values.get("share_of_images"):
            return {"unit": "%", "low": 0.0, "high": 1.0} | values
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Metric:
        if self.share_of_images and (self.unit, self.low, self.high) != ("%", 0, 1):
            raise ValueError(
                f"metric {self.name!r} is a share of images, so its unit must be '%' and its bounds 0 and 1"
            )
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"metric {self.name!r}: low must be below high (got {self.low:g} and {self.high:g})")
        return self

    def covers(self, name: str) -> bool:
        """Whether a measurement's metric is this one."""
        return name == self.name or (
            self.name.endswith("@*") and re.fullmatch(rf"{re.escape(self.name[:-1])}\d+", name) is not None
        )

    def problem_of(self, name: str, value: float) -> str:
        """What is wrong with a value; "" where nothing is."""
        if not math.isfinite(value):
            return f"{name} is {value}, and it must be a finite number"
        low, high = self.low if self.low is not None else -math.inf, self.high if self.high is not None else math.inf
        if low - _ROUNDING <= value <= high + _ROUNDING:
            return ""
        bounds = (
            f"from {low:g} to {high:g}"
            if math.isfinite(low) and math.isfinite(high)
            else f"at least {low:g}"
            if math.isfinite(low)
            else f"at most {high:g}"
        )
        return f"{name} must be {bounds} (got {value:g})"


class TableColumn(_Plain):
    """A column, or several: one for each share of the labels, each number behind "@", or each stage.

    In ``title``, ``group`` and ``described`` these are filled in: ``{share}`` ("10 %"), ``{number}`` (of "top1@20":
    20), ``{stage}``, ``{count}`` (" (2)" where an evaluator is asked twice), ``{heading}`` (of the column, in
    ``described`` alone).
    """

    metric: str  #: "top1"; "top1@*" for every number; "*" for every metric that more than half of the rows have
    title: str = ""  #: "" for the metric's
    group: str = ""  #: heading above several columns; "" for the evaluator's title
    #: "best" (chosen on validation), "code" (any other representation), a stage, "*" for every stage, "" for whatever
    #: is there
    stage: str = ""
    #: of the shares of the labels: the most, those below it, each, or whatever is there
    labels: Literal["", "most", "fewer", "each"] = ""
    wide: bool = False  #: shown with --wide alone
    folds: bool = False  #: goes to a second table where the terminal is narrow
    if_measured: bool = False  #: shown only where there are numbers
    classes_above: int = 0  #: shown only where there are more classes
    preferred: int | None = None  #: the one number shown without --wide; the smallest where it was not measured
    gain: bool = False  #: the difference to the untrained network's value at the same stage
    classic: bool = False  #: belongs to the classic table (Doersch & Zisserman, 2017)
    published: str = ""  #: metric of published.csv that it is the counterpart of; the last declared one stands
    described: str = ""  #: in a comparison with published numbers
    key: str = "{metric} {stage} {share}"  #: behind the evaluator's name, in table.csv


class Note(_Plain):
    """What a reader of an evaluator's numbers must know. Notes alike in ``sign`` and ``text`` become one, with their
    items listed."""

    sign: str = Field(min_length=1)  #: word before it in the legend, such as "chosen"
    text: str = Field(min_length=1)
    item: str = ""
    warning: bool = False  #: stands above the table, and names its rows


class EvaluatorDeclaration(_Plain):
    """What the table must know of an evaluator."""

    title: str = ""  #: heading of its columns; "" for its name
    metrics: tuple[Metric, ...] = ()
    columns: tuple[
        TableColumn, ...
    ] = ()  #: none: a column for every metric, stage and share of the labels that was measured
    order: int = 2  #: where its columns stand: probes 0, neighbours 1, fine-tuning 3, diagnostics 4
    opens_test: bool = True  #: False: it measures on validation alone
    stages_by: str = ""  #: the metric by which it compares the stages of a network; "": it does not
    labels_by: str = ""  #: the metric that is drawn against the number of labels; "": none
    curve: str = ""  #: what such a curve is called in a figure

    @model_validator(mode="after")
    def _columns_are_of_metrics(self) -> EvaluatorDeclaration:
        for column in self.columns:
            if column.metric != "*" and not any(
                column.metric == metric.name or metric.covers(column.metric) for metric in self.metrics
            ):
                raise ValueError(f"a column shows metric {column.metric!r}, which is not among the metrics declared")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(
                f"metrics are declared twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}"
            )
        return self

    def metric(self, name: str) -> Metric | None:
        """The declaration of a measurement's metric; None where it is not declared, and no well-known one."""
        return next((metric for metric in (*self.metrics, *WELL_KNOWN) if metric.covers(name)), None)


_ACCURACY: dict[str, Any] = {"unit": "%", "low": 0.0, "high": 1.0}


def _share_metrics(*names: str, gain: bool = False) -> tuple[Metric, ...]:
    return tuple(Metric(name=name, share_of_images=True, baseline_gain=gain) for name in names)


def _fractions(*names: str, gain: bool = False) -> tuple[Metric, ...]:
    return tuple(Metric(name=name, baseline_gain=gain, **_ACCURACY) for name in names)


#: for evaluators that declare nothing, by their whole name
WELL_KNOWN = (
    *_share_metrics("top1", "top5", gain=True),
    *_share_metrics("top1@*", "top5@*", "accuracy", "acc"),
    *_fractions("balanced_top1", gain=True),
    *_fractions(
        "balanced_top5", "balanced_top1@*", "balanced_accuracy", "map", "map50", "map75", "ap", "ap50", "ap75",
    ),
    *_fractions("miou", "iou", "f1", "auc", "auroc", "precision", "recall"),
)  # fmt: skip
_FROZEN, _DETECTION = "ImageNet frozen top-5", "VOC07 mAP"  # of published.csv
_PROBE: dict[str, Any] = {"group": "linear probe{count}", "stage": "best", "labels": "most"}
_FEW: dict[str, Any] = {"group": "linear probe{count}, best stage", "stage": "best", "labels": "fewer", "folds": True}
_TUNED: dict[str, Any] = {"group": "fine-tune{count}, share of labels", "labels": "each", "folds": True}
_KNN: dict[str, Any] = {"group": "kNN{count}", "stage": "pooled", "key": "{metric}", "preferred": 20}
_BOXES: dict[str, Any] = {"group": "detection", "stage": "*"}

#: of the built-in evaluators: known without importing one, also for records of earlier versions
BUILT_IN = {
    "linear": EvaluatorDeclaration(
        title="linear probe", order=0, stages_by="top1", labels_by="top1", curve="linear probe, best stage",
        metrics=(
            *_share_metrics("top1", "top5", gain=True),
            *_share_metrics("top1_shuffled", "top1_chance", "top1_equal_width", "top5_equal_width"),
            *_fractions("balanced_top1", gain=True), *_fractions("balanced_top1_equal_width"),
        ),
        columns=(
            TableColumn(
                metric="top1", title="best stage", classic=True, published=_FROZEN,
                described="{heading}, best stage, top-1", **_PROBE,
            ),
            TableColumn(metric="balanced_top1", title="balanced", if_measured=True, classic=True, **_PROBE),
            TableColumn(metric="top1", title="over random", gain=True, classic=True, **_PROBE),
            TableColumn(metric="top1", title="last stage", **_PROBE | {"stage": "pooled"}),
            TableColumn(metric="top1", title="gain, last", gain=True, **_PROBE | {"stage": "pooled"}),
            TableColumn(
                metric="balanced_top1", title="last, balanced", wide=True, if_measured=True,
                **_PROBE | {"stage": "pooled"},
            ),
            TableColumn(
                metric="top5", title="best, top-5", classes_above=20, classic=True, published=_FROZEN,
                described="{heading}, best stage, top-5", **_PROBE
            ),
            TableColumn(metric="top5", title="last, top-5", classes_above=20, **_PROBE | {"stage": "pooled"}),
            TableColumn(metric="top1", title="code", wide=True, if_measured=True, **_PROBE | {"stage": "code"}),
            TableColumn(metric="top1_equal_width", title="best, equal width", wide=True, if_measured=True, **_PROBE),
            TableColumn(
                metric="top1_equal_width", title="{stage}, equal width", wide=True, if_measured=True,
                **_PROBE | {"stage": "*"},
            ),
            TableColumn(metric="top1", title="{share}", **_FEW),
            TableColumn(metric="balanced_top1", title="{share}, balanced", wide=True, if_measured=True, **_FEW),
        ),
    ),
    "knn": EvaluatorDeclaration(
        title="kNN", order=1, metrics=(*_share_metrics("top1@*", "top5@*"), *_fractions("balanced_top1@*")),
        columns=(
            TableColumn(metric="top1@*", title="k={number}", **_KNN),
            TableColumn(metric="balanced_top1@*", title="k={number}, balanced", wide=True, if_measured=True, **_KNN),
        ),
    ),
    "finetune": EvaluatorDeclaration(
        title="fine-tune", order=3, labels_by="top1", curve="fine-tuned",
        metrics=(*_share_metrics("top1", "top5"), *_fractions("balanced_top1")),
        columns=(
            TableColumn(metric="top1", title="{share}", **_TUNED),
            TableColumn(metric="balanced_top1", title="{share}, balanced", wide=True, if_measured=True, **_TUNED),
            TableColumn(metric="top5", title="{share}, top-5", wide=True, classes_above=20, **_TUNED),
        ),
    ),
    "detection": EvaluatorDeclaration(
        title="detection", metrics=_fractions("map_voc07", "map", "ap", "ap50", "ap75"),
        columns=(
            TableColumn(
                metric="map_voc07", title="mAP {stage}", classic=True, published=_DETECTION,
                described="detection mAP (VOC 2007)", **_BOXES,
            ),
            TableColumn(metric="ap", title="AP {stage}", **_BOXES),
            TableColumn(metric="map", title="mAP, area {stage}", wide=True, **_BOXES),
            TableColumn(metric="ap50", title="AP50 {stage}", wide=True, **_BOXES),
            TableColumn(metric="ap75", title="AP75 {stage}", wide=True, **_BOXES),
        ),
    ),
    "diagnostics": EvaluatorDeclaration(
        title="diagnostics", order=4, opens_test=False,
        metrics=(
            Metric(name="rankme", low=0, higher_is_better=None, digits=1),
            Metric(name="spread", low=0, higher_is_better=None),
            Metric(name="dead_dimensions", low=0, high=1, higher_is_better=None),
        ),
        columns=(TableColumn(metric="*", wide=True),),
    ),
}  # fmt: skip
