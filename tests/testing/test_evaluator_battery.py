"""The battery of evaluators: ours pass, and each way to go wrong is found by the check that is about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssl_bench import Evaluation, Evaluator, EvaluatorOptions, Measurement, Metric, Subject, TableColumn
from ssl_bench.testing import check_evaluator


class Means(Evaluator):
    """Nearest class mean."""

    name = "means"
    protocol = "means"
    metrics = (Metric(name="top1", share_of_images=True),)
    columns = (TableColumn(metric="top1"),)

    def splits(self, subject: Subject) -> tuple[str, ...]:
        return ("validation", "test") if subject.test is not None else ("validation",)

    def value(self, subject: Subject, split: str) -> float:
        train, labels = subject.features.get("train", "pooled"), subject.labels("train")
        means = torch.stack([train[torch.from_numpy(labels == label)].mean(0) for label in range(subject.num_classes)])
        answers = torch.cdist(subject.features.get(split, "pooled"), means).argmin(1)
        return float((answers.numpy() == subject.labels(split)).mean())

    def evaluate(self, subject: Subject) -> Evaluation:
        return Evaluation(
            [
                Measurement("top1", split, self.value(subject, split), len(subject.labels(split)))
                for split in self.splits(subject)
            ]
        )


class Percent(Means):
    def value(self, subject: Subject, split: str) -> float:
        return 100 * super().value(subject, split)


class NotANumber(Means):
    def value(self, subject: Subject, split: str) -> float:
        return float("nan")


class Undeclared(Means):
    metrics = (Metric(name="jaccard", unit="%", low=0, high=1),)
    columns = ()


class NoTest(Means):
    def splits(self, subject: Subject) -> tuple[str, ...]:
        return ("validation",)


class Random(Means):
    counter = 0

    def value(self, subject: Subject, split: str) -> float:
        type(self).counter += 1
        return 1 / type(self).counter


class TrainsTheSubject(Means):
    def value(self, subject: Subject, split: str) -> float:
        next(subject.backbone.parameters()).data.mul_(2)
        return super().value(subject, split)


class LeavesTrainMode(Means):
    def value(self, subject: Subject, split: str) -> float:
        subject.backbone.train()
        return 0.5


class NormalisesInPlace(Means):
    def value(self, subject: Subject, split: str) -> float:
        subject.features.get("train", "pooled").div_(2)
        return 0.5


class ShufflesLabels(Means):
    def value(self, subject: Subject, split: str) -> float:
        subject.labels("train").sort()
        return 0.5


class EmptyColumn(Means):
    metrics = (*Means.metrics, Metric(name="margin"))
    columns = (TableColumn(metric="margin"),)


class NeedsStages(Means):
    def value(self, subject: Subject, split: str) -> float:
        return float(len(subject.backbone.stage_maps(torch.rand(1, 3, 32, 32)))) / 100  # type: ignore[operator]


class SaysSo(NeedsStages):
    @classmethod
    def supports(cls, options: Any, network: nn.Module) -> str:
        return "" if hasattr(network, "stage_maps") else "it has no stages"


class Unrecordable(Means):
    class Options(EvaluatorOptions):
        worst: float = float("inf")


class Contradiction(Means):
    @classmethod
    def declared(cls) -> Any:
        raise ValueError("low must be below high")


FAULTS = {
    Percent: ("answers", "top1 must be from 0 to 1"),
    NotANumber: ("answers", "top1 is nan, and it must be a finite number"),
    Undeclared: ("answers", "top1, which it does not declare; its metrics are jaccard"),
    NoTest: ("hidden_test", "measured nothing on them"),
    Random: ("same_seed", r"gave other numbers \(top1\); derive every draw from subject.seed"),
    TrainsTheSubject: ("untouched", "train on subject.fresh_backbone()"),
    LeavesTrainMode: ("untouched", "left in another mode"),
    NormalisesInPlace: ("untouched", "train features were changed in place"),
    ShufflesLabels: ("untouched", "train labels were changed in place"),
    EmptyColumn: ("columns", "nothing was measured for: margin"),
    NeedsStages: ("other_networks", "let supports"),
    Unrecordable: ("options", "cannot be recorded"),
    Contradiction: ("declared", "contradict themselves: low must be below high"),
}


@pytest.mark.parametrize("evaluator", [Means, SaysSo, "knn"], ids=str)
def test_evaluators_that_keep_to_the_contract_pass(evaluator: Any) -> None:
    results = check_evaluator(evaluator, {"k": [5]} if evaluator == "knn" else None)
    assert [(result.name, result.message) for result in results if result.status != "passed"] == [
        (result.name, result.message) for result in results if result.name == "documented" and evaluator is SaysSo
    ]


@pytest.mark.parametrize("evaluator", FAULTS, ids=lambda evaluator: evaluator.__name__)
def test_each_fault_is_found_by_its_check(evaluator: type[Evaluator]) -> None:
    name, words = FAULTS[evaluator]
    failed = {result.name: result.message for result in check_evaluator(evaluator) if result.status == "failed"}
    assert name in failed, failed
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failed[name])


def test_what_needs_a_task_is_skipped_and_not_failed() -> None:
    class Decodes(Means):
        """Compares reconstructions."""

        needs = frozenset({"decode"})

    results = {result.name: result.status for result in check_evaluator(Decodes)}
    assert results["answers"] == "skipped" and "failed" not in results.values() and results["declared"] == "passed"


def test_an_evaluator_that_peeks_at_test_finds_no_features_of_it() -> None:
    class Peeks(Means):
        def splits(self, subject: Subject) -> tuple[str, ...]:
            return ("validation", "test")

    failed = {result.name for result in check_evaluator(Peeks) if result.status == "failed"}
    assert "answers" in failed


def test_the_command_says_what_is_wrong_and_ends_with_1(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ssl_bench.console.commands import app
    from ssl_bench.plugins.registry import EVALUATORS

    (tmp_path / "mine.py").write_text(
        "from ssl_bench import Evaluation, Evaluator, Measurement, Metric\n"
        "class Mine(Evaluator):\n"
        '    """Says a half."""\n'
        '    name, protocol, metrics = "mine_half", "half", (Metric(name="half", low=0, high=1),)\n'
        "    def evaluate(self, subject):\n"
        '        return Evaluation([Measurement("half", "validation", 0.5, 10)])\n'
    )
    try:
        ended = CliRunner().invoke(app, ["check-evaluator", "mine_half", "--plugin", str(tmp_path / "mine.py")])
    finally:
        EVALUATORS._added.pop("mine_half", None)
    assert ended.exit_code == 1 and "FAIL  hidden_test: mine_half was given test images" in ended.output
    assert "ok    declared: half" in ended.output
