"""Linear probe: multinomial logistic regression on frozen features of every stage (Kornblith et al., 2019; SimCLR, B.8)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw, fewest_units, folds, subsample
from ssl_bench.evaluators._scores import (
    MOST_DRAWS,
    Fractions,
    accuracies,
    check_fractions,
    check_labels,
    compact,
    draws_of,
    go_on,
    groups_of,
    label_tensor,
    measured,
    per_class,
)
from ssl_bench.evaluators._strengths import SEARCH_TOLERANCE, STRONGEST, WEAKEST, Fold, StrengthPath
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.logistic import SoftmaxRegression, Solution, fit_flops
from ssl_bench.model import MOST_IN_SET
from ssl_bench.protocols import VERSIONS

FOLDS = 5
TOLERANCE = 1e-4  # largest entry of the gradient; scikit-learn's default
SHUFFLED_IMAGES = 2_000
SHUFFLES = 5  # one shuffle can land off chance, because whole clusters of images get one answer


class LinearOptions(EvaluatorOptions):
    """Options of the linear probe."""

    labels: Fractions = (1.0,)  #: shares of the training labels
    draws: int = Field(default=1, ge=1, le=MOST_DRAWS)  #: draws of every share below 1
    strengths: int = Field(default=9, ge=1, le=100)  #: l2 strengths tried
    search_images: int | None = Field(default=10_000, ge=1, le=MOST_IN_SET)  #: strengths are tried on at most this many training images; None: on all


class Linear(Evaluator):
    """Softmax regression on every stage, the pooled features and the codes.

    Features are standardised with the mean and deviation of the training split (no labels enter). The penalty is 1 / (2 C) times
    the squared norm of the weights against the *summed* cross-entropy, so that C means the same for any number of images; in
    units of the mean loss it is l2 = 1 / (C N). Nine strengths from strong to weak, each started at the last one's optimum; a
    best one at the end of the grid extends the grid.

    All labels: the strength is chosen on validation (searched on ``search_images`` images), the validation number is that of a
    fit on train, the test number that of a fit on train + validation. A share of labels: strength and stage are chosen by
    five-fold cross-validation inside the draw, and the fit is on the draw only. The best stage is chosen among the
    backbone's stages and the pooled features; codes are reported beside them. As a negative control the pooled features are
    fitted to shuffled labels ("top1_shuffled"), which must end at chance: what the same answers would score on images dealt out
    at random ("top1_chance", 1 / K where classes are of equal size).
    """

    name: ClassVar[str] = "linear"
    protocol: ClassVar[str] = "linear-lbfgs"
    version: ClassVar[int] = VERSIONS["linear"]
    Options: ClassVar[type[EvaluatorOptions]] = LinearOptions

    @classmethod
    def check(cls, options: Any, train: ImageSet, validation: ImageSet) -> None:
        check_labels(cls.name, train, validation)
        check_fractions(cls.name, options.labels, train)

    @classmethod
    def smoke(cls, options: Any) -> Any:
        return options.model_copy(update={"labels": (1.0,), "draws": 1})

    @classmethod
    def fitting_flops(cls, options: Any, train: Any, widths: Sequence[int]) -> float:
        total, classes = 0.0, len(train.classes)
        for width in widths:
            for fraction, _ in draws_of(options.labels, options.draws):
                images = round(fraction * len(train))
                if fraction == 1:
                    total += options.strengths * fit_flops(min(images, options.search_images or images), width, classes)
                    total += 2 * fit_flops(images, width, classes)
                else:
                    total += FOLDS * options.strengths * fit_flops(round(images * (1 - 1 / FOLDS)), width, classes) + fit_flops(images, width, classes)
        return total

    def evaluate(self, subject: Subject) -> Evaluation:
        report = _Report(subject.num_classes)
        names = subject.features.names()
        for at, name in enumerate(names):
            stage = _Stage(name, subject, self.options)
            for fraction, number in draws_of(self.options.labels, self.options.draws):
                share = f", {100 * fraction:.3g} % of the labels" if fraction < 1 else ""
                subject.progress(f"linear probe: {name} ({at + 1} of {len(names)}){share}")
                report.add(stage.all_labels() if fraction == 1 else stage.some_labels(fraction, number))
            if name == "pooled":
                report.control(stage.shuffled())
        return report.evaluation({"search_tolerance": SEARCH_TOLERANCE, "tolerance": TOLERANCE})


@dataclass
class _Found:
    """One classifier's story."""

    stage: str
    labels: float
    draw: int
    chosen_by: float | None  #: accuracy by which stages are compared; None where nothing could be compared
    scores: dict[str, tuple[Tensor, Tensor]]  #: split -> (logits [N, K], labels [N])
    facts: dict[str, Any]


@dataclass
class _Control:
    """What a probe on shuffled labels gave."""

    measurements: list[Measurement]
    facts: dict[str, Any]


class _Stage:
    """Standardised features of one stage, and the fits on them."""

    def __init__(self, name: str, subject: Subject, options: LinearOptions) -> None:
        self.name, self.subject, self.options, self.classes = name, subject, options, subject.num_classes
        train, validation = (subject.features.get(split, name) for split in ("train", "validation"))
        self.mean = train.mean(0)
        deviation = train.std(0)
        # A dimension that never moves says nothing: it becomes zero, not noise blown up to unit deviation.
        self.scale = torch.where(deviation > 1e-6 * train.abs().amax().clamp_min(1e-30), 1 / deviation, torch.zeros_like(deviation))
        self.count = len(train)
        self.both = torch.cat((train, validation)).sub_(self.mean).mul_(self.scale)
        self.train, self.validation = self.both[: self.count], self.both[self.count :]
        self.labels = torch.cat((label_tensor(subject.train, train.device), label_tensor(subject.validation, train.device)))
        self.penalty = (STRONGEST * WEAKEST) ** 0.5  # of the control on shuffled labels, until a strength is chosen

    def all_labels(self) -> _Found:
        """Chosen on validation; the test number is of a fit on train + validation."""
        began = time.monotonic()
        y, y_validation = self.labels[: self.count], self.labels[self.count :]
        assert self.subject.train.labels is not None
        limit = self.options.search_images or self.count
        some = subsample(self.subject.train.labels, self.count, max(limit, self.classes), self.subject.seed)
        problem = SoftmaxRegression(*_rows(self.train, y, some), self.classes)
        path = StrengthPath([Fold(problem, self.validation, y_validation)], self.options.strengths, lambda: go_on(self.subject, "linear probe"))
        penalty = self.penalty = path.choose()
        full = problem if len(some) == self.count else SoftmaxRegression(self.train, y, self.classes, problem.covariance)
        solution = full.fit(penalty / self.count, path.solution(penalty), TOLERANCE)
        facts = path.facts() | {"chosen_on": "validation", "searched_on": len(some), "fit": _facts(solution, self.count)}
        scores = {"validation": (solution.logits(self.validation), y_validation)}
        if self.subject.test is not None:
            go_on(self.subject, "linear probe")
            everything = SoftmaxRegression(self.both, self.labels, self.classes, full.covariance)
            final = everything.fit(penalty / len(self.both), solution, TOLERANCE)
            facts["final_fit"] = _facts(final, len(self.both))
            scores["test"] = self._test(final)
        facts["seconds"] = round(time.monotonic() - began, 3)
        chosen_by = accuracies(*scores["validation"], self.classes)["top1"]
        return _Found(self.name, 1.0, 0, chosen_by, scores, facts)

    def some_labels(self, fraction: float, number: int) -> _Found:
        """Everything is chosen inside the draw; no label outside it is used but to report."""
        began = time.monotonic()
        assert self.subject.train.labels is not None
        drawn = draw(self.subject.train.labels, fraction, number, self.subject.seed, self.subject.train.classes)
        x, y = _rows(self.train, self.labels, drawn)
        groups = groups_of(self.subject.train, drawn)
        smallest = fewest_units(self.subject.train.labels[drawn], groups)
        if smallest >= 2:
            count = min(FOLDS, smallest)
            inside = folds(y.cpu().numpy(), count, self.subject.seed, groups=groups)
            parts = [Fold(SoftmaxRegression(*_rows(x, y, kept), self.classes), *_rows(x, y, held)) for kept, held in inside]
            path = StrengthPath(parts, self.options.strengths, lambda: go_on(self.subject, "linear probe"))
            penalty = path.choose()
            facts: dict[str, Any] = path.facts() | {"chosen_on": f"{count}-fold cross-validation inside the draw"}
            chosen_by: float | None = path.accuracy(penalty)
        else:
            penalty, chosen_by = (STRONGEST * WEAKEST) ** 0.5, None
            facts = {"penalty": penalty, "chosen_on": f"nothing: one {'image' if groups is None else 'group'} of a class cannot be both fitted and held back"}
        solution = SoftmaxRegression(x, y, self.classes).fit(penalty / len(x), None, TOLERANCE)
        scores = {"validation": (solution.logits(self.validation), self.labels[self.count :])}
        if self.subject.test is not None:
            scores["test"] = self._test(solution)
        facts |= {"fit": _facts(solution, len(x)), "seconds": round(time.monotonic() - began, 3)}
        return _Found(self.name, fraction, number, chosen_by, scores, facts)

    def shuffled(self) -> _Control:
        """The same probe on labels that belong to other images: mean accuracy over several shuffles."""
        assert self.subject.train.labels is not None
        some = subsample(self.subject.train.labels, self.count, max(SHUFFLED_IMAGES, self.classes), self.subject.seed)
        x, y = _rows(self.train, self.labels, some)
        problem = SoftmaxRegression(x, y, self.classes)
        sets = {"validation": (self.validation, self.labels[self.count :])}
        if self.subject.test is not None:
            sets["test"] = self._test_set()
        found: dict[str, list[float]] = {split: [] for split in sets}
        chance: dict[str, list[float]] = {split: [] for split in sets}
        converged = True
        for number in range(SHUFFLES):
            go_on(self.subject, "linear probe")
            order = np.argsort(np.random.PCG64([self.subject.seed, number]).random_raw(len(some)), kind="stable")
            problem.labels = y[torch.from_numpy(order).to(y.device)]
            solution = problem.fit(self.penalty / len(some), None, TOLERANCE)
            converged &= solution.converged
            for split, (features, labels) in sets.items():
                scores = solution.logits(features)
                found[split].append(accuracies(scores, labels, self.classes)["top1"])
                told, true = (torch.bincount(ids, minlength=self.classes).double() / len(ids) for ids in (scores.argmax(1), labels))
                chance[split].append(float(told @ true))
        measurements = [
            Measurement(metric, split, sum(values[split]) / SHUFFLES, len(sets[split][1]), stage=self.name)
            for metric, values in (("top1_shuffled", found), ("top1_chance", chance)) for split in sets
        ]
        return _Control(measurements, {"images": len(some), "shuffles": found, "converged": converged})

    def _test_set(self) -> tuple[Tensor, Tensor]:
        assert self.subject.test is not None
        features = (self.subject.features.get("test", self.name) - self.mean).mul_(self.scale)
        return features, label_tensor(self.subject.test, features.device)

    def _test(self, solution: Solution) -> tuple[Tensor, Tensor]:
        features, labels = self._test_set()
        return solution.logits(features), labels


class _Report:
    """Collects what was found, marks the best stage of every share and draw, and writes it down."""

    def __init__(self, num_classes: int) -> None:
        self.classes = num_classes
        self.found: list[_Found] = []
        self.measurements: list[Measurement] = []
        self.details: dict[str, Any] = {"fits": [], "per_class": {}, "best": {}}

    def add(self, found: _Found) -> None:
        self.found.append(found)

    def control(self, control: _Control) -> None:
        self.measurements += control.measurements
        self.details["shuffled"] = control.facts

    def evaluation(self, settings: dict[str, Any]) -> Evaluation:
        predictions: dict[str, np.ndarray] = {}
        for place in dict.fromkeys((found.labels, found.draw) for found in self.found):
            here = [found for found in self.found if (found.labels, found.draw) == place]
            best = self._best(here)
            self.details["best"][_key("", *place)] = best
            for found in here:
                self.details["fits"].append({"stage": found.stage, "labels": found.labels, "draw": found.draw} | found.facts)
                for split, (scores, labels) in found.scores.items():
                    values = accuracies(scores, labels, self.classes)
                    where = {"stage": found.stage, "labels": found.labels, "draw": found.draw, "best": found.stage == best}
                    self.measurements += measured(values, split, len(labels), **where)
                    chosen = found.stage in ("pooled", best)
                    if chosen and found.labels == 1:
                        self.details["per_class"].setdefault(found.stage, {})[split] = per_class(scores.argmax(1), labels, self.classes)
                    if split == "test" and (chosen or found.labels == 1):
                        predictions[_key(found.stage, *place)] = compact(scores.argmax(1), self.classes)
        return Evaluation(self.measurements, predictions, self.details | settings)

    @staticmethod
    def _best(here: list[_Found]) -> str:
        """The stage that scored highest where it was chosen, the earliest of equals; "pooled" where nothing could be compared."""
        candidates = [found for found in here if found.stage == "pooled" or _is_stage(found.stage)]
        compared = [found for found in candidates if found.chosen_by is not None]
        return max(compared, key=lambda found: found.chosen_by or 0.0).stage if compared else "pooled"


def _is_stage(name: str) -> bool:
    return len(name) > 1 and name[0] == "s" and name[1:].isdigit()


def _key(stage: str, labels: float, draw: int) -> str:
    return stage if labels == 1 else f"{stage}@{labels:g}/{draw}"


def _rows(features: Tensor, labels: Tensor, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    if len(positions) == len(features):
        return features, labels[: len(features)]
    chosen = torch.from_numpy(positions).to(features.device)
    return features.index_select(0, chosen), labels.index_select(0, chosen)


def _facts(solution: Solution, images: int) -> dict[str, Any]:
    return {
        "images": images, "l2": solution.l2, "loss": solution.loss, "gradient": solution.gradient, "iterations": solution.iterations,
        "converged": solution.converged,
    }
