"""Relative position: labels by brute force, standardised tiles, and no way to score on noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import ssl_bench.tasks.relative_position as module
from guessing import train_on
from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError, SpecError, SSLBenchError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.relative_position import RelativePosition

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 30, **options: object) -> RelativePosition:
    setup = Setup(size, 100, 8, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    chosen = RelativePosition.Options(**options)
    backbone = RelativePosition.build_backbone(lambda input: Backbone(TINY, size, InputSpec(kind=input)), chosen)
    return RelativePosition(backbone, chosen, setup)


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


class Where(nn.Module):
    """A trunk that reads the coordinates planted in the pixels: the middle of a tile, as a share of the image."""

    num_features = 2

    def trunk(self, tiles: Tensor) -> Tensor:
        return tiles[:, :2].mean((2, 3))


class Compass(nn.Module):
    """A head that knows the geometry: the side on which the first of two tiles lies, seen from the second."""

    def forward(self, pairs: Tensor) -> Tensor:
        direction = ((pairs[:, :2] - pairs[:, 2:]) * 3).round().long()  # [pairs, 2] in -1, 0, 1
        number = (direction[:, 0] + 1) * 3 + direction[:, 1] + 1  # in the 3 x 3 grid, row by row
        return torch.eye(9)[number][:, [0, 1, 2, 3, 5, 6, 7, 8]]


@pytest.mark.parametrize("size", [32, 48, 96])
@pytest.mark.parametrize("both_orders", [True, False])
def test_labels_agree_with_coordinates_planted_in_the_pixels(size, both_orders, monkeypatch) -> None:
    torch.manual_seed(0)
    # it would remove the coordinates, as it is meant to
    monkeypatch.setattr(module, "standardise", lambda tiles: tiles)
    task = make_task(size, gray=0, flip=False, both_orders=both_orders)
    task.backbone, task.head = Where(), Compass()
    rows, columns = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    images = torch.stack([rows, columns, torch.rand(size, size)]).expand(40, -1, -1, -1)
    assert task(task.views(batch_of(images)))["accuracy"] == 1.0
    mirrored = task(task.views(batch_of(images.flip(3))))["accuracy"]
    assert mirrored == 0.25, "only above and below are the same in a mirror"


def test_every_pair_is_asked_in_both_orders() -> None:
    task, seen = make_task(), []
    task.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task(task.views(batch_of(torch.rand(5, 3, 30, 30))))
    half = task.backbone.num_features
    first, second = seen[0].chunk(2)  # pairs as (neighbour, centre), then as (centre, neighbour)
    assert (
        len(first) == 40
        and torch.equal(first[:, :half], second[:, half:])
        and torch.equal(first[:, half:], second[:, :half])
    )


def test_tiles_of_all_images_share_one_pass_at_the_size_that_is_told() -> None:
    for size, seen in ((32, 16), (64, 16), (96, 24)):
        task, passes = make_task(size), []
        task.backbone.network.conv1.register_forward_hook(
            lambda _, inputs, __, into=passes: into.append(tuple(inputs[0].shape))
        )
        out = task(task.views(batch_of(torch.rand(4, 3, size, size))))
        assert passes == [(36, 3, seen, seen)] and task.describe()["tile_px_seen"] == seen
        out["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_tile_and_hidden_are_those_asked_for() -> None:
    task = make_task(96, tile=0.5, hidden=40)
    assert task.views(batch_of(torch.rand(2, 3, 96, 96))).shape == (2, 9, 3, 16, 16)
    assert [task.describe()[name] for name in ("cell_px", "tile_px", "jitter_px")] == [32, 16, 16]
    linear = [layer for layer in task.head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (2 * task.backbone.num_features, 40),
        (40, 8),
    ]


def test_tiles_are_standardised_one_by_one_and_flat_ones_are_harmless() -> None:
    torch.manual_seed(0)
    task = make_task(32)
    ramp = torch.linspace(0, 0.8, 32).view(1, 1, 32, 1) + 0.2 * torch.rand(6, 3, 32, 32)
    tiles = task.views(batch_of(ramp)).flatten(0, 1)
    torch.testing.assert_close(tiles.mean((1, 2, 3)), torch.zeros(54), atol=1e-5, rtol=0)
    torch.testing.assert_close(tiles.std((1, 2, 3), correction=0), torch.ones(54), atol=1e-4, rtol=0)
    flat = task(task.views(batch_of(torch.full((4, 3, 32, 32), 0.7))))
    assert flat["loss"].isfinite()


def test_colour_is_dropped_for_whole_images_as_often_as_asked() -> None:
    torch.manual_seed(0)
    views = make_task(30, gray=0.66).views(batch_of(torch.rand(600, 3, 30, 30)))
    grey = (views[:, :, 0] == views[:, :, 2]).flatten(2).all(2)
    assert (grey.all(1) == grey.any(1)).all(), "tiles of one image differ in colour"
    assert stats.binomtest(int(grey[:, 0].sum()), 600, 0.66).pvalue > 1e-3


def test_the_backbone_standardises_what_it_is_judged_on() -> None:
    backbone = make_task().backbone.eval()
    images = torch.rand(4, 3, 30, 30)
    assert backbone.input.kind == "standardised"
    torch.testing.assert_close(backbone(images), backbone(0.5 * images + 0.2), atol=1e-4, rtol=1e-4)


def test_draws_differ_between_equal_images() -> None:
    views = make_task(48).views(batch_of(torch.rand(1, 3, 48, 48).expand(40, -1, -1, -1)))
    assert len({one.numpy().tobytes() for one in views}) == 40


def test_recipe_chance_and_options() -> None:
    task = make_task()
    assert (task.chance_accuracy(), task.chance_loss()) == (0.125, math.log(8))
    recipe = RelativePosition.recipe(task.options, 32, 50_000)
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == ("sgd", 0.1, 1e-4, 256)
    with pytest.raises(SSLBenchError, match="gray"):
        parse(RelativePosition.Options, {"gray": 1.5}, "relative_position")


def test_small_images_are_refused_with_the_size_needed() -> None:
    with pytest.raises(SpecError, match="at least 30 px.*got 28 px"):
        make_task(28)
    small = ImageSet(np.zeros((2, 28, 28, 3), np.uint8), np.arange(2), None, (), "digits", "f")
    with pytest.raises(DataError, match="digits has images of 28 px.*at least 30"):
        RelativePosition.check(RelativePosition.Options(), small)
    large = ImageSet(np.zeros((2, 30, 30, 3), np.uint8), np.arange(2), None, (), "photos", "f")
    RelativePosition.check(RelativePosition.Options(), large)
    with pytest.raises(SpecError, match="tiles smaller than their cells"):
        RelativePosition.check(RelativePosition.Options(tile=0.99), large)


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, 30, 30)


def through_a_lens(count: int) -> Tensor:
    """Noise with chromatic aberration: red and blue lie one pixel further out than green, as at the edges of a
    photograph."""
    images = noise(count)
    at = torch.arange(30)
    source = (at - (at * 3 // 30 - 1)).clamp(0, 29)
    images[:, ::2] = images[:, 1:2, source][:, :, :, source]
    return images


def test_noise_scores_at_chance_and_a_planted_leak_is_found() -> None:
    torch.manual_seed(1)
    # Pairs share tiles and may be right together: two of an image's sixteen count as independent.
    guesses = train_on(make_task(30), noise, 300, 8, per_image=16, independent=2)
    assert guesses.asked >= 4_000
    low, high = guesses.interval()
    assert low < 0.125 < high, f"{guesses.accuracy:.3f} on pure noise"
    torch.manual_seed(1)
    leaking = train_on(make_task(30, gray=0), through_a_lens, 90, 8, per_image=16, independent=2)
    assert leaking.interval()[0] > 0.3, f"only {leaking.accuracy:.3f} with colour fringes in sight"
