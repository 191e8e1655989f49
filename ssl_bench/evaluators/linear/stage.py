"""The fits on the features of one stage: with all labels, with a share of them, and on shuffled ones."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.data.splits import draw, fewest_units, folds, subsample
from ssl_bench.evaluators.base import Measurement, Subject
from ssl_bench.evaluators.linear.logistic import TOLERANCE, SoftmaxRegression, Solution
from ssl_bench.evaluators.linear.strengths import SEARCH_TOLERANCE, STRONGEST, WEAKEST, Fold, StrengthPath
from ssl_bench.evaluators.scores import (
    accuracies,
    go_on,
    groups_of,
    label_tensor,
    log_loss,
)

if TYPE_CHECKING:
    from ssl_bench.evaluators.linear.probe import Linear

FOLDS = 5
SHUFFLED_IMAGES = 2_000
SHUFFLES = 5  # one shuffle can land off chance, because whole clusters of images get one answer


def number_of_folds(folds: Any, fraction: float) -> int:
    """Folds of a share of the labels; 0: validation is held out."""
    if fraction == 1:
        return 0 if folds == "auto" else int(folds)
    return FOLDS if folds in ("auto", 0) else int(folds)


@dataclass
class StageFit:
    """One classifier's story."""

    stage: str
    labels: float
    draw: int
    loss: float | None  #: held-out log loss by which stages are compared; None where nothing could be held out
    scores: dict[str, tuple[Tensor, Tensor]]  #: split -> (logits [N, K], labels [N])
    facts: dict[str, Any]
    equal_width: bool = False  #: of features projected to as many values as the pooled output has


@dataclass
class ShuffledControl:
    """What a probe on shuffled labels gave."""

    measurements: list[Measurement]
    facts: dict[str, Any]


class StageFits:
    """Standardised features of one stage, and the fits on them."""

    def __init__(self, name: str, subject: Subject, options: Linear.Options) -> None:
        self.name, self.subject, self.options, self.classes = name, subject, options, subject.num_classes
        train, validation = (subject.features.get(split, name) for split in ("train", "validation"))
        self.mean = train.mean(0)
        deviation = train.std(0)
        # A dimension that never moves says nothing: it becomes zero, not noise blown up to unit deviation.
        self.scale = torch.where(
            deviation > 1e-6 * train.abs().amax().clamp_min(1e-30), 1 / deviation, torch.zeros_like(deviation)
        )
        self.count = len(train)
        self.both = torch.cat((train, validation)).sub_(self.mean).mul_(self.scale)
        self.train, self.validation = self.both[: self.count], self.both[self.count :]
        self.labels = torch.cat(
            (label_tensor(subject.train, train.device), label_tensor(subject.validation, train.device))
        )
        self.penalty = (STRONGEST * WEAKEST) ** 0.5  # of the control on shuffled labels, until a strength is chosen
        self.axes: Tensor | None = None  #: [D, W] of features that were narrowed
        self.narrowing: dict[str, Any] = {}
        self._covariance: Tensor | None = None

    def narrowed(self, width: int) -> StageFits:
        """The same features on their first principal components, ``width`` of them or as many as there are values.

        The components are those of the standardised features of the training split; no label enters. They keep their
        variances: the penalty on the weights is then the one on weights within the span of the components, and
        features of ``width`` values give what they give without.
        """
        values = self.both.shape[1]
        covariance = self._covariance
        if covariance is None or covariance.shape[0] != values:
            covariance = self.train.T @ self.train / self.count
        where = "cpu" if covariance.device.type == "mps" else covariance.device  # which has no float64
        variances, axes = torch.linalg.eigh(covariance.to(where, torch.float64))
        kept = min(width, values)
        variances, axes = variances.flip(0).clamp_min(0), axes.flip(1)[:, :kept]
        narrow = copy.copy(self)
        narrow.axes = axes.to(self.both)
        narrow.both = self.both @ narrow.axes
        narrow.train, narrow.validation = narrow.both[: self.count], narrow.both[self.count :]
        narrow._covariance = None
        total = float(variances.sum())
        narrow.narrowing = {
            "equal_width": kept,
            "variance_kept": float(variances[:kept].sum()) / total if total > 0 else 1.0,
        }
        return narrow

    def all_labels(self) -> StageFit:
        """Chosen on validation, or on folds of train + validation;
        the test number is of a fit on train + validation."""
        began = time.monotonic()
        y, y_validation = self.labels[: self.count], self.labels[self.count :]
        folded = (
            self._folded(*self._pool(), number_of_folds(self.options.folds, 1))
            if self.options.folds not in ("auto", 0)
            else None
        )
        facts: dict[str, Any]
        if folded is not None:
            parts, searched = folded
            full = SoftmaxRegression(self.train, y, self.classes)
            facts = {
                "chosen_on": f"{len(parts)}-fold cross-validation of train and validation",
                "folds": len(parts),
                "searched_on": searched,
            }
        else:
            some = self._searched(self.train, y)
            problem = SoftmaxRegression(*_at(self.train, y, some), self.classes)
            parts = [Fold(problem, self.validation, y_validation)]
            full = (
                problem
                if len(some) == self.count
                else SoftmaxRegression(self.train, y, self.classes, problem.covariance)
            )
            facts = {"chosen_on": "validation", "folds": 0, "searched_on": len(some)}
        path = self._path(parts)
        penalty = self.penalty = path.choose()
        solution = full.fit(penalty / self.count, path.solution(penalty), TOLERANCE)
        scores = {"validation": (solution.logits(self.validation), y_validation)}
        loss = path.loss(penalty) if folded is not None else float(log_loss(*scores["validation"]).mean())
        facts = path.facts() | facts | {"log_loss": loss, "fit": _solution_facts(solution, self.count)}
        if self.subject.test is not None:
            go_on(self.subject, "linear probe")
            everything = SoftmaxRegression(self.both, self.labels, self.classes, full.covariance)
            final = everything.fit(penalty / len(self.both), solution, TOLERANCE)
            facts["final_fit"] = _solution_facts(final, len(self.both))
            scores["test"] = self._test(final)
        # of a search on fewer images it is only about that of the training split
        if facts["searched_on"] >= self.count:
            self._covariance = full.covariance
        facts |= self.narrowing | {"seconds": round(time.monotonic() - began, 3)}
        return StageFit(self.name, 1.0, 0, loss, scores, facts, self.axes is not None)

    def some_labels(self, fraction: float, number: int) -> StageFit:
        """Everything is chosen inside the draw; no label outside it is used but to report."""
        began = time.monotonic()
        assert self.subject.train.labels is not None
        drawn = draw(self.subject.train.labels, fraction, number, self.subject.seed, self.subject.train.classes)
        x, y = _at(self.train, self.labels, drawn)
        groups = groups_of(self.subject.train, drawn)
        folded = self._folded(x, y, groups, number_of_folds(self.options.folds, fraction))
        loss, start = None, None
        if folded is not None:
            parts, _ = folded
            path = self._path(parts)
            penalty = path.choose()
            loss, start = path.loss(penalty), path.solution(penalty)
            facts: dict[str, Any] = path.facts() | {
                "chosen_on": f"{len(parts)}-fold cross-validation inside the draw",
                "log_loss": loss,
            }
        else:
            penalty = (STRONGEST * WEAKEST) ** 0.5
            facts = {
                "penalty": penalty,
                "chosen_on": (
                    f"nothing: one {'image' if groups is None else 'group'} of a class "
                    "cannot be both fitted and held back"
                ),
            }
        solution = SoftmaxRegression(x, y, self.classes).fit(penalty / len(x), start, TOLERANCE)
        scores = {"validation": (solution.logits(self.validation), self.labels[self.count :])}
        if self.subject.test is not None:
            scores["test"] = self._test(solution)
        facts |= {"fit": _solution_facts(solution, len(x)), "seconds": round(time.monotonic() - began, 3)}
        return StageFit(self.name, fraction, number, loss, scores, facts)

    def _path(self, parts: list[Fold]) -> StrengthPath:
        return StrengthPath(parts, self.options.strengths, lambda: go_on(self.subject, "linear probe"))

    def _searched(self, x: Tensor, y: Tensor) -> np.ndarray:
        """Positions of the images that strengths are tried on: all, or ``search_images`` with the same share of every
        class."""
        limit = self.options.search_images or len(x)
        return subsample(y.cpu().numpy(), len(x), max(limit, self.classes), self.subject.seed)

    def _pool(self) -> tuple[Tensor, Tensor, np.ndarray | None]:
        """Features, labels and groups of train + validation, as far as strengths are searched on them."""
        some = self._searched(self.both, self.labels)
        groups = [groups_of(images) for images in (self.subject.train, self.subject.validation)]
        known = [part for part in groups if part is not None]
        return *_at(self.both, self.labels, some), np.concatenate(known)[some] if len(known) == len(groups) else None

    def _folded(self, x: Tensor, y: Tensor, groups: np.ndarray | None, count: int) -> tuple[list[Fold], int] | None:
        """Problems on all folds but one, and the number of images; None where one image, or group, of a class would
        have to be on both sides."""
        labels = y.cpu().numpy()
        if (smallest := fewest_units(labels, groups)) < 2:
            return None
        inside = folds(labels, min(count, smallest), self.subject.seed, groups=groups)
        return [
            Fold(SoftmaxRegression(*_at(x, y, kept), self.classes), *_at(x, y, held)) for kept, held in inside
        ], len(x)

    def shuffled(self) -> ShuffledControl:
        """The same probe on labels that belong to other images: mean accuracy over several shuffles."""
        assert self.subject.train.labels is not None
        some = subsample(self.subject.train.labels, self.count, max(SHUFFLED_IMAGES, self.classes), self.subject.seed)
        x, y = _at(self.train, self.labels, some)
        problem = SoftmaxRegression(x, y, self.classes)
        sets = {"validation": (self.validation, self.labels[self.count :])}
        if self.subject.test is not None:
            sets["test"] = self._test_set()
        by_split: dict[str, list[float]] = {split: [] for split in sets}
        chance: dict[str, list[float]] = {split: [] for split in sets}
        converged = True
        for number in range(SHUFFLES):
            go_on(self.subject, "linear probe")
            order = np.argsort(np.random.PCG64([self.subject.seed, number]).random_raw(len(some)), kind="stable")
            problem.labels = y[torch.from_numpy(order).to(y.device)]
            solution = problem.fit(self.penalty / len(some), None, SEARCH_TOLERANCE)
            converged &= solution.converged
            for split, (features, labels) in sets.items():
                scores = solution.logits(features)
                by_split[split].append(accuracies(scores, labels, self.classes)["top1"])
                told, true = (
                    torch.bincount(ids, minlength=self.classes).double() / len(ids)
                    for ids in (scores.argmax(1), labels)
                )
                chance[split].append(float(told @ true))
        measurements = [
            Measurement(metric, split, sum(values[split]) / SHUFFLES, len(sets[split][1]), stage=self.name)
            for metric, values in (("top1_shuffled", by_split), ("top1_chance", chance))
            for split in sets
        ]
        return ShuffledControl(measurements, {"images": len(some), "shuffles": by_split, "converged": converged})

    def _test_set(self) -> tuple[Tensor, Tensor]:
        assert self.subject.test is not None
        features = (self.subject.features.get("test", self.name) - self.mean).mul_(self.scale)
        if self.axes is not None:
            features = features @ self.axes
        return features, label_tensor(self.subject.test, features.device)

    def _test(self, solution: Solution) -> tuple[Tensor, Tensor]:
        features, labels = self._test_set()
        return solution.logits(features), labels


def _at(features: Tensor, labels: Tensor, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    if len(positions) == len(features):
        return features, labels[: len(features)]
    chosen = torch.from_numpy(positions).to(features.device)
    return features.index_select(0, chosen), labels.index_select(0, chosen)


def _solution_facts(solution: Solution, images: int) -> dict[str, Any]:
    return {
        "images": images,
        "l2": solution.l2,
        "loss": solution.loss,
        "gap": solution.gap,
        "gradient": solution.gradient,
        "iterations": solution.iterations,
        "converged": solution.converged,
    }
