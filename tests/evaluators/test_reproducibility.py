"""Which images happen to be held back must not decide what a probe says: its interval, printed beside it, is of the
test images alone.

The features are real: two stages of the untrained network of ``quick`` (48 dimensions each, rounded to 8 bits) on 600
images to learn from and 1,000 to test on. Every draw holds back 60 others of the 600; the tested classifier is fitted
on all of them, so that accuracies differ by what was chosen, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import validation_split
from ssl_bench.evaluators.base import Subject
from ssl_bench.evaluators.linear import stage as _stage
from ssl_bench.evaluators.linear import strengths as _strengths
from ssl_bench.evaluators.linear.probe import Linear
from ssl_bench.plan.effort import effort_of
from ssl_bench.report.ground.intervals import wilson_interval
from ssl_bench.spec.matrix import BackboneSpec

FILE = Path(__file__).with_name("untrained_features.npz")
DRAWS = 20
SPREAD = 0.01  # one point: standard deviation over the draws of what choosing does to accuracy
Make = Callable[..., Subject]


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return {
            name: file[name].astype(np.float32 if name.endswith(("s3", "pooled")) else np.int64) for name in file.files
        }


class Split:
    """The stored features with another part of the training images held back."""

    def __init__(self, draw: int, stages: tuple[str, ...]) -> None:
        self.stages = stages
        self.rows = dict(zip(("train", "validation"), validation_split(stored()["labels"], seed=draw), strict=True))

    def names(self) -> list[str]:
        return list(self.stages)

    def get(self, split: str, name: str) -> torch.Tensor:
        return torch.from_numpy(
            stored()[f"test_{name}"].copy() if split == "test" else stored()[name][self.rows[split]]
        )

    def images(self, split: str) -> ImageSet:
        labels = stored()["test_labels"] if split == "test" else stored()["labels"][self.rows[split]]
        return ImageSet(
            np.zeros((len(labels), 8, 8, 3), np.uint8),
            np.arange(len(labels)),
            labels,
            tuple("abcdefghijkl"),
            split,
            split,
        )


def accuracies(stages: tuple[str, ...], **options: Any) -> tuple[np.ndarray, list[str]]:
    """Test accuracy at the best stage for every draw, and the stages."""
    values, best = [], []
    for draw in range(DRAWS):
        split: Any = Split(draw, stages)
        sets = {name: split.images(name) for name in ("train", "validation", "test")}
        subject = Subject(
            backbone=torch.nn.Identity(),
            fresh_backbone=torch.nn.Identity,
            features=split,
            seed=0,
            device=torch.device("cpu"),
            precision="fp32",
            **sets,
        )
        found = Linear(Linear.Options(**options)).evaluate(subject)
        best.append(found.details["best"][""])
        values += [m.value for m in found.measurements if (m.metric, m.split, m.stage) == ("top1", "test", best[-1])]
    return np.array(values), best


def inside(values: np.ndarray) -> int:
    """Draws whose printed interval holds the mean of all draws."""
    intervals = [
        wilson_interval(value * len(stored()["test_labels"]), len(stored()["test_labels"])) for value in values
    ]
    return sum(low <= values.mean() <= high for low, high in intervals)


@pytest.fixture(autouse=True)
def _no_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled labels, which nothing is chosen by, take half of the time."""
    monkeypatch.setattr(_stage.StageFits, "shuffled", lambda stage: _stage.ShuffledControl([], {}))


def test_stage_and_strength_hardly_depend_on_the_images_held_back() -> None:
    """With the folds that ``auto`` decides on for as many images in the quick matrix."""
    split: Any = Split(0, ("s3", "pooled"))
    effort = effort_of(BackboneSpec(name="resnet10t", width=0.25, stem_stride=2), 32, 16_000, 48)

    class Judged:
        train, validation = split.images("train"), split.images("validation")

    folds = Linear.resolve(Linear.Options(), Judged, effort).folds
    assert folds == 5
    values, _ = accuracies(("s3", "pooled"), folds=folds)
    assert inside(values) >= 19 and values.std() <= SPREAD


def test_stage_and_strength_hardly_depend_on_validation_where_folds_cost_too_much() -> None:
    values, _ = accuracies(("s3", "pooled"), folds=0)
    assert inside(values) >= 19 and values.std() <= SPREAD


def test_the_rule_of_the_first_version_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy on the images held back, all strengths tried: what it chooses is noise, and the interval does not know
    of it."""

    def errors(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (scores.argmax(1) != labels).double()

    for module in (_strengths, _stage):
        monkeypatch.setattr(module, "log_loss", errors)
    monkeypatch.setattr(_strengths, "RISEN", float("inf"))
    monkeypatch.setattr(_strengths, "PATIENCE", 99)
    values, _ = accuracies(("s3", "pooled"), folds=0)
    assert inside(values) < 19 and values.std() > SPREAD
