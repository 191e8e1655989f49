"""From a recipe to an optimiser and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightly.utils.lars import LARS
from lightly.utils.scheduler import cosine_warmup_schedule
from torch import nn

from ssl_bench.errors import SpecError
from ssl_bench.spec.matrix import Recipe


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of one step, from warm-up and schedule."""
    warmup = min(math.ceil(recipe.warmup * steps), steps - 1) if recipe.warmup > 0 else 0
    if recipe.schedule == "cosine":
        return cosine_warmup_schedule(step, steps + 1, recipe.learning_rate, 0.0, warmup, 0.0)
    scale = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if recipe.schedule == "steps":
        scale *= recipe.gamma ** sum(step >= share * steps for share in recipe.milestones)
    return recipe.learning_rate * scale


def build_optimizer(parameters: list[tuple[str, nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and norm parameters get no decay (and, with LARS, no trust ratio)."""
    if not parameters:
        raise SpecError("nothing to train: this phase has no parameters that require a gradient")
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for _, p in parameters if p.ndim <= 1], "weight_decay": 0.0},
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
