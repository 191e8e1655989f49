"""Fine-tuning end to end with a new linear head, on shares of the labels (SimCLR, B.5)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from ssl_bench.data.images import ImageSet
from ssl_bench.evaluators.base import Evaluation, Evaluator, EvaluatorOptions, Subject
from ssl_bench.evaluators.finetune.halving import SHORTENED, trial_steps
from ssl_bench.evaluators.finetune.runs import LONGER, FinetuneRuns, chosen_by_loss
from ssl_bench.evaluators.scores import (
    MOST_DRAWS,
    MOST_LISTED,
    Fractions,
    Rates,
    check_fractions,
    check_labels,
    draws_of,
)
from ssl_bench.records.protocols import VERSIONS
from ssl_bench.spec.model import MOST_BATCH

EPOCHS_FEW, EPOCHS, FEW = 60, 30, 0.01  # SimCLR, B.5: 60 epochs at 1 % of the labels, 30 at 10 %
LEAST_STEPS, MOST_STEPS = 50, 20_000
LEAST_APART = 2  # a length and the next one


def _apart(lengths: tuple[int, ...]) -> tuple[int, ...]:
    for shorter, longer in pairwise(sorted(lengths)):
        if longer < LEAST_APART * shorter:
            raise ValueError(
                f"lengths must be at least {LEAST_APART} times apart (got {shorter:,} and {longer:,} steps): every "
                "length costs whole runs"
            )
    return lengths


StepCount = Annotated[int, Field(ge=1, le=10_000_000)]
Lengths = Annotated[tuple[StepCount, ...], AfterValidator(_apart), Field(min_length=2, max_length=MOST_LISTED)] | None
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

    With ``lengths``, the length is chosen too, for every row alike, because one short length does not fit all: a
    network from scratch needs more steps than a pretrained one. Pairs of a length and a rate go through successive
    halving (`halving.choose_by_halving`) on the same images and by the same score: every rate for a third of the
    shortest length; the better half of the rates, rounded up, in whole runs at the shortest length; the better half of
    these at the next length, and so on. Each trial is a whole run with its schedule ended at its own steps. Taken is
    the best whole run. With lengths 1,000 and 3,000 and three rates that is 3 x 333 + 2 x 1,000 + 3,000 steps, twice
    the longest run. With all labels that run itself is judged on test; with a share of them, the whole draw is trained
    on once more. No row gets a second run then. Where the longest length was chosen, still more steps might give more:
    the record says ``longest`` and the table marks the cell.
    """

    name: ClassVar[str] = "finetune"
    protocol: ClassVar[str] = "finetune-sgd"
    version: ClassVar[int] = VERSIONS["finetune"]
    needs_training: ClassVar[bool] = True

    class Options(EvaluatorOptions):
        """Options of fine-tuning."""

        LATER: ClassVar[frozenset[str]] = frozenset({"lengths"})

        labels: Fractions = (1.0,)  #: shares of the training labels
        draws: int = Field(default=1, ge=1, le=MOST_DRAWS)  #: draws of every share below 1
        #: for every share alike, or a list of one for each in the order of ``labels``; None: 60 epochs at 1 % of the
        #: labels or less, else 30
        steps: Steps = None
        #: steps to choose from, for every share and draw, each at least twice the one before; in place of ``steps``
        lengths: Lengths = None
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

        @model_validator(mode="after")
        def _one_way_to_say_how_long(self) -> Finetune.Options:
            if self.lengths is not None and self.steps is not None:
                raise ValueError("steps and lengths are both given; keep steps for one length, or lengths to choose")
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
            chosen_by_loss(fraction, len(labelled.train), len(labelled.validation)) for fraction in options.labels
        )
        return cls.version if small and (len(options.learning_rates) > 1 or options.lengths) else 1

    @classmethod
    def smoke(cls, options: Any) -> Any:
        return options.model_copy(
            update={
                "labels": (1.0,),
                "draws": 1,
                "steps": 2,
                "lengths": None,
                "learning_rates": options.learning_rates[:1],
            }
        )

    @classmethod
    def training_passes(cls, options: Any, train: Any, image_size: int, untrained: bool = False) -> float:
        total = 0
        for fraction, _ in draws_of(options.labels, options.draws):
            if options.lengths is not None:  # which is trained on once more is not known before: the longest
                again = max(options.lengths) if fraction < 1 else 0
                total += (trial_steps(options.lengths, len(options.learning_rates)) + again) * options.batch_size
                continue
            steps = options.steps_at(fraction, round(fraction * len(train)))
            trials = len(options.learning_rates) if len(options.learning_rates) > 1 else 0
            total += (steps * (1 + LONGER * untrained) + trials * max(1, steps // SHORTENED)) * options.batch_size
        return float(total)

    def evaluate(self, subject: Subject) -> Evaluation:
        work = FinetuneRuns(subject, self.options)
        for fraction, number in draws_of(self.options.labels, self.options.draws):
            work.share(fraction, number)
        changed = {"draw_changes_proportions": work.changed} if work.changed else {}
        return Evaluation(work.measurements, work.predictions, {"runs": work.runs, "per_class": work.recalls} | changed)


def _auto_steps(fraction: float, images: int, batch_size: int) -> int:
    epochs = EPOCHS_FEW if fraction <= FEW else EPOCHS
    return min(MOST_STEPS, max(LEAST_STEPS, math.ceil(epochs * images / batch_size)))
