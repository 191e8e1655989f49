"""From a recipe to an optimiser and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightly.utils.lars import LARS
from lightly.utils.scheduler import cosine_warmup_schedule
from torch import nn

from ssl_bench.errors import SpecError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.schedule import between


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of one step, from warm-up and schedule."""
    warmup = min(math.ceil(recipe.warmup * steps), steps - 1) if recipe.warmup > 0 else 0
    if recipe.schedule == "cosine":
        return cosine_warmup_schedule(step, steps + 1, recipe.learning_rate, 0.0, warmup, 0.0)
    scale = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if recipe.schedule == "steps":
        scale *= recipe.gamma ** sum(step >= share * steps for share in recipe.milestones)
    return recipe.learning_rate * scale


def weight_decay_at(recipe: Recipe, step: int, steps: int) -> float:
    """The weight decay of one step: constant, or half a cosine from ``weight_decay`` to ``weight_decay_end`` (DINO:
    Caron et al., 2021)."""
    if recipe.weight_decay_end is None:
        return recipe.weight_decay
    return between(recipe.weight_decay, recipe.weight_decay_end, step / max(1, steps - 1))


def build_optimizer(parameters: list[tuple[str, nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and norm parameters get no decay (and, with LARS, no trust ratio)."""
    if not parameters:
        raise SpecError("nothing to train: this phase has no parameters that require a gradient")
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay, "decays": True},
        {"params": [p for _, p in parameters if p.ndim <= 1], "weight_decay": 0.0, "decays": False},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    return LARS(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        trust_coefficient=recipe.trust_coefficient,
    )
