"""Looks at the network while it is trained: recorded along the run, they decide nothing and change no number."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench.backbones.resnet import reestimate_batchnorm
from ssl_bench.data.batches import ImageStore
from ssl_bench.data.images import ImageSet, evenly_spaced
from ssl_bench.evaluators.features import frozen
from ssl_bench.evaluators.knn import knn_accuracy
from ssl_bench.evaluators.linear.logistic import SoftmaxRegression
from ssl_bench.evaluators.linear.strengths import SEARCH_TOLERANCE
from ssl_bench.evaluators.representation import alignment, alpha_req, dead_dimensions, rankme, uniformity
from ssl_bench.evaluators.scores import label_tensor, log_loss
from ssl_bench.plan.context import RunContext
from ssl_bench.records.schema import Curve
from ssl_bench.training.monitor import Monitor
from ssl_bench.transforms.geometry import random_crop, random_flip

STATISTICS_IMAGES = 10_000  # BatchNorm statistics are averaged over at most this many clean training images
CHUNK = 512
MONITOR_IMAGES = 512
PROBED_IMAGES = 5_000  # labelled training images that a probe along the run is fitted to
PENALTIES = (1_000.0, 100.0, 10.0)  # total, strongest first, of which validation picks one at every look
FEATURES = "features/"  # before the names of curves that say something of the features


def clean_images(images: ImageSet, device: torch.device) -> Iterator[Tensor]:
    """Images for BatchNorm statistics, in chunks of equal size, so of equal weight.

    Every chunk is drawn from all of them: many sets are sorted by class, and the variance within one class is not that
    of the set.
    """
    draw = np.random.Generator(np.random.PCG64(1))
    count = min(len(images), STATISTICS_IMAGES)
    store = ImageStore(images.without_labels().take(np.sort(draw.permutation(len(images))[:count])), device)
    return (
        store.gather(torch.from_numpy(np.sort(part)))
        for part in np.array_split(draw.permutation(count), -(-count // CHUNK))
    )


def monitors_of(context: RunContext) -> list[Monitor]:
    """Those that a matrix asks for: looks at the features, and probes where there are labels."""
    monitors = []
    if context.looks:
        monitors.append(Monitor(_FeatureLook(context), context.looks))
    if context.probes and context.data.evaluate:
        monitors.append(Monitor(_Probe(context), context.probes))
    return monitors


def knn_trend(curves: Mapping[str, Curve]) -> str:
    """Whether the validation monitor was still rising in its last third, beyond the noise of its few images."""
    curve = curves.get("knn")
    if curve is None or len(curve.value) < 6:
        return ""
    third = len(curve.value) // 3
    before, after = np.mean(curve.value[-2 * third : -third]), np.mean(curve.value[-third:])
    noise = np.sqrt(max(after * (1 - after), 1e-4) / MONITOR_IMAGES)
    return "still rising" if after - before > noise else "flat"


@dataclass
class _FeatureLook:
    """kNN on validation where there are labels, and what can be said of the pooled features without: RankMe, the
    exponent of their spectrum, dead dimensions, alignment of two crops, uniformity."""

    context: RunContext

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        device, queries = self.context.device, self.queries
        copied = _settled(backbone, self.bank, device)
        z = _features(copied, queries, device)
        seen: dict[str, float] = {}
        if self.context.data.evaluate:
            labels, answers = label_tensor(self.bank, device), label_tensor(queries, device)
            known = _features(copied, self.bank, device)
            seen["knn"] = knn_accuracy(known, labels, z, answers, len(self.bank.classes))
        values = {"rankme": rankme(z), "alpha_req": alpha_req(z), "dead_dimensions": dead_dimensions(z)}
        if len(z) > 1:
            first, second = (_features(copied, queries, device, _weakly_augmented(number)) for number in (0, 1))
            values |= {"alignment": alignment(first, second), "uniformity": uniformity(z)}
        return seen | {FEATURES + name: value for name, value in values.items() if np.isfinite(value)}

    @cached_property
    def bank(self) -> ImageSet:
        data = self.context.data
        return _some(data.evaluate[0].train if data.evaluate else data.pretrain.without_labels(), MONITOR_IMAGES)

    @cached_property
    def queries(self) -> ImageSet:
        data = self.context.data
        return _some(data.evaluate[0].validation if data.evaluate else data.pretrain.without_labels(), MONITOR_IMAGES)


@dataclass
class _Probe:
    """Validation accuracy of a small linear probe on the pooled features."""

    context: RunContext

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        device, labelled = self.context.device, self.context.data.evaluate[0]
        train, validation = (_some(part, PROBED_IMAGES) for part in (labelled.train, labelled.validation))
        copied = _settled(backbone, train, device)
        x, z = (_features(copied, part, device) for part in (train, validation))
        mean, scale = x.mean(0), 1 / x.std(0).clamp_min(1e-6 * x.abs().amax().clamp_min(1e-30))
        x, z = (x - mean) * scale, (z - mean) * scale
        answers = label_tensor(validation, device)
        problem = SoftmaxRegression(x, label_tensor(train, device), len(train.classes))
        tried, start = [], None
        for penalty in PENALTIES:
            start = problem.fit(penalty / len(x), start, SEARCH_TOLERANCE)
            scores = start.logits(z)
            right = float((scores.argmax(1) == answers).double().mean())
            tried.append((float(log_loss(scores, answers).mean()), right))
        return {"probe": min(tried)[1]}


def _some(images: ImageSet, count: int) -> ImageSet:
    """From all over a set, which may be sorted by class."""
    return images.take(evenly_spaced(len(images), count))


def _settled(backbone: nn.Module, images: ImageSet, device: torch.device) -> nn.Module:
    """A copy whose BatchNorm statistics are re-estimated, as they will be in the end."""
    copied = copy.deepcopy(backbone)
    reestimate_batchnorm(copied, clean_images(images, device))
    return copied.eval()


def _features(
    backbone: nn.Module, images: ImageSet, device: torch.device, change: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Pooled features float32 [N, D] of all images, changed before."""
    store = ImageStore(images.without_labels(), device)
    with frozen(backbone, device):
        return torch.cat([backbone(change(part)).float() for part in store.in_order(512)])


def _weakly_augmented(seed: int) -> Callable[[Tensor], Tensor]:
    """Crop and flip, drawn from random states of their own."""

    def change(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(seed)
            return random_flip(random_crop(images, images.shape[-1] // 8, mode="reflect"))

    return change
