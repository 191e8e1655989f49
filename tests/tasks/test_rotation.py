"""Rotation: labels, the order of flip and turn, and no way to score on noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guessing import train_on
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SSLBenchError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.rotation import Rotation
from ssl_bench.transforms import quarter_turns, random_flip, rotate90

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 16, batch_size: int = 8, **options: object) -> Rotation:
    setup = Setup(size, 100, batch_size, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    return Rotation(Backbone(TINY, size), Rotation.Options(**options), setup)


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


def pointer(size: int = 12) -> Tensor:
    """An image unlike any of its seven turned or mirrored selves."""
    image = torch.zeros(3, size, size)
    image[0, 2:-2, 3] = 1
    image[1, 2, 3:-3] = 0.5
    return image


def oracle(views: Tensor, template: Tensor) -> Tensor:
    """The angle of every view, by comparing with all turns of the template and of its mirror image:
    a perfect solver."""
    turned = torch.stack([quarter_turns(one[None]) for one in (template, template.flip(2))])  # [2, 4, 3, S, S]
    distance = (views[:, None, None] - turned).square().sum((3, 4, 5))
    return distance.amin(1).argmin(1)


def test_a_perfect_solver_scores_one_because_the_flip_comes_first() -> None:
    torch.manual_seed(0)
    template = pointer()
    views, turns = make_task(12, pad=0).views(batch_of(template.expand(64, -1, -1, -1)))
    assert (oracle(views, template) == turns).all()
    upright = rotate90(views, -turns)
    mirrored = (upright == template.flip(2)).flatten(1).all(1)
    assert (mirrored | (upright == template).flatten(1).all(1)).all()
    assert (mirrored.view(4, 64) == mirrored[:64]).all(), "the four copies of an image share its flip"
    assert 10 < int(mirrored[:64].sum()) < 54


def test_the_oracle_finds_the_ceiling_of_a_flip_that_comes_last() -> None:
    torch.manual_seed(0)
    template = pointer()
    images = template.expand(1_000, -1, -1, -1)
    torch.testing.assert_close(
        rotate90(images[:1], torch.tensor([1])).flip(3), rotate90(images[:1].flip(3), torch.tensor([3]))
    )
    turns = torch.arange(4).repeat_interleave(1_000)
    accuracy = (oracle(random_flip(quarter_turns(images)), template) == turns).float().mean()
    assert accuracy == pytest.approx(0.75, abs=0.03)


def test_every_image_is_there_in_all_four_turns_of_one_crop() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 16, 16)
    views, turns = make_task().views(batch_of(images))
    assert views.shape == (24, 3, 16, 16) and turns.bincount().tolist() == [6] * 4
    copies = rotate90(views, -turns).view(4, 6, 3, 16, 16)
    assert (copies == copies[0]).all()
    padded = F.pad(images, (4,) * 4)
    windows = torch.stack([padded, padded.flip(3)]).unfold(3, 16, 1).unfold(4, 16, 1)  # [2, B, 3, 9, 9, 16, 16]
    hits = (windows == copies[0][None, :, :, None, None]).flatten(5).all(5).all(2)
    assert (hits.flatten(2).any(2).any(0)).all()


def test_crop_and_flip_are_drawn_per_image() -> None:
    torch.manual_seed(0)
    views, _ = make_task(32).views(batch_of(torch.rand(1, 3, 32, 32).expand(60, -1, -1, -1)))
    assert len({one.numpy().tobytes() for one in views[:60]}) > 30


def test_large_images_are_cropped_without_a_border() -> None:
    views, _ = make_task(64).views(batch_of(torch.rand(4, 3, 64, 64) + 0.1))
    assert views.shape == (16, 3, 56, 56) and (views > 0).all()
    padded, _ = make_task(64, pad=8).views(batch_of(torch.rand(4, 3, 64, 64) + 0.1))
    assert padded.shape == (16, 3, 64, 64)


def test_loss_and_accuracy_of_one_forward() -> None:
    torch.manual_seed(0)
    task = make_task()
    passes = []
    task.backbone.network.conv1.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    views, turns = task.views(batch_of(torch.rand(8, 3, 16, 16)))
    out = task((views, turns))
    assert passes == [32], "all copies go through the trunk together"
    logits = task.head(task.backbone(views))
    expected = -logits.log_softmax(1)[torch.arange(32), turns].mean()
    torch.testing.assert_close(out["loss"], expected)
    assert out["accuracy"].item() == pytest.approx((logits.argmax(1) == turns).float().mean().item())
    out["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    assert isinstance(task.head, nn.Linear)


def test_recipe_of_the_authors() -> None:
    options = Rotation.Options()
    long = Rotation.recipe(options, 32, 70_000)
    assert (long.optimizer, long.nesterov, long.learning_rate, long.weight_decay, long.batch_size) == (
        "sgd",
        True,
        0.1,
        5e-4,
        128,
    )
    assert (long.schedule, long.milestones, long.gamma, long.warmup) == ("steps", (0.3, 0.6, 0.8), 0.2, 0.0)
    assert Rotation.recipe(options, 32, 5_000).optimizer == "adamw"
    assert Rotation.recipe(options, 224, 70_000).weight_decay == 1e-4


def test_options_are_checked_by_name() -> None:
    with pytest.raises(SSLBenchError, match="pad"):
        parse(Rotation.Options, {"pad": -1}, "rotation")


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16)


def lit_from_above(count: int) -> Tensor:
    images = noise(count)
    images[:, :, :8] += 0.1
    return images.clamp(0, 1)


def test_noise_scores_at_chance_and_a_planted_leak_is_found() -> None:
    torch.manual_seed(1)
    task = make_task(16, 16)
    assert (task.chance_accuracy(), task.chance_loss()) == (0.25, math.log(4))
    # the four copies of an image may be right together
    guesses = train_on(task, noise, 300, 16, per_image=4, independent=1)
    assert guesses.asked >= 4_000
    low, high = guesses.interval()
    assert low < 0.25 < high, f"{guesses.accuracy:.3f} on pure noise"
    torch.manual_seed(1)
    leaking = train_on(make_task(16, 32), lit_from_above, 90, 32, per_image=4, independent=1)
    assert leaking.interval()[0] > 0.3, f"only {leaking.accuracy:.3f} with a leak"
