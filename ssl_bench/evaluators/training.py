"""Training inside an evaluator: on the same loop as pretraining, with its checkpoints,
its progress and its failures."""

from __future__ import annotations

import math
from typing import Any

from ssl_bench.evaluators.base import Subject
from ssl_bench.evaluators.scores import go_on
from ssl_bench.spec.recipe import Recipe
from ssl_bench.training.loop import TrainingProgress, fit
from ssl_bench.training.trainable import Trainable

NOTES = 50  # progress notes a run, at most


def train_on(
    subject: Subject, task: Trainable, batches: Any, recipe: Recipe, steps: int, *, seed: int, part: str, what: str
) -> None:
    """Train a task in place; what an interrupted attempt of the same ``part`` reached is gone on from, to the same
    bits.

    Parameters
    ----------
    part : names this training among all that the evaluator does for one subject; a file name.
    what : the same for people, in progress notes.

    Raises
    ------
    TrainingError : a loss that is not finite.
    Interrupted : the run was asked to stop.
    """
    go_on(subject, what)
    every = max(1, steps // NOTES)

    def on_progress(now: TrainingProgress) -> None:
        if now.step % every == 0 or now.step == now.steps:
            subject.progress(
                f"{what}: step {now.step:,} of {now.steps:,}, loss {now.metrics.get('loss', math.nan):.3f}"
            )

    checkpoint = None
    if subject.parts is not None:
        subject.parts.mkdir(parents=True, exist_ok=True)
        checkpoint = subject.parts / f"{part}.safetensors"
    fit(
        task,
        batches,
        recipe,
        steps,
        seed=seed,
        device=subject.device,
        precision=subject.precision,
        checkpoint=checkpoint,
        checkpoint_seconds=subject.checkpoint_seconds,
        on_progress=on_progress,
        stop=subject.stop,
        cost=False,
    )
