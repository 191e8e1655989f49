"""What evaluators share: label fractions, checks on labels, accuracies."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw
from ssl_bench.errors import DataError, Interrupted
from ssl_bench.evaluators.base import Measurement, Subject
from ssl_bench.records.protocols import unequal
from ssl_bench.spec.model import Rate

MOST_LISTED = 100  # shares, rates or counts of one evaluator
MOST_DRAWS = 1_000
TOP5_ABOVE = 20  # classes
NOTICED = 0.05  # by which a draw may change the share of the largest class before it is told
MOST_NATS = 20.0  # that one image counts in a log loss: a single odd one must not decide


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _different(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(value)) != len(value):
        raise ValueError("the same value is listed twice")
    return value


Fractions = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_as_tuple), AfterValidator(_different),
    Field(min_length=1, max_length=MOST_LISTED),
]  # fmt: skip
Rates = Annotated[
    tuple[Rate, ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_different),
    Field(min_length=1, max_length=MOST_LISTED),
]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_different),
    Field(min_length=1, max_length=MOST_LISTED),
]


def check_labels(train: ImageSet, validation: ImageSet) -> None:
    """Refuse sets that no classifier can be judged on: no labels, one class, a class without training images, nothing
    to validate on.

    Whoever asks says which evaluator and which set it is about.
    """
    for images in (train, validation):
        if images.labels is None:
            raise DataError("it has no labels; give `labels:` or leave this evaluator out")
    if len(train.classes) < 2:
        raise DataError(f"it has {len(train.classes)} class; at least 2 are needed to tell apart")
    if len(validation) == 0:
        raise DataError("it has no validation images to choose on")
    assert train.labels is not None
    empty = np.flatnonzero(np.bincount(train.labels, minlength=len(train.classes)) == 0)
    if len(empty):
        raise DataError(f"class {train.classes[empty[0]]!r} has no training image")


def groups_of(images: ImageSet, rows: np.ndarray | None = None) -> np.ndarray | None:
    """int64 [N] group of each image, or of those at ``rows``; None where the set knows none."""
    groups = images.columns.get("group")
    return None if groups is None else np.asarray(groups if rows is None else groups[rows])


def check_fractions(fractions: tuple[float, ...], train: ImageSet) -> None:
    """Refuse a share of labels that would leave a class empty."""
    assert train.labels is not None
    for fraction in fractions:
        draw(train.labels, fraction, 0, classes=train.classes)


def draws_of(fractions: tuple[float, ...], draws: int) -> list[tuple[float, int]]:
    """(fraction, draw) pairs; all labels are drawn once."""
    return [(fraction, number) for fraction in fractions for number in range(draws if fraction < 1 else 1)]


def label_tensor(images: ImageSet, device: torch.device) -> Tensor:
    """int64 [N] on the device."""
    assert images.labels is not None
    return torch.from_numpy(np.asarray(images.labels, dtype=np.int64)).to(device)


def accuracies(scores: Tensor, labels: Tensor, num_classes: int, suffix: str = "") -> dict[str, float]:
    """top1, above 20 classes top5, and where classes are unequal balanced_top1 of scores [N, K].

    Equal scores count for the lower class id; a score of minus infinity is no answer. Classes are unequal where the
    largest one has more than 2 / K of the images, of two classes more than 2 / 3: always answering it would then look
    like skill. Balanced is the mean of the recalls of the classes present.
    """
    predicted = scores.argmax(1)
    shares = {f"top1{suffix}": float((predicted == labels).double().mean())}
    if num_classes > TOP5_ABOVE:
        # A stable sort keeps the lower class id first among equals; topk promises no order.
        values, classes = scores.sort(dim=1, descending=True, stable=True)
        answered = (classes == labels[:, None]) & (values > -torch.inf)
        shares[f"top5{suffix}"] = float(answered[:, :5].any(1).double().mean())
    if len(labels) and unequal(int(torch.bincount(labels).max()), len(labels), num_classes):
        recalls = [recall for recall in per_class(predicted, labels, num_classes) if recall is not None]
        shares[f"balanced_top1{suffix}"] = sum(recalls) / len(recalls)
    return shares


def log_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, float64 [N], of logits [N, K]; at most 20 an image, so that it is finite whatever the
    logits are."""
    losses = F.cross_entropy(scores.double(), labels, reduction="none")
    return losses.nan_to_num(nan=MOST_NATS, posinf=MOST_NATS).clamp_max(MOST_NATS)


def changed_proportions(train: ImageSet, drawn: np.ndarray) -> dict[str, Any] | None:
    """The largest class of train with its share there and among the images ``drawn``; None where a draw keeps it within
    five points."""
    assert train.labels is not None
    whole, part = (
        np.bincount(labels, minlength=len(train.classes)) / len(labels)
        for labels in (train.labels, train.labels[drawn])
    )
    largest = int(whole.argmax())
    if abs(whole[largest] - part[largest]) <= NOTICED:
        return None
    return {"class": train.classes[largest], "train": float(whole[largest]), "draw": float(part[largest])}


def per_class(predicted: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy within each class; None for a class that the split lacks."""
    total = torch.bincount(labels, minlength=num_classes)
    right = torch.bincount(labels[predicted == labels], minlength=num_classes)
    return [int(r) / int(t) if t else None for r, t in zip(right, total, strict=True)]


def compact(predicted: Tensor | np.ndarray, num_classes: int) -> np.ndarray:
    """Class ids as the smallest sensible integers, for storing."""
    array = predicted.cpu().numpy() if isinstance(predicted, Tensor) else predicted
    return array.astype(np.int16 if num_classes <= 2**15 else np.int32)


def go_on(subject: Subject, what: str) -> None:
    """Raise Interrupted when the run was asked to stop."""
    if subject.stop():
        raise Interrupted(f"{what}: stopped before it was done")


def measured(values: dict[str, float], split: str, n: int, **place: Any) -> list[Measurement]:
    """Measurements of several metrics at one place."""
    return [Measurement(metric, split, value, n, **place) for metric, value in values.items()]
