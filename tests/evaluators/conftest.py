"""Labelled sets and features made by hand, for evaluators to be asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_bench.data.images import ImageSet
from ssl_bench.evaluators.base import Subject


def labelled(labels: np.ndarray, name: str, classes: int, size: int = 8) -> ImageSet:
    """Images nobody looks at, with labels."""
    pixels = np.zeros((len(labels), size, size, 3), np.uint8)
    return ImageSet(
        pixels, np.arange(len(labels)), labels.astype(np.int64), tuple(f"class {k}" for k in range(classes)), name, name
    )


class Given:
    """Features that are there already; remembers which were asked for."""

    def __init__(self, values: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.values, self.asked = values, set[tuple[str, str]]()

    def names(self) -> list[str]:
        return list(self.values["train"])

    def get(self, split: str, name: str) -> Tensor:
        self.asked.add((split, name))
        return self.values[split][name]


def subject_of(
    signal: Mapping[str, float],
    sizes: tuple[int, int, int] = (400, 100, 200),
    classes: int = 4,
    dimensions: int = 12,
    seed: int = 0,
    final: bool = True,
    labels: Mapping[str, np.ndarray] | None = None,
    **settings: Any,
) -> Subject:
    """Gaussian clusters: ``signal[name]`` is how far apart the class means of a stage lie, in standard deviations."""
    generator = np.random.default_rng(seed)
    splits = dict(zip(("train", "validation", "test"), sizes, strict=True))
    known = labels or {split: generator.permutation(np.arange(count) % classes) for split, count in splits.items()}
    means = {name: strength * generator.standard_normal((classes, dimensions)) for name, strength in signal.items()}

    def cluster(name: str, split: str) -> Tensor:
        return torch.from_numpy(
            (means[name][known[split]] + generator.standard_normal((splits[split], dimensions))).astype(np.float32)
        )

    values = {split: {name: cluster(name, split) for name in signal} for split in splits}
    sets = {split: labelled(known[split], split, classes) for split in splits}
    return Subject(
        backbone=nn.Identity(),
        fresh_backbone=nn.Identity,
        features=Given(values),
        train=sets["train"],
        validation=sets["validation"],
        test=sets["test"] if final else None,
        seed=seed,
        device=torch.device("cpu"),
        precision="fp32",
        **settings,
    )


@pytest.fixture
def make_set() -> Callable[..., ImageSet]:
    return labelled


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    return subject_of
