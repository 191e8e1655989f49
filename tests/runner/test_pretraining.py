"""Cells on sets that are sorted by class, as folders are: whatever takes a part of the images takes it from all over
the set."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn

import ssl_bench.runner.monitoring as monitoring
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
    backbone, in_order = Backbone(TINY, 8), by_class(4 * monitoring.CHUNK)
    # as many classes as chunks: every fourth row would be one class too
    turns = brightness(np.arange(4 * monitoring.CHUNK) % CLASSES)
    orders = [in_order, in_order.take(np.random.default_rng(1).permutation(len(in_order))), turns]
    found = []
    for images in orders:
        copied = copy.deepcopy(backbone)
        reestimate_batchnorm(copied, monitoring.clean_images(images, CPU))
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
    judged = by_class(2 * monitoring.MONITOR_IMAGES)
    (monitor,) = monitoring.monitors_of(context_of(judged, judged))
    Watched.seen.clear()
    monitor.look(Watched())
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


def test_a_look_at_the_features_leaves_no_trace_and_is_the_same_twice() -> None:
    torch.manual_seed(3)
    backbone, judged = Backbone(TINY, 8).train(), by_class(80)
    before, state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    looked, probed = monitoring.monitors_of(replace(context_of(judged, judged), probes=5))
    seen = looked.look(backbone)
    assert seen == looked.look(backbone)
    assert set(seen) == {"knn"} | {
        f"features/{name}" for name in ("rankme", "alpha_req", "dead_dimensions", "alignment", "uniformity")
    }
    assert 0 < seen["features/alignment"] < 4 and seen["features/uniformity"] < 0 and seen["features/rankme"] > 1
    assert probed.times == 5 and probed.look(backbone)["probe"] > 2 / CLASSES  # brightness tells the classes apart
    assert torch.equal(torch.get_rng_state(), state) and backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_without_labels_the_features_are_looked_at_alone() -> None:
    (looked,) = monitoring.monitors_of(replace(context_of(by_class(80)), probes=5))
    seen = looked.look(Backbone(TINY, 8))
    assert "knn" not in seen and "features/rankme" in seen


def test_the_probe_along_a_run_is_scikit_learns() -> None:
    torch.manual_seed(0)
    backbone, train = Backbone(TINY, 8), by_class(120)
    rng = np.random.default_rng(5)
    validation = brightness(rng.integers(0, CLASSES, 90))
    context = context_of(train, train)
    context.data.evaluate[0].validation = validation
    _, probed = monitoring.monitors_of(replace(context, probes=1))
    value = probed.look(backbone)["probe"]
    settled = monitoring._settled(backbone, train, CPU)
    x, z = (monitoring._features(settled, part, CPU).double().numpy() for part in (train, validation))
    mean, deviation = x.mean(0), x.std(0, ddof=1)
    tried = []
    for penalty in monitoring.PENALTIES:
        oracle = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5_000).fit((x - mean) / deviation, train.labels)
        scores = (z - mean) / deviation
        loss = log_loss(validation.labels, oracle.predict_proba(scores))
        tried.append((loss, float((oracle.predict(scores) == validation.labels).mean())))
    assert value == pytest.approx(min(tried)[1], abs=1.01 / len(validation))
