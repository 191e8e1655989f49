"""Linear probe: multinomial logistic regression on frozen features of every stage (Kornblith et al., 2019; SimCLR,
B.8)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw, fewest_units, folds, subsample
from ssl_bench.evaluators.base import Effort, Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.linear.logistic import TOLERANCE, SoftmaxRegression, Solution, fit_flops
from ssl_bench.evaluators.linear.strengths import SEARCH_TOLERANCE, STRONGEST, WEAKEST, Fold, StrengthPath
from ssl_bench.evaluators.scores import (
    MOST_DRAWS,
    Fractions,
    accuracies,
    changed_proportions,
    check_fractions,
    check_labels,
    compact,
    draws_of,
    go_on,
    groups_of,
    label_tensor,
    log_loss,
    measured,
    per_class,
)
from ssl_bench.records.protocols import FEW_IMAGES, VERSIONS
from ssl_bench.spec.model import MOST_IN_SET

FOLDS = 5
MOST_OF_PRETRAINING = 0.5  # that a probe may take of its row's pretraining if it is to use folds
# time that a counted FLOP of a probe takes against one of training: 1.1 on a CPU, 1.6 where fits are hardest; the same
# everywhere
SLOWER = 1.5
SHUFFLED_IMAGES = 2_000
SHUFFLES = 5  # one shuffle can land off chance, because whole clusters of images get one answer


class Linear(Evaluator):
    """Softmax regression on every stage, the pooled features and the codes.

    Features are standardised with the mean and deviation of the training split (no labels enter). The penalty is 1 / (2
    C) times the squared norm of the weights against the *summed* cross-entropy, so that C means the same for any number
    of images; in units of the mean loss it is l2 = 1 / (C N). Nine strengths from strong to weak, each started at the
    last one's optimum; a best one at the end of the grid extends the grid, and the weak end is left out once it can
    only be worse.

    Strengths and stages are chosen by log loss on held-out images, a proper score that moves with every image's
    probability: on a few hundred images accuracy chooses by noise. All labels: held out is validation, or, with
    ``folds``, every fold of train + validation in turn, whose images enter the choice of one strength only; the
    validation number is that of a fit on train, the test number that of a fit on train + validation, both continued
    from the path's solution. Whether folds are worth their time is decided by what a matrix spends, counted and not
    timed: alike for all of its rows and on every machine. A share of labels: strength and stage are chosen by
    cross-validation inside the draw, and the fit is on the draw only. The best stage is chosen among the backbone's
    stages and the pooled features; codes are reported beside them. As a negative control the pooled features are fitted
    to shuffled labels ("top1_shuffled"), which must end at chance: what the same answers would score on images dealt
    out at random ("top1_chance", 1 / K where classes are of equal size).
    """

    name: ClassVar[str] = "linear"
    protocol: ClassVar[str] = "linear-lbfgs"
    version: ClassVar[int] = VERSIONS["linear"]

    class Options(EvaluatorOptions):
        """Options of the linear probe."""

        labels: Fractions = (1.0,)  #: shares of the training labels
        draws: int = Field(default=1, ge=1, le=MOST_DRAWS)  #: draws of every share below 1
        strengths: int = Field(default=9, ge=1, le=100)  #: l2 strengths tried, at most
        #: strengths are tried on at most this many images; None: on all
        search_images: int | None = Field(default=None, ge=1, le=MOST_IN_SET)
        #: that strengths are chosen on with all labels; 0: on validation; auto: 5 below 5,000 training labels where the
        #: probe then takes less than half as long as pretraining, else 0. A draw of few labels always has folds: 5, or
        #: the number given
        folds: Literal["auto", 0] | Annotated[int, Field(ge=2, le=100)] = "auto"

    @classmethod
    def check(cls, options: Any, train: ImageSet, validation: ImageSet) -> None:
        check_labels(train, validation)
        check_fractions(options.labels, train)

    @classmethod
    def smoke(cls, options: Any) -> Any:
        return options.model_copy(update={"labels": (1.0,), "draws": 1})

    @classmethod
    def resolve(cls, options: Any, labelled: Any, effort: Effort) -> Any:
        if all(fraction < 1 for fraction in options.labels):
            return options.model_copy(update={"folds": options.folds if options.folds not in ("auto", 0) else FOLDS})
        if options.folds != "auto":
            return options
        folded = options.model_copy(update={"folds": FOLDS})
        cost = SLOWER * cls.fitting_flops(folded, labelled.train, effort.widths)
        affordable = len(labelled.train) < FEW_IMAGES and cost <= MOST_OF_PRETRAINING * effort.pretraining_flops
        return folded if affordable else options.model_copy(update={"folds": 0})

    @classmethod
    def fitting_flops(cls, options: Any, train: Any, widths: Sequence[int]) -> float:
        total, classes = 0.0, len(train.classes)
        for width in widths:
            for fraction, _ in draws_of(options.labels, options.draws):
                images = round(fraction * len(train))
                searched = min(images, (options.search_images if fraction == 1 else None) or images)
                count = _count(options.folds, fraction)
                if count:
                    total += count * fit_flops(round(searched * (1 - 1 / count)), width, classes, options.strengths)
                    total += fit_flops(images, width, classes)
                elif searched < images:
                    total += fit_flops(searched, width, classes, options.strengths) + fit_flops(images, width, classes)
                else:
                    total += fit_flops(images, width, classes, options.strengths + 1)
                if fraction == 1:
                    total += fit_flops(images, width, classes)  # on train + validation, which is about as many
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
        return report.evaluation({"search_tolerance": SEARCH_TOLERANCE, "tolerance": TOLERANCE} | self._draws(subject))

    def _draws(self, subject: Subject) -> dict[str, Any]:
        """Shares whose draws change the proportions of the classes, which are drawn alike; {} where none does."""
        assert subject.train.labels is not None
        changed = {}
        for fraction in [fraction for fraction in self.options.labels if fraction < 1]:
            drawn = draw(subject.train.labels, fraction, 0, subject.seed, subject.train.classes)
            if (facts := changed_proportions(subject.train, drawn)) is not None:
                changed[f"{fraction:g}"] = facts
        return {"draw_changes_proportions": changed} if changed else {}


def _count(folds: Any, fraction: float) -> int:
    """Folds of a share of the labels; 0: validation is held out."""
    if fraction == 1:
        return 0 if folds == "auto" else int(folds)
    return FOLDS if folds in ("auto", 0) else int(folds)


@dataclass
class _StageFit:
    """One classifier's story."""

    stage: str
    labels: float
    draw: int
    loss: float | None  #: held-out log loss by which stages are compared; None where nothing could be held out
    scores: dict[str, tuple[Tensor, Tensor]]  #: split -> (logits [N, K], labels [N])
    facts: dict[str, Any]


@dataclass
class _Control:
    """What a probe on shuffled labels gave."""

    measurements: list[Measurement]
    facts: dict[str, Any]


class _Stage:
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

    def all_labels(self) -> _StageFit:
        """Chosen on validation, or on folds of train + validation; the test number is of a fit on train + validation."""
        began = time.monotonic()
        y, y_validation = self.labels[: self.count], self.labels[self.count :]
        folded = (
            self._folded(*self._pool(), _count(self.options.folds, 1))
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
            problem = SoftmaxRegression(*_rows(self.train, y, some), self.classes)
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
        facts = path.facts() | facts | {"log_loss": loss, "fit": _facts(solution, self.count)}
        if self.subject.test is not None:
            go_on(self.subject, "linear probe")
            everything = SoftmaxRegression(self.both, self.labels, self.classes, full.covariance)
            final = everything.fit(penalty / len(self.both), solution, TOLERANCE)
            facts["final_fit"] = _facts(final, len(self.both))
            scores["test"] = self._test(final)
        facts["seconds"] = round(time.monotonic() - began, 3)
        return _StageFit(self.name, 1.0, 0, loss, scores, facts)

    def some_labels(self, fraction: float, number: int) -> _StageFit:
        """Everything is chosen inside the draw; no label outside it is used but to report."""
        began = time.monotonic()
        assert self.subject.train.labels is not None
        drawn = draw(self.subject.train.labels, fraction, number, self.subject.seed, self.subject.train.classes)
        x, y = _rows(self.train, self.labels, drawn)
        groups = groups_of(self.subject.train, drawn)
        folded = self._folded(x, y, groups, _count(self.options.folds, fraction))
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
                "chosen_on": f"nothing: one {'image' if groups is None else 'group'} of a class cannot be both fitted and held back",
            }
        solution = SoftmaxRegression(x, y, self.classes).fit(penalty / len(x), start, TOLERANCE)
        scores = {"validation": (solution.logits(self.validation), self.labels[self.count :])}
        if self.subject.test is not None:
            scores["test"] = self._test(solution)
        facts |= {"fit": _facts(solution, len(x)), "seconds": round(time.monotonic() - began, 3)}
        return _StageFit(self.name, fraction, number, loss, scores, facts)

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
        return *_rows(self.both, self.labels, some), np.concatenate(known)[some] if len(known) == len(groups) else None

    def _folded(self, x: Tensor, y: Tensor, groups: np.ndarray | None, count: int) -> tuple[list[Fold], int] | None:
        """Problems on all folds but one, and the number of images; None where one image, or group, of a class would
        have to be on both sides."""
        labels = y.cpu().numpy()
        if (smallest := fewest_units(labels, groups)) < 2:
            return None
        inside = folds(labels, min(count, smallest), self.subject.seed, groups=groups)
        return [
            Fold(SoftmaxRegression(*_rows(x, y, kept), self.classes), *_rows(x, y, held)) for kept, held in inside
        ], len(x)

    def shuffled(self) -> _Control:
        """The same probe on labels that belong to other images: mean accuracy over several shuffles."""
        assert self.subject.train.labels is not None
        some = subsample(self.subject.train.labels, self.count, max(SHUFFLED_IMAGES, self.classes), self.subject.seed)
        x, y = _rows(self.train, self.labels, some)
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
        return _Control(measurements, {"images": len(some), "shuffles": by_split, "converged": converged})

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
        self.fits: list[_StageFit] = []
        self.measurements: list[Measurement] = []
        self.details: dict[str, Any] = {"fits": [], "per_class": {}, "best": {}}

    def add(self, fit: _StageFit) -> None:
        self.fits.append(fit)

    def control(self, control: _Control) -> None:
        self.measurements += control.measurements
        self.details["shuffled"] = control.facts

    def evaluation(self, settings: dict[str, Any]) -> Evaluation:
        predictions: dict[str, np.ndarray] = {}
        for place in dict.fromkeys((fit.labels, fit.draw) for fit in self.fits):
            here = [fit for fit in self.fits if (fit.labels, fit.draw) == place]
            best = self._best(here)
            self.details["best"][_key("", *place)] = best
            for fit in here:
                self.details["fits"].append({"stage": fit.stage, "labels": fit.labels, "draw": fit.draw} | fit.facts)
                for split, (scores, labels) in fit.scores.items():
                    values = accuracies(scores, labels, self.classes)
                    where = {
                        "stage": fit.stage,
                        "labels": fit.labels,
                        "draw": fit.draw,
                        "best": fit.stage == best,
                    }
                    self.measurements += measured(values, split, len(labels), **where)
                    if fit.stage in ("pooled", best):
                        recalls = per_class(scores.argmax(1), labels, self.classes)
                        self.details["per_class"].setdefault(_key(fit.stage, *place), {})[split] = recalls
                    if split == "test" and (fit.stage in ("pooled", best) or fit.labels == 1):
                        predictions[_key(fit.stage, *place)] = compact(scores.argmax(1), self.classes)
        return Evaluation(self.measurements, predictions, self.details | settings)

    @staticmethod
    def _best(here: list[_StageFit]) -> str:
        """The stage with the lowest log loss where it was chosen, the earliest of equals; "pooled" where nothing could
        be compared."""
        losses = {
            fit.stage: fit.loss
            for fit in here
            if fit.loss is not None and (fit.stage == "pooled" or _is_stage(fit.stage))
        }
        return min(losses, key=losses.__getitem__) if losses else "pooled"


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
        "images": images,
        "l2": solution.l2,
        "loss": solution.loss,
        "gap": solution.gap,
        "gradient": solution.gradient,
        "iterations": solution.iterations,
        "converged": solution.converged,
    }
