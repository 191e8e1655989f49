"""Checks that train, or take the time of training."""

from __future__ import annotations

import copy
import math
import time

import torch
from scipy import stats

from ssl_bench.tasks.base import PretextTask
from ssl_bench.testing.battery.bench import BATCH, STEPS, Bench, CheckFailed, CheckWarning, NoiseBatches, NotApplicable
from ssl_bench.training.loop import fit

NOISE_STEPS = 300
NOISE_PREDICTIONS = 4_096
NOISE_BATCH = 16
NOISE_CONFIDENCE = 0.999
VIEWS_SHARE = 0.15  #: of a step at width 0.25; more is worth a look


def loss_falls(bench: Bench) -> str:
    """A short run on the embedded shapes lowers the loss, measured before and after on the same images and draws."""
    if len(bench.task.phases) > 1:
        raise NotApplicable("phases that work against each other need not lower a loss")
    task = bench.build()
    before = _mean_loss(bench, task)
    result = fit(task, bench.batches(), bench.recipes(), STEPS, seed=0, precision="fp32", cost=False)
    after = _mean_loss(bench, task.train())
    if not after < before:
        raise CheckFailed(
            f"after {result.steps} steps the loss is {after:.4g}, and it was {before:.4g}; try another learning rate "
            "in `recipe` "
            "(short_learning_rate), and see that the views hold what the loss asks for"
        )
    return f"{before:.4g} to {after:.4g} in {result.steps} steps"


def _mean_loss(bench: Bench, task: PretextTask) -> float:
    probe, batches = copy.deepcopy(task), bench.batches()
    with torch.no_grad():
        return math.fsum(float(bench.total(probe, batches.batch(step), 10 + step)) for step in range(8)) / 8


def views_cost(bench: Bench) -> str:
    """Making views takes a small part of a step."""
    task, batch = bench.build(0, "resnet18", 0.25, 64), bench.batch(64)
    making, learning = [], []
    for seed in range(3):
        started = time.perf_counter()
        for number in range(len(task.phases)):
            bench.views(task, batch, seed, number)
        made = time.perf_counter()
        bench.total(task, batch, seed).backward()
        making.append(made - started)
        learning.append(time.perf_counter() - made)  # makes the views once more
    share = min(making) / max(min(learning), 1e-9)
    said = f"views take {share:.0%} of a step (ResNet-18 at width 0.25, {bench.size} px)"
    if share > VIEWS_SHARE:
        raise CheckWarning(f"{said}; work on the whole batch at once, without a loop over images")
    return said


def noise_at_chance(bench: Bench) -> str:
    """Trained and asked on pure noise, the task is as good as a guess: what scores more is not about the image."""
    task = bench.build(batch_size=NOISE_BATCH)
    reported = any("accuracy" in losses for losses in bench.losses(task, bench.batch(), 1))
    chance = task.chance_accuracy()
    if not reported:
        raise NotApplicable("no accuracy is reported")
    if chance is None:
        raise CheckWarning(
            "an accuracy is reported, and chance_accuracy() is not given; define it where noise cannot raise the "
            "accuracy"
        )
    fit(
        task,
        NoiseBatches(bench, NOISE_BATCH, 1),  # type: ignore[arg-type]
        bench.recipes(NOISE_BATCH),
        NOISE_STEPS,
        seed=0,
        precision="fp32",
        cost=False,
    )  # type: ignore[arg-type]
    fresh = NoiseBatches(bench, 2 * BATCH, 2)
    rounds = math.ceil(NOISE_PREDICTIONS / fresh.batch_size)
    with torch.no_grad():
        right = (
            math.fsum(float(bench.losses(task, fresh.batch(step), 100 + step)[0]["accuracy"]) for step in range(rounds))
            / rounds
        )
    count = rounds * fresh.batch_size  # at least one prediction an image; more of them only narrow what is seen
    low, high = (float(edge) / count for edge in stats.binom.interval(NOISE_CONFIDENCE, count, chance))
    said = f"accuracy {right:.2%} on noise after {NOISE_STEPS} steps; a guess gives {low:.2%} to {high:.2%}"
    said += f" ({NOISE_CONFIDENCE:.1%} of the time, {count:,} images)"
    if not low <= right <= high:
        raise CheckFailed(
            f"{said}. Something other than the image gives the answer away (borders left by padding or rotation, the "
            "order of a batch, "
            "values that only one class of views can have), or chance_accuracy() is wrong"
        )
    return said
