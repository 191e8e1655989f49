"""Versions of the evaluators' protocols, known without importing an evaluator: a report says which of its numbers are
of an older one."""

from __future__ import annotations

import re
from typing import Any

# on fewer, accuracy is too coarse to choose by: its noise is larger than what there is to choose between
FEW_IMAGES = 5_000
#: evaluator to the version of its protocol; raised when a change can move a number, which makes a re-measurement of
#: every cell
VERSIONS = {"linear": 2, "knn": 2, "finetune": 2, "detection": 2, "diagnostics": 1}


def unequal(largest: int, images: int, classes: int) -> bool:
    """Whether so large a class makes always answering it look like skill: with more than 2 / K of the images; of two
    classes, more than 2 / 3."""
    return largest * max(classes, 3) > 2 * images


def split_protocol(protocol: str) -> tuple[str, int]:
    """A record's protocol as name and version; version 1 where none is written.

    >>> split_protocol("linear-lbfgs v2")
    ('linear-lbfgs', 2)
    """
    match = re.fullmatch(r"(.*) v(\d{1,9})", protocol)
    return (match[1], int(match[2])) if match else (protocol, 1)


def is_older(record: Any) -> bool:
    """Whether an EvaluationRecord is of an older version than the one that this installation would measure it with;
    False of evaluators not built in."""
    version = split_protocol(record.protocol)[1]
    return version < VERSIONS.get(record.evaluator, 0) and not (version == 1 and _as_in_version_1(record))


def _as_in_version_1(record: Any) -> bool:
    """Whether the second version of a protocol gives the numbers of the first, as ``version_on`` of the evaluators says
    before they are measured."""
    if record.evaluator == "knn":  # 2: of the first five answers only those count that got a vote
        return not any(m.metric.startswith("top5") for m in record.measurements)
    if record.evaluator == "finetune":  # 2: on few images a learning rate is chosen by log loss
        rates = record.spec.get("options", {}).get("learning_rates", ())
        validation = max((m.n for m in record.measurements if m.split == "validation"), default=0)
        held = [
            run.get("images", 0) / 5 if run.get("labels", 1) < 1 else validation
            for run in record.details.get("runs", [])
        ]
        nothing_chosen = (
            isinstance(rates, (list, tuple)) and len(rates) == 1 and not record.spec["options"].get("lengths")
        )
        return nothing_chosen or min(held, default=0) >= FEW_IMAGES
    return False
