"""The runs of a fine-tuning: trials, which choose, and those that are judged."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch, Batches, ImageStore
from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw, fewest_units, holdout
from ssl_bench.errors import TrainingError
from ssl_bench.evaluators.base import Measurement, Subject
from ssl_bench.evaluators.features import frozen
from ssl_bench.evaluators.finetune.halving import SHORTENED, choose_by_halving
from ssl_bench.evaluators.scores import (
    accuracies,
    changed_proportions,
    compact,
    groups_of,
    label_tensor,
    log_loss,
    measured,
    per_class,
)
from ssl_bench.evaluators.training import train_on
from ssl_bench.records.protocols import FEW_IMAGES
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.training.trainable import Trainable
from ssl_bench.transforms.geometry import random_crop, random_flip

HELD_BACK = 0.2  # of a draw, to choose the learning rate on
LONGER, LONGER_DECAY = 3, 5e-4  # the second run of a network without pretraining


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
class _Trials:
    """What trials are trained on, and judged by."""

    train: ImageSet
    judge: ImageSet
    chosen_on: str
    by_loss: bool
    seed: int
    failure: TrainingError | None = None  #: of the last one that diverged

    @property
    def told(self) -> dict[str, Any]:
        return {"chosen_on": self.chosen_on, "chosen_by": "log loss" if self.by_loss else "accuracy"}

    def loss(self, score: float | None) -> float | None:
        """Of a score, the lower the better."""
        return score if self.by_loss or score is None else -score


@dataclass
class FinetuneRuns:
    """Trains and judges, and keeps what was found."""

    subject: Subject
    options: Any  #: Finetune.Options
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
        what = f"fine-tune, {100 * fraction:.3g} % of the labels"
        if fraction < 1 and self.options.draws > 1:
            what += f", draw {number + 1} of {self.options.draws}"
        began = time.monotonic()
        trained: _Classifier | None = None
        if self.options.lengths is not None:
            steps, rate, trained, chosen = self._length_and_rate(train, fraction, number, self.options.lengths, what)
        else:
            steps = self.options.steps_at(fraction, len(train))
            rate, chosen = self._rate(train, fraction, number, max(1, steps // SHORTENED), what)
        variants = [("", steps, 0.0)]
        if self.options.lengths is None and subject.role is TaskRole.UNTRAINED:
            variants.append(("longer", LONGER * steps, LONGER_DECAY))
        for row, length, decay in variants:
            seed = _seed(subject.seed, fraction, number, 0)
            part, told = f"{fraction:g}-{number}-{row or 'run'}", f"{what}, {row}" if row else what
            classifier = trained or self._train(train, rate, length, decay, seed, part, told)
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
        trials = self._trials(train, fraction, number)
        if isinstance(trials, str):
            return rates[len(rates) // 2], {"chosen_on": trials, "tried": {}}
        tried: dict[str, float | None] = {}  # None: training diverged
        best, lowest = 0.0, math.inf
        for at, rate in enumerate(rates):
            part = f"{fraction:g}-{number}-rate-{rate:g}"
            told = f"{what}, rate {at + 1} of {len(rates)}"
            _, tried[f"{rate:g}"] = self._trial(trials, rate, steps, part, told)
            if (loss := trials.loss(tried[f"{rate:g}"])) is not None and loss < lowest:
                best, lowest = rate, loss
        if lowest == math.inf and trials.failure is not None:
            raise trials.failure
        return best, trials.told | {"tried": tried}

    def _length_and_rate(
        self, train: ImageSet, fraction: float, number: int, lengths: tuple[int, ...], what: str
    ) -> tuple[int, float, _Classifier | None, dict[str, Any]]:
        """The steps and the rate that do best on images that the trial did not see, and how they were chosen; with all
        labels also the network that the trial trained, which needs no second training."""
        lengths, rates = tuple(sorted(lengths)), sorted(self.options.learning_rates)

        def length_record(steps: int) -> dict[str, Any]:
            return {"lengths": list(lengths), "longest": steps == lengths[-1]}

        trials = self._trials(train, fraction, number)
        if isinstance(trials, str):
            steps = lengths[len(lengths) // 2]
            chosen = {"chosen_on": trials, "tried": []} | length_record(steps)
            return steps, rates[len(rates) // 2], None, chosen
        tried: list[dict[str, Any]] = []
        kept: tuple[float, int, float, _Classifier] | None = None

        def trial(steps: int, rate: float) -> float | None:
            nonlocal kept
            part = f"{fraction:g}-{number}-{steps}-rate-{rate:g}"
            told = f"{what}, {steps:,} steps at rate {rate:g}"
            classifier, score = self._trial(trials, rate, steps, part, told)
            tried.append({"steps": steps, "learning_rate": rate, "score": score})
            loss = trials.loss(score)
            if loss is not None and fraction == 1 and steps in lengths and (kept is None or loss < kept[0]):
                assert classifier is not None
                kept = loss, steps, rate, classifier
            return loss

        best = choose_by_halving(lengths, rates, trial)
        if best is None:
            assert trials.failure is not None
            raise trials.failure
        steps, rate = best
        chosen = trials.told | {"tried": tried} | length_record(steps)
        return steps, rate, kept[3] if kept is not None and kept[1:3] == best else None, chosen

    def _trials(self, train: ImageSet, fraction: float, number: int) -> _Trials | str:
        """What trials are trained and judged on; why there can be none, where no image can be held back."""
        judge, chosen_on = self.subject.validation, "validation"
        if fraction < 1:
            assert train.labels is not None
            groups = groups_of(train)
            why = "nothing: one {} of a class cannot be both trained on and held back"
            if groups is not None and fewest_units(train.labels, groups) < 2:
                return why.format("group")
            kept, held = holdout(train.labels, HELD_BACK, self.subject.seed, groups=groups)
            if len(held) == 0:
                return why.format("image")
            train, judge, chosen_on = train.take(kept), train.take(held), "a fifth of the draw"
        by_loss = chosen_by_loss(fraction, len(self.subject.train), len(self.subject.validation))
        return _Trials(train, judge, chosen_on, by_loss, _seed(self.subject.seed, fraction, number, 1))

    def _trial(
        self, trials: _Trials, rate: float, steps: int, part: str, what: str
    ) -> tuple[_Classifier | None, float | None]:
        """A trained classifier and its score; None and None where training diverged.

        A rate at which the loss leaves the finite numbers is a rate not to choose.
        """
        try:
            classifier = self._train(trials.train, rate, steps, 0.0, trials.seed, part, what)
        except TrainingError as error:
            trials.failure = error
            return None, None
        scores = self._scores(classifier, trials.judge)
        labels = label_tensor(trials.judge, scores.device)
        if trials.by_loss:
            return classifier, float(log_loss(scores, labels).mean())
        return classifier, accuracies(scores, labels, self.subject.num_classes)["top1"]

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


def chosen_by_loss(fraction: float, train: int, validation: int) -> bool:
    """Whether a rate is judged on few images: by their asked number, which a version can go by before anything is
    drawn, not by what rounding left."""
    return (validation if fraction == 1 else HELD_BACK * fraction * train) < FEW_IMAGES


def _seed(seed: int, fraction: float, number: int, trial: int) -> int:
    """A seed of its own for every share, draw and purpose, alike for every row."""
    return int(np.random.SeedSequence([seed, round(fraction * 1e6), number, trial]).generate_state(1)[0])
