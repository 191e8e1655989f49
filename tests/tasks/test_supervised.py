"""The supervised row: labels come from the batch, augmentation is crop and flip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batch, Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.supervised import Supervised
from ssl_bench.training.loop import fit

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 16, classes: int | None = 3, **options: object) -> Supervised:
    setup = Setup(size, 100, 8, 100, classes, lambda n: torch.rand(n, 3, size, size))
    return Supervised(Backbone(TINY, size), Supervised.Options(**options), setup)


def stripes(count: int, size: int = 16) -> ImageSet:
    """Three classes: horizontal stripes, vertical ones, and none."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = generator.integers(80, 120, (count, size, size, 3), dtype=np.uint8)
    pixels[labels == 0, ::4] += 100
    pixels[labels == 1, :, ::4] += 100
    return ImageSet(pixels, np.arange(count), labels, ("horizontal", "vertical", "none"), "stripes", "stripes")


def test_it_declares_its_labels() -> None:
    assert Supervised.uses_labels and Supervised.role.trains


def test_loss_and_accuracy_are_those_of_the_labels() -> None:
    task, images, labels = make_task().eval(), torch.rand(12, 3, 16, 16), torch.arange(12) % 3
    logits = task.head(task.backbone(images)).detach().double()
    by_hand = np.mean(
        [np.log(np.exp(row.numpy()).sum()) - float(row[label]) for row, label in zip(logits, labels, strict=True)]
    )
    found = task((images, labels))
    assert float(found["loss"]) == pytest.approx(by_hand, rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(np.mean(logits.argmax(1).numpy() == labels.numpy()))


def test_labels_stay_with_their_images() -> None:
    labels = torch.arange(10)
    images = (labels.view(-1, 1, 1, 1) / 10).expand(-1, 3, 16, 16).contiguous()
    seen, given = make_task(classes=10, pad=0).views(Batch(images, torch.arange(10), labels))
    assert torch.equal(given, labels) and torch.allclose(seen.mean((1, 2, 3)), labels / 10)


def test_colours_are_left_alone() -> None:
    images = torch.rand(64, 3, 1, 1).expand(-1, -1, 16, 16).contiguous()
    seen, _ = make_task().views(Batch(images, torch.arange(64), torch.zeros(64, dtype=torch.int64)))
    same = (seen == images).all(1)
    black = (seen == 0).all(1)  # the padding of a crop, at most 2 pixels wide here
    assert (same | black).all() and same[:, 2:-2, 2:-2].all() and black.any()


def test_it_learns_and_reports_it() -> None:
    torch.manual_seed(0)
    task = make_task(pad=2)
    result = fit(
        task,
        Batches(stripes(96), 32, 0, labels=True),
        Recipe(learning_rate=3e-3),
        60,
        seed=0,
        precision="fp32",
        cost=False,
    )
    assert result.metrics["accuracy"] > 0.8


@pytest.mark.parametrize("classes", [None, 0, 1])
def test_fewer_than_two_classes_are_refused(classes: int | None) -> None:
    with pytest.raises(DataError, match="at least 2 classes"):
        make_task(classes=classes)


def test_one_class_is_refused_before_training() -> None:
    one = ImageSet(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), np.zeros(4, np.int64), ("only",), "one class", "x")
    with pytest.raises(DataError, match="one class has 1"):
        Supervised.check(Supervised.Options(), one)
    Supervised.check(Supervised.Options(), stripes(6))


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        make_task().views(Batch(torch.rand(2, 3, 16, 16), torch.arange(2)))


def test_recipes() -> None:
    small, large = (Supervised.paper_recipe(Supervised.Options(), size) for size in (32, 224))
    assert (small.optimizer, small.learning_rate, small.nesterov, small.weight_decay) == ("sgd", 0.1, True, 5e-4)
    assert large.weight_decay == 1e-4
    assert Supervised.recipe(Supervised.Options(), 32, 1_000).optimizer == "adamw"
