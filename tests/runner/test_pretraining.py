"""Cells on sets that are sorted by class, as folders are: whatever takes a part of the images takes it from all over
the set."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_bench.runner.pretraining as module
import ssl_bench.tasks.base as base
from ssl_bench.backbones.resnet import Backbone, reestimate_batchnorm
from ssl_bench.data.images import ImageSet
from ssl_bench.plan.context import RunContext
from ssl_bench.transforms.lab import lightness
from toys import TINY

CPU = torch.device("cpu")
CLASSES = 4


def brightness(labels: np.ndarray, size: int = 8) -> ImageSet:
    """Images of noise, each class brighter than the one before."""
    noise = np.random.default_rng(0).integers(0, 64, (len(labels), size, size, 3))
    pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return ImageSet(pixels, np.arange(len(labels)), labels, tuple("abcd"), "sorted", f"sorted-{len(labels)}")


def by_class(count: int) -> ImageSet:
    return brightness(np.arange(count) * CLASSES // count)


def context_of(pretrain: ImageSet, judged: ImageSet | None = None) -> RunContext:
    """A workshop on images of noise."""
    evaluate = [] if judged is None else [SimpleNamespace(train=judged, validation=judged)]
    data: Any = SimpleNamespace(
        pretrain=pretrain, evaluate=evaluate, size=pretrain.size, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return RunContext(data=data, backbone=TINY, device=CPU, precision="fp32")


def test_statistics_do_not_depend_on_the_order_of_the_rows() -> None:
    torch.manual_seed(0)
    backbone, in_order = Backbone(TINY, 8), by_class(4 * module.CHUNK)
    # as many classes as chunks: every fourth row would be one class too
    turns = brightness(np.arange(4 * module.CHUNK) % CLASSES)
    orders = [in_order, in_order.take(np.random.default_rng(1).permutation(len(in_order))), turns]
    found = []
    for images in orders:
        copied = copy.deepcopy(backbone)
        reestimate_batchnorm(copied, module._clean_images(images, CPU))
        found.append(copied.network.bn1.running_var)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=0.1, atol=0)


class Watched(nn.Module):
    """Tells the mean brightness of every batch that its statistics are made of."""

    num_features = 3
    seen: list[float] = []

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            Watched.seen.append(float(images.mean()))
        return self.norm(images).mean((2, 3))


def test_the_monitor_mixes_classes_in_its_statistics() -> None:
    judged = by_class(2 * module.MONITOR_IMAGES)
    look = module._monitor(context_of(judged, judged))
    assert look is not None
    Watched.seen.clear()
    look(Watched())
    assert Watched.seen and max(Watched.seen) - min(Watched.seen) < 0.03


def test_a_sample_is_in_mixed_order_and_may_be_had_in_parts() -> None:
    context = context_of(by_class(400))
    images = context.sample(200)
    classes = (images.mean((1, 2, 3)) * 255 / 60 - 0.5).round().long()
    for few in classes.split(50):
        assert torch.bincount(few, minlength=CLASSES).min() > 4
    assert torch.equal(context.sample(200), images) and torch.equal(context.sample(20), images[:20])
    assert torch.equal(context.sample_part(30, 70), images[30:70])
    assert len(torch.unique(context.sample(1_000).flatten(1), dim=0)) == 400 and not len(context.sample_part(400, 500))


def test_parts_of_a_sample_are_the_sample() -> None:
    context = context_of(by_class(100))
    small: list[int] = []

    def part(start: int, stop: int) -> Tensor:
        small.append(stop - start)
        return context.sample_part(start, stop)

    for setup in (base.Setup(8, 1, 2, 100, None, context.sample), base.Setup(8, 1, 2, 100, None, context.sample, part)):
        for count in (50, 1_000):
            assert torch.equal(torch.cat(list(setup.parts(count, 30))), context.sample(count))
    assert max(small) == 30
    assert base.part_images(224) * 224 * 224 * 3 * 4 <= 64 << 20 and base.part_images(10_000) == 1


def test_lightness_of_large_images_is_summed_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    images = by_class(400)
    expected = lightness(context_of(images).sample(5_000)).double() / 100
    context, asked = context_of(images), []
    original = RunContext.sample_part
    monkeypatch.setattr(
        RunContext,
        "sample_part",
        lambda self, start, stop: (asked.append(stop - start), original(self, start, stop))[1],
    )
    monkeypatch.setattr(base, "PART_VALUES", 3 * 8 * 8 * 70)
    means, deviations = context.input_statistics("lightness")
    assert len(set(means)) == len(set(deviations)) == 1 and len(means) == len(deviations) == 3
    assert (means[0], deviations[0]) == pytest.approx((float(expected.mean()), float(expected.std())), rel=1e-9)
    assert max(asked) == 70


def test_a_task_is_diagnosed_on_images_from_all_over_the_set() -> None:
    images = module._some_images(by_class(4_000), CPU)
    classes = (images.mean((1, 2, 3)) * 255 / 60 - 0.5).round().long()
    assert len(images) == module.DIAGNOSED_IMAGES and torch.bincount(classes).tolist() == pytest.approx(
        [250] * 4, abs=1
    )
