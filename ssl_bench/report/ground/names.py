"""What the names in records mean: stages of the network, metrics made from others, evaluators asked twice."""

from __future__ import annotations

import re

GAIN = "_gain_over_random"  # behind a metric: its difference to the untrained network's at the same stage
BALANCED = "balanced_"  # before an accuracy: the mean of those within each class
_STAGE = re.compile(r"s\d+")


def is_stage(stage: str) -> bool:
    """Whether a representation is a stage of the network or its pooled output, rather than a task's code."""
    return stage == "pooled" or _STAGE.fullmatch(stage) is not None


def base_name(evaluator: str) -> str:
    """The evaluator behind a name that may carry a count: "linear (2)" is linear."""
    return evaluator.split(" (")[0]
