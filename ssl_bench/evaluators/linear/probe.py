"""Linear probe: multinomial logistic regression on frozen features of every stage (Kornblith et al., 2019; SimCLR,
B.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw
from ssl_bench.evaluators.base import Effort, Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.linear.logistic import TOLERANCE, fit_flops
from ssl_bench.evaluators.linear.stage import FOLDS, ShuffledControl, StageFit, StageFits, number_of_folds
from ssl_bench.evaluators.linear.strengths import SEARCH_TOLERANCE
from ssl_bench.evaluators.scores import (
    MOST_DRAWS,
    Fractions,
    accuracies,
    changed_proportions,
    check_fractions,
    check_labels,
    compact,
    draws_of,
    measured,
    per_class,
)
from ssl_bench.records.protocols import FEW_IMAGES, VERSIONS
from ssl_bench.spec.model import MOST_IN_SET

EQUAL_WIDTH = "_equal_width"  # behind a metric's name
EIGEN_FLOPS = 9  # times D^3, of all eigenvectors of a symmetric matrix (Golub & Van Loan, 2013, 8.3)
MOST_OF_PRETRAINING = 0.5  # that a probe may take of its row's pretraining if it is to use folds
# time that a counted FLOP of a probe takes against one of training: 1.1 on a CPU, 1.6 where fits are hardest; the same
# everywhere
SLOWER = 1.5


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

    Stages differ in how many values they hand to the probe, which alone can make a middle one the best. With
    ``equal_width`` every stage is probed a second time on its first W principal components, W being the number of
    values of the pooled output ("top1_equal_width"), by the same protocol; the best of these is chosen among them.
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
        #: probe every stage also on as many values as the pooled output has, with all labels
        equal_width: bool = False
        LATER: ClassVar[frozenset[str]] = frozenset({"equal_width"})

        @model_validator(mode="after")
        def _all_count(self) -> Linear.Options:
            if self.equal_width and 1.0 not in self.labels:
                raise ValueError(
                    "equal_width has no effect here: it probes with all labels, and labels has no 1.0; add that, or "
                    "leave equal_width out"
                )
            return self

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
                count = number_of_folds(options.folds, fraction)
                if count:
                    total += count * fit_flops(round(searched * (1 - 1 / count)), width, classes, options.strengths)
                    total += fit_flops(images, width, classes)
                elif searched < images:
                    total += fit_flops(searched, width, classes, options.strengths) + fit_flops(images, width, classes)
                else:
                    total += fit_flops(images, width, classes, options.strengths + 1)
                if fraction == 1:
                    total += fit_flops(images, width, classes)  # on train + validation, which is about as many
        if options.equal_width:
            total += cls._narrow_flops(options, train, widths)
        return total

    @classmethod
    def _narrow_flops(cls, options: Any, train: Any, widths: Sequence[int]) -> float:
        """Principal components of every stage, the features on them, and the fits on these; the last of ``widths`` is
        that of the pooled output."""
        alone = options.model_copy(update={"equal_width": False, "labels": (1.0,)})
        narrow = [min(width, widths[-1]) for width in widths]
        eigen = sum(EIGEN_FLOPS * width**3 + 2 * len(train) * width * widths[-1] for width in widths)
        return eigen + cls.fitting_flops(alone, train, narrow)

    def evaluate(self, subject: Subject) -> Evaluation:
        report = _ProbeReport(subject.num_classes)
        names = subject.features.names()
        for at, name in enumerate(names):
            stage = StageFits(name, subject, self.options)
            for fraction, number in draws_of(self.options.labels, self.options.draws):
                share = f", {100 * fraction:.3g} % of the labels" if fraction < 1 else ""
                subject.progress(f"linear probe: {name} ({at + 1} of {len(names)}){share}")
                report.add(stage.all_labels() if fraction == 1 else stage.some_labels(fraction, number))
            if self.options.equal_width and (name == "pooled" or _is_stage(name)):
                subject.progress(f"linear probe: {name} ({at + 1} of {len(names)}), equal width")
                report.add(stage.narrowed(subject.features.get("train", "pooled").shape[1]).all_labels())
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


class _ProbeReport:
    """Collects what was found, marks the best stage of every share and draw, and writes it down."""

    def __init__(self, num_classes: int) -> None:
        self.classes = num_classes
        self.fits: list[StageFit] = []
        self.measurements: list[Measurement] = []
        self.details: dict[str, Any] = {"fits": [], "per_class": {}, "best": {}}

    def add(self, fit: StageFit) -> None:
        self.fits.append(fit)

    def control(self, control: ShuffledControl) -> None:
        self.measurements += control.measurements
        self.details["shuffled"] = control.facts

    def evaluation(self, settings: dict[str, Any]) -> Evaluation:
        predictions: dict[str, np.ndarray] = {}
        for place in dict.fromkeys((fit.labels, fit.draw, fit.equal_width) for fit in self.fits):
            here = [fit for fit in self.fits if (fit.labels, fit.draw, fit.equal_width) == place]
            best = self._best(here)
            self.details["best"][_fit_key("", *place)] = best
            suffix = EQUAL_WIDTH if place[-1] else ""
            for fit in here:
                self.details["fits"].append({"stage": fit.stage, "labels": fit.labels, "draw": fit.draw} | fit.facts)
                for split, (scores, labels) in fit.scores.items():
                    values = {name + suffix: value for name, value in accuracies(scores, labels, self.classes).items()}
                    where = {
                        "stage": fit.stage,
                        "labels": fit.labels,
                        "draw": fit.draw,
                        "best": fit.stage == best,
                    }
                    self.measurements += measured(values, split, len(labels), **where)
                    if fit.stage in ("pooled", best):
                        recalls = per_class(scores.argmax(1), labels, self.classes)
                        self.details["per_class"].setdefault(_fit_key(fit.stage, *place), {})[split] = recalls
                    if split == "test" and (fit.stage in ("pooled", best) or fit.labels == 1):
                        predictions[_fit_key(fit.stage, *place)] = compact(scores.argmax(1), self.classes)
        return Evaluation(self.measurements, predictions, self.details | settings)

    @staticmethod
    def _best(here: list[StageFit]) -> str:
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


def _fit_key(stage: str, labels: float, draw: int, equal_width: bool = False) -> str:
    name = stage + EQUAL_WIDTH if equal_width else stage
    return name if labels == 1 else f"{name}@{labels:g}/{draw}"
