"""Fine-tuning end to end with a new linear head, on shares of the labels (SimCLR, B.5)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch, Batches, ImageStore
from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw, fewest_units, holdout
from ssl_bench.errors import TrainingError
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Measurement, Subject
from ssl_bench.evaluators.features import frozen
from ssl_bench.evaluators.scores import (
    MOST_DRAWS,
    MOST_LISTED,
    Fractions,
    Rates,
    accuracies,
    changed_proportions,
    check_fractions,
    check_labels,
    compact,
    draws_of,
    groups_of,
    label_tensor,
    log_loss,
    measured,
    per_class,
)
from ssl_bench.evaluators.training import train_on
from ssl_bench.records.protocols import FEW_IMAGES, VERSIONS
from ssl_bench.spec.model import MOST_BATCH
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.training.trainable import Trainable
from ssl_bench.transforms.geometry import random_crop, random_flip

HELD_BACK = 0.2  # of a draw, to choose the learning rate on
SHORTENED = 3  # a trial of a learning rate takes a third of the steps
LONGER, LONGER_DECAY = 3, 5e-4  # the second run of a network without pretraining
EPOCHS_FEW, EPOCHS, FEW = 60, 30, 0.01  # SimCLR, B.5: 60 epochs at 1 % of the labels, 30 at 10 %
LEAST_STEPS, MOST_STEPS = 50, 20_000


StepCount = Annotated[int, Field(ge=1, le=10_000_000)]
Steps = StepCount | Annotated[tuple[StepCount, ...], Field(min_length=1, max_length=MOST_LISTED)] | None


class Finetune(Evaluator):
    """Train the whole network with a new zero-initialised head: SGD with Nesterov momentum, no weight decay, cosine,
    crop + flip.

    All labels: trained on train, the learning rate chosen on validation. A share of labels: a class-balanced draw of
    train; the rate is chosen on a fifth of the draw held back, then the whole draw is trained on; no label outside the
    draw is used. Trials take a third of the steps, so that three rates cost as much as the run itself. A rate is chosen
    by accuracy on 5,000 images or more, and by log loss on fewer, where accuracy is too coarse. A backbone without
    pretraining gets a second run, "longer": three times the steps and weight decay 5e-4, at the rate chosen for the
    first; a gain counts against the better one.
    """

    name: ClassVar[str] = "finetune"
    protocol: ClassVar[str] = "finetune-sgd"
    version: ClassVar[int] = VERSIONS["finetune"]
    needs_training: ClassVar[bool] = True

    class Options(EvaluatorOptions):
        """Options of fine-tuning."""

        labels: Fractions = (1.0,)  #: shares of the training labels
        draws: int = Field(default=1, ge=1, le=MOST_DRAWS)  #: draws of every share below 1
        #: for every share alike, or a list of one for each in the order of ``labels``; None: 60 epochs at 1 % of the
        #: labels or less, else 30
        steps: Steps = None
        batch_size: int = Field(default=128, ge=2, le=MOST_BATCH)
        learning_rates: Rates = (0.01, 0.03, 0.1)  #: the same for every row; chosen per share and draw
        #: share of the steps; SimCLR has none, but also trains at batches of 4,096
        warmup: float = Field(default=0.05, ge=0, lt=1)

        @model_validator(mode="after")
        def _steps_of_every_share(self) -> Finetune.Options:
            if isinstance(self.steps, tuple) and len(self.steps) != len(self.labels):
                raise ValueError(
                    f"steps lists {len(self.steps)} numbers for {len(self.labels)} shares of the labels; give one for "
                    "each, or a single one for all"
                )
            return self

        def steps_at(self, fraction: float, images: int) -> int:
            """Steps at one of ``labels``, of ``images`` images."""
            if isinstance(self.steps, tuple):
                return self.steps[self.labels.index(fraction)]
            return self.steps or _auto_steps(fraction, images, self.batch_size)

    @classmethod
    def check(cls, options: Any, train: ImageSet, validation: ImageSet) -> None:
        check_labels(train, validation)
        check_fractions(options.labels, train)

    @classmethod
    def version_on(cls, options: Any, labelled: Any) -> int:
        small = any(
            _chosen_by_loss(fraction, len(labelled.train), len(labelled.validation)) for fraction in options.labels
        )
        return cls.version if small and len(options.learning_rates) > 1 else 1

    @classmethod
    def smoke(cls, options: Any) -> Any:
        return options.model_copy(
            update={"labels": (1.0,), "draws": 1, "steps": 2, "learning_rates": options.learning_rates[:1]}
        )

    @classmethod
    def training_passes(cls, options: Any, train: Any, image_size: int, untrained: bool = False) -> float:
        total = 0
        for fraction, _ in draws_of(options.labels, options.draws):
            steps = options.steps_at(fraction, round(fraction * len(train)))
            trials = len(options.learning_rates) if len(options.learning_rates) > 1 else 0
            total += (steps * (1 + LONGER * untrained) + trials * max(1, steps // SHORTENED)) * options.batch_size
        return float(total)

    def evaluate(self, subject: Subject) -> Evaluation:
        work = _FinetuneRuns(subject, self.options)
        for fraction, number in draws_of(self.options.labels, self.options.draws):
            work.share(fraction, number)
        changed = {"draw_changes_proportions": work.changed} if work.changed else {}
        return Evaluation(work.measurements, work.predictions, {"runs": work.runs, "per_class": work.recalls} | changed)


class _Classifier(Trainable):
    """Cross-entropy of a linear head on flipped images, cropped out of ``pad`` black pixels on every side."""

    name = "finetune"

    def __init__(self, backbone: nn.Module, classes: int, pad: int) -> None:
        super().__init__(backbone)
        self.pad = pad
        self.head = nn.Linear(self.backbone.num_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.labels is not None
        return random_flip(random_crop(batch.images, self.pad)), batch.labels

    def logits(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def forward(self, views: tuple[Tensor, Tensor], phase: str = "main") -> dict[str, Tensor]:
        images, labels = views
        logits = self.logits(images)
        return {
            "loss": F.cross_entropy(logits.float(), labels),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }


@dataclass
class _FinetuneRuns:
    """Trains and judges, and keeps what was found."""

    subject: Subject
    options: Finetune.Options
    measurements: list[Measurement] = field(default_factory=list)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    #: place, as in predictions -> split -> accuracy within each class
    recalls: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    #: share -> how its draws change the largest class's share
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def share(self, fraction: float, number: int) -> None:
        """One draw of one share: choose the rate, train, judge."""
        subject = self.subject
        assert subject.train.labels is not None
        train = subject.train
        if fraction < 1:
            drawn = draw(subject.train.labels, fraction, number, subject.seed, subject.train.classes)
            if (facts := changed_proportions(train, drawn)) is not None:
                self.changed.setdefault(f"{fraction:g}", facts)  # of the first draw, as the probe tells
            train = train.take(drawn)
        steps = self.options.steps_at(fraction, len(train))
        what = f"fine-tune, {100 * fraction:.3g} % of the labels"
        if fraction < 1 and self.options.draws > 1:
            what += f", draw {number + 1} of {self.options.draws}"
        began = time.monotonic()
        rate, chosen = self._rate(train, fraction, number, max(1, steps // SHORTENED), what)
        variants = [("", steps, 0.0)] + (
            [("longer", LONGER * steps, LONGER_DECAY)] if subject.role is TaskRole.UNTRAINED else []
        )
        for row, length, decay in variants:
            seed = _seed(subject.seed, fraction, number, 0)
            classifier = self._train(
                train,
                rate,
                length,
                decay,
                seed,
                f"{fraction:g}-{number}-{row or 'run'}",
                f"{what}, {row}" if row else what,
            )
            place = {"labels": fraction, "draw": number, "row": row}
            for split, images in (("validation", subject.validation), ("test", subject.test)):
                if images is None:
                    continue
                scores = self._scores(classifier, images)
                labels = label_tensor(images, scores.device)
                self.measurements += measured(
                    accuracies(scores, labels, subject.num_classes), split, len(labels), **place
                )
                key = f"{fraction:g}/{number}" + (f"/{row}" if row else "")
                self.recalls.setdefault(key, {})[split] = per_class(scores.argmax(1), labels, subject.num_classes)
                if split == "test":
                    self.predictions[key] = compact(scores.argmax(1), subject.num_classes)
            self.runs.append(
                place
                | {
                    "images": len(train),
                    "steps": length,
                    "batch_size": self.options.batch_size,
                    "learning_rate": rate,
                    "weight_decay": decay,
                    "seconds": round(time.monotonic() - began, 3),
                }
                | chosen
            )
            began = time.monotonic()

    def _rate(
        self, train: ImageSet, fraction: float, number: int, steps: int, what: str
    ) -> tuple[float, dict[str, Any]]:
        """The learning rate that does best on images that the trial did not see, the lowest of equals; and how it was
        chosen.

        Best is the lowest log loss on fewer than 5,000 images, else the highest accuracy.
        """
        rates = sorted(self.options.learning_rates)
        if len(rates) == 1:
            return rates[0], {"chosen_on": "nothing: one rate given", "tried": {}}
        judge, chosen_on = self.subject.validation, "validation"
        if fraction < 1:
            assert train.labels is not None
            groups = groups_of(train)
            middle, why = rates[len(rates) // 2], "nothing: one {} of a class cannot be both trained on and held back"
            if groups is not None and fewest_units(train.labels, groups) < 2:
                return middle, {"chosen_on": why.format("group"), "tried": {}}
            kept, held = holdout(train.labels, HELD_BACK, self.subject.seed, groups=groups)
            if len(held) == 0:
                return middle, {"chosen_on": why.format("image"), "tried": {}}
            train, judge, chosen_on = train.take(kept), train.take(held), "a fifth of the draw"
        by_loss = _chosen_by_loss(fraction, len(self.subject.train), len(self.subject.validation))
        tried: dict[str, float | None] = {}  # None: training diverged
        best, lowest = 0.0, math.inf
        failure: TrainingError | None = None
        for at, rate in enumerate(rates):
            seed = _seed(self.subject.seed, fraction, number, 1)
            try:
                part = f"{fraction:g}-{number}-rate-{rate:g}"
                classifier = self._train(train, rate, steps, 0.0, seed, part, f"{what}, rate {at + 1} of {len(rates)}")
            except TrainingError as error:  # a rate at which the loss leaves the finite numbers is a rate not to choose
                failure, tried[f"{rate:g}"] = error, None
                continue
            scores = self._scores(classifier, judge)
            labels = label_tensor(judge, scores.device)
            score = (
                float(log_loss(scores, labels).mean())
                if by_loss
                else accuracies(scores, labels, self.subject.num_classes)["top1"]
            )
            tried[f"{rate:g}"] = score
            if (loss := score if by_loss else -score) < lowest:
                best, lowest = rate, loss
        if lowest == math.inf and failure is not None:
            raise failure
        return best, {"chosen_on": chosen_on, "chosen_by": "log loss" if by_loss else "accuracy", "tried": tried}

    def _train(
        self, train: ImageSet, rate: float, steps: int, decay: float, seed: int, part: str, what: str
    ) -> _Classifier:
        subject = self.subject
        recipe = Recipe(
            optimizer="sgd",
            momentum=0.9,
            nesterov=True,
            learning_rate=rate,
            weight_decay=decay,
            batch_size=self.options.batch_size,
            warmup=self.options.warmup,
            schedule="cosine",
        )
        classifier = _Classifier(
            subject.fresh_backbone().requires_grad_(True), subject.num_classes, pad=train.size // 8
        )
        batches = Batches(train, self.options.batch_size, seed, subject.device, labels=True, endless=True)
        train_on(subject, classifier, batches, recipe, steps, seed=seed, part=part, what=what)
        return classifier

    def _scores(self, classifier: _Classifier, images: ImageSet) -> Tensor:
        """Logits [N, K] of whole images in eval mode, float32."""
        with frozen(classifier, self.subject.device):
            return torch.cat([classifier.logits(chunk) for chunk in ImageStore(images, self.subject.device).in_order()])


def _chosen_by_loss(fraction: float, train: int, validation: int) -> bool:
    """Whether a rate is judged on few images: by their asked number, which a version can go by before anything is
    drawn, not by what rounding left."""
    return (validation if fraction == 1 else HELD_BACK * fraction * train) < FEW_IMAGES


def _auto_steps(fraction: float, images: int, batch_size: int) -> int:
    epochs = EPOCHS_FEW if fraction <= FEW else EPOCHS
    return min(MOST_STEPS, max(LEAST_STEPS, math.ceil(epochs * images / batch_size)))


def _seed(seed: int, fraction: float, number: int, trial: int) -> int:
    """A seed of its own for every share, draw and purpose, alike for every row."""
    return int(np.random.SeedSequence([seed, round(fraction * 1e6), number, trial]).generate_state(1)[0])
