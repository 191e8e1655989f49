"""The battery that every evaluator, ours or a plugin's, has to pass."""

from __future__ import annotations

import copy
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data import places_of
from ssl_bench.data.images import ImageSet
from ssl_bench.data.sources.shapes import render
from ssl_bench.errors import DataError, RecordError, SSLBenchError
from ssl_bench.evaluators.base import Evaluation, Evaluator, Subject
from ssl_bench.evaluators.features import FrozenFeatures
from ssl_bench.evaluators.plugins import refuse_unusable_evaluation
from ssl_bench.plugins.registry import summary_of
from ssl_bench.records.declarations import EvaluatorDeclaration
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.testing.battery.bench import Check, CheckFailed, CheckWarning, NotApplicable, seeded

SIZE = 32  # px
IMAGES = {"train": 120, "validation": 48, "test": 60}


class _Flat(nn.Module):
    """A network that is no ResNet: pixels averaged down and multiplied by a matrix."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))


class EvaluatorBench:
    """One evaluator with its options cut down as for ``--smoke``, a narrow ResNet-10, and embedded shapes or the sets
    that it brings.

    Parameters
    ----------
    evaluator : the class under check.
    options : options that differ from the defaults.
    """

    def __init__(self, evaluator: type[Evaluator], options: Mapping[str, Any] | None) -> None:
        self.evaluator, self._options = evaluator, dict(options or {})
        self.name = str(getattr(evaluator, "name", evaluator.__name__))

    @cached_property
    def options(self) -> Any:
        """The validated options."""
        return self.evaluator.smoke(parse(self.evaluator.Options, self._options, f"evaluator {self.name!r}"))

    @cached_property
    def declared(self) -> EvaluatorDeclaration:
        """What it declares of its numbers."""
        try:
            return self.evaluator.declared()
        except ValueError as error:
            raise CheckFailed(f"its declarations contradict themselves: {error}") from None

    @cached_property
    def sets(self) -> dict[str, Any]:
        """Train, validation and test."""
        brought = self.evaluator.own_sets(self.options, places_of(None))
        if brought:
            return {split: getattr(brought[0], split) for split in IMAGES}
        rendered = render("train", SIZE, sum(IMAGES.values()))
        everything = ImageSet(
            rendered.images,
            np.arange(len(rendered.images)),
            rendered.labels,
            rendered.classes,
            "shapes",
            "shapes of the battery",
            rendered.columns,
        )
        order = np.random.default_rng(0).permutation(len(everything))
        ends = np.cumsum([0, *IMAGES.values()])
        parts = {
            split: everything.take(np.sort(order[start:end]))
            for split, start, end in zip(IMAGES, ends[:-1], ends[1:], strict=True)
        }
        try:
            self.evaluator.check(self.options, parts["train"], parts["validation"])
        except DataError as error:
            raise NotApplicable(f"the embedded shapes cannot be judged on: {error}") from None
        return parts

    @cached_property
    def network(self) -> nn.Module:
        """The narrow ResNet that is judged."""
        with seeded(0):
            spec = BackboneSpec(name="resnet10t", width=0.125, stem_stride=2)
            return Backbone(spec, SIZE, InputSpec()).eval().requires_grad_(False)

    def subject(self, final: bool, network: nn.Module | None = None, seed: int = 0) -> Subject:
        """What a run would give it."""
        if self.evaluator.needs:
            needs = ", ".join(sorted(self.evaluator.needs))
            raise NotApplicable(f"it needs {needs} of a task, and the battery has a network alone")
        judged = copy.deepcopy(network or self.network)
        splits = {split: images for split, images in self.sets.items() if final or split != "test"}
        return Subject(
            backbone=judged,
            fresh_backbone=lambda: copy.deepcopy(judged),
            features=FrozenFeatures(judged, lambda images: {}, splits),
            train=copy.deepcopy(splits["train"]),
            validation=copy.deepcopy(splits["validation"]),
            test=copy.deepcopy(splits.get("test")),
            seed=seed,
            device=torch.device("cpu"),
            precision="fp32",
        )

    def evaluate(self, subject: Subject) -> Evaluation:
        """What it answers, as a run would ask it."""
        with seeded(subject.seed, 0xE7):
            return self.evaluator(self.options).evaluate(subject)

    @cached_property
    def final_answer(self) -> Evaluation:
        """Its answer with test."""
        return self.evaluate(self.subject(final=True))

    def refuse_unusable(self, evaluation: Any, final: bool) -> None:
        """Fail for an answer that a run would refuse."""
        sizes = {split: len(images) for split, images in self.sets.items()}
        test = self.sets["test"]
        target = test.labels if final and isinstance(test, ImageSet) else None
        try:
            refuse_unusable_evaluation(self.name, evaluation, sizes, target, self.declared, final)
        except RecordError as error:
            raise CheckFailed(str(error)) from None

    def own_line(self, error: BaseException) -> str:
        """The last line of the evaluator's own files that an error came through; "" where it was in none."""
        classes = self.evaluator.__mro__[: self.evaluator.__mro__.index(Evaluator)]
        files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in classes}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def documented(bench: EvaluatorBench) -> str:
    """The class says what it measures, and its options what they mean."""
    if not (bench.evaluator.__doc__ or "").strip() or bench.evaluator.__doc__ == Evaluator.__doc__:
        raise CheckWarning("the class has no docstring; its first line is what `ssl-bench list evaluators` prints")
    return (inspect.getdoc(bench.evaluator) or "").partition("\n")[0]


def options(bench: EvaluatorBench) -> str:
    """The default options are valid and can be written into a record."""
    try:
        values = bench.options.model_dump(mode="json")
        json.dumps(values, allow_nan=False)
    except (SSLBenchError, TypeError, ValueError) as error:
        raise CheckFailed(f"the options cannot be recorded ({error}); give every option a type and a default") from None
    return ", ".join(values) or "none"


def declared(bench: EvaluatorBench) -> str:
    """Metrics say their unit, direction and bounds, and columns show them."""
    if not bench.declared.metrics:
        raise CheckWarning(
            "no metrics are declared, so that the table shows plain numbers without intervals; "
            'set metrics = (Metric(name="...", unit="%", low=0, high=1),)'
        )
    unbounded = [m.name for m in bench.declared.metrics if m.low is None and m.high is None]
    return ", ".join(metric.name for metric in bench.declared.metrics) + (
        f"; no bounds: {', '.join(unbounded)}" if unbounded else ""
    )


def answers(bench: EvaluatorBench) -> str:
    """What it returns before test is opened can be recorded, within the bounds declared."""
    evaluation = bench.evaluate(bench.subject(final=False))
    bench.refuse_unusable(evaluation, final=False)
    return ", ".join(f"{m.metric} {m.value:.4g}" for m in evaluation.measurements[:4])


def hidden_test(bench: EvaluatorBench) -> str:
    """Without test images there are validation numbers alone; with them there is a test number."""
    evaluation = bench.evaluate(bench.subject(final=False))
    if any(m.split == "test" for m in evaluation.measurements):
        raise CheckFailed("it measured on test while subject.test was None; measure on test only where it is not None")
    if not any(m.split == "validation" for m in evaluation.measurements):
        raise CheckFailed(
            "it measured nothing on validation; validation numbers are needed always, for choices and for --val"
        )
    bench.refuse_unusable(bench.final_answer, final=True)
    return "measured when opened" if bench.declared.opens_test else "never opened"


def same_seed(bench: EvaluatorBench) -> str:
    """The same seed gives the same numbers and predictions."""
    first, second = bench.final_answer, bench.evaluate(bench.subject(final=True))
    if first.measurements != second.measurements:
        changed = next(
            (a.metric for a, b in zip(first.measurements, second.measurements, strict=False) if a != b), "another list"
        )
        raise CheckFailed(
            f"a second evaluation with the same seed gave other numbers ({changed}); derive every draw from "
            "subject.seed"
        )
    same = first.predictions.keys() == second.predictions.keys() and all(
        np.array_equal(first.predictions[name], second.predictions[name]) for name in first.predictions
    )
    if not same:
        raise CheckFailed(
            "a second evaluation with the same seed gave other predictions; derive every draw from subject.seed"
        )
    return f"{len(first.measurements)} measurements"


def untouched(bench: EvaluatorBench) -> str:
    """The backbone, its features and the labels are left as they were."""
    subject = bench.subject(final=True)
    weights = {name: tensor.clone() for name, tensor in subject.backbone.state_dict().items()}
    modes = [module.training for module in subject.backbone.modules()]
    splits = [split for split in IMAGES if isinstance(bench.sets[split], ImageSet)]
    features = {split: subject.features.get(split, "pooled").clone() for split in splits}
    labels = {split: subject.labels(split).copy() for split in splits}
    bench.evaluate(subject)
    state = subject.backbone.state_dict()
    if state.keys() != weights.keys() or not all(torch.equal(state[name], weights[name]) for name in weights):
        raise CheckFailed("the backbone's weights or statistics changed; train on subject.fresh_backbone()")
    if [module.training for module in subject.backbone.modules()] != modes:
        raise CheckFailed("the backbone was left in another mode; use subject.fresh_backbone(), or set the mode back")
    for split in splits:
        if not torch.equal(subject.features.get(split, "pooled"), features[split]):
            raise CheckFailed(f"the {split} features were changed in place; clone them first")
        if not np.array_equal(subject.labels(split), labels[split]):
            raise CheckFailed(f"the {split} labels were changed in place; copy them first")
    return "backbone, features and labels"


def columns(bench: EvaluatorBench) -> str:
    """Every column that the table always shows has been measured."""
    measured = bench.final_answer.measurements
    empty = []
    for column in bench.declared.columns:
        sometimes = (
            column.if_measured
            or column.classes_above
            or column.gain
            or column.metric == "*"
            or column.labels == "fewer"
        )
        of_metric = [m for m in measured if _covers(bench.declared, column.metric, m.metric)]
        if column.stage not in ("", "*", "best", "code"):
            of_metric = [m for m in of_metric if m.stage == column.stage]
        if not sometimes and not of_metric:
            empty.append(f"{column.metric} {column.stage}".strip())
    if empty:
        raise CheckFailed(
            f"columns are declared that nothing was measured for: {', '.join(empty)}; measure it, or set "
            "if_measured=True"
        )
    return f"{len(bench.declared.columns)} declared" if bench.declared.columns else "one for every metric"


def _covers(declaration: EvaluatorDeclaration, wanted: str, measured: str) -> bool:
    metric = declaration.metric(measured)
    return wanted == measured or (metric is not None and metric.name == wanted)


def other_networks(bench: EvaluatorBench) -> str:
    """A network that is no ResNet is judged, or ``supports`` says why it cannot be."""
    with seeded(0):
        network = _Flat().eval()
    reason = bench.evaluator.supports(bench.options, network)
    if not isinstance(reason, str):
        raise CheckFailed(f'supports() returned {reason!r}; return why a network cannot be judged, or "" where it can')
    if reason:
        return f"left out: {reason}"
    try:
        bench.evaluate(bench.subject(final=False, network=network))
    except NotApplicable:
        raise
    except Exception as error:
        raise CheckFailed(
            f"a network without stages made it raise {type(error).__name__}: {error} ({bench.own_line(error)}); "
            'let supports(cls, options, network) return why it cannot be judged, and the table shows "-"'
        ) from None
    return "judged"


_NEEDS: dict[Callable[[Any], str], tuple[str, ...]] = {
    documented: (), options: (), declared: (), answers: ("options",), hidden_test: ("answers",),
    same_seed: ("hidden_test",),
    untouched: ("answers",), columns: ("hidden_test", "declared"), other_networks: ("answers",),
}  # fmt: skip


def evaluator_battery() -> list[Check]:
    """The checks, in the order in which they run."""
    return [Check(check.__name__, summary_of(check.__doc__), check, needs) for check, needs in _NEEDS.items()]
