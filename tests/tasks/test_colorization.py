"""Colorization: targets, where the colour prior comes from, grey images, and the input that is lightness alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.colorization import Colorization
from ssl_bench.transforms.ab import BINS, is_coloured, rebalancing_weights, smoothed_prior
from ssl_bench.transforms.lab import lab_to_rgb, lightness, rgb_to_lab

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def colourful(count: int, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def flat(lab: tuple[float, float, float], count: int = 1, size: int = 16) -> Tensor:
    """Images of one colour."""
    return lab_to_rgb(torch.tensor(lab).view(1, 3, 1, 1)).expand(count, -1, size, size).contiguous()


def make_task(size: int = 16, sample: Callable[[int], Tensor] | None = None, **options: object) -> Colorization:
    chosen = Colorization.Options(**options)
    backbone = Colorization.build_backbone(lambda input="rgb": Backbone(TINY, size, InputSpec(kind=input)), chosen)
    return Colorization(
        backbone, chosen, Setup(size, 100, 8, 1_000, None, sample or (lambda n: colourful(min(n, 64), size)))
    )


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


def test_the_prior_comes_from_the_pretraining_sample_alone() -> None:
    reddish = flat((50, 40, 20), 4)
    asked: list[int] = []

    def sample(count: int) -> Tensor:
        asked.append(count)
        return reddish

    task = make_task(sample=sample)
    before = task.weights.clone()
    red, blue = (_bin_of(task, colour) for colour in ((40.0, 20.0), (20.0, -60.0)))
    assert task.weights[blue] > 3 * task.weights[red]
    assert torch.allclose(
        before, rebalancing_weights(smoothed_prior(torch.tensor([[40.0, 20.0]]), 5.0), 0.5), rtol=0.05
    )
    count = len(asked)
    task.forward(task.views(batch_of(flat((40, 20, -60), 4))))
    task.eval().diagnose(flat((40, 20, -60), 4))
    assert torch.equal(task.weights, before) and len(asked) == count


def test_sigma_and_the_uniform_part_are_those_asked_for() -> None:
    task = make_task(sample=lambda n: flat((50, 40, 20), 4), sigma=12.0, uniform_part=0.2)
    colour = torch.tensor([[40.0, 20.0]])
    assert torch.allclose(task.weights, rebalancing_weights(smoothed_prior(colour, 12.0), 0.2), rtol=0.05)
    index, soft = task.soft_encode(torch.tensor([[42.0, 21.0]]))
    shares = torch.exp(-(BINS[index[0]] - torch.tensor([42.0, 21.0])).square().sum(1) / (2 * 12.0**2))
    torch.testing.assert_close(soft[0], shares / shares.sum())
    torch.testing.assert_close(task.targets(flat((50, 42, 21)))["soft"][0, 0, 0], soft[0], atol=1e-2, rtol=0)


def _bin_of(task: Colorization, ab: tuple[float, float]) -> int:
    index, soft = task.soft_encode(torch.tensor([ab]))
    return int(index[0, soft[0].argmax()])


def test_targets_are_area_averages_of_ab() -> None:
    """Stripes finer than the grid: every fourth pixel would be one of two colours, the mean is neither."""
    images = flat((60, 40, 0))
    images[..., ::2] = flat((60, -40, 0))[..., ::2]
    task = make_task()
    assert task.grid == 4
    found = task.targets(images)
    ab = torch.from_numpy(rgb2lab(images[0].permute(1, 2, 0).double().numpy())[..., 1:])
    mean = ab.view(4, 4, 4, 4, 2).mean((1, 3)).float()
    index, soft = task.soft_encode(mean)
    assert torch.equal(found["index"][0], index) and torch.allclose(found["soft"][0], soft, atol=1e-3)
    assert (mean[..., 0].abs() < 3).all()


def test_targets_belong_to_the_images_as_cropped_and_mirrored_and_colours_are_not_changed() -> None:
    torch.manual_seed(0)
    task, images = make_task(), colourful(8)
    views = task.views(batch_of(images))
    for name, value in task.targets(views["images"]).items():
        assert torch.equal(views[name], value)
    assert not torch.equal(views["images"], images)
    for before, after in zip(images, views["images"], strict=True):
        known = {tuple(pixel) for pixel in before.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in after.flatten(1).T.tolist()} <= known


def test_the_loss_against_a_loop() -> None:
    task = make_task().eval()
    views = task.views(batch_of(torch.cat([colourful(3), flat((50, 0, 0))])))
    logits = task.logits(views["images"]).detach().double().numpy()
    total, count = 0.0, 0
    for image in range(3):  # the fourth is grey
        for row in range(task.grid):
            for column in range(task.grid):
                scores = logits[image, :, row, column]
                log_likely = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
                target = np.zeros(len(BINS))
                target[views["index"][image, row, column].numpy()] = views["soft"][image, row, column].numpy()
                total -= float(task.weights[target.argmax()]) * float((target * log_likely).sum())
                count += 1
    assert float(task(views)["loss"].detach()) == pytest.approx(total / count, rel=1e-4)


def test_grey_images_weigh_nothing() -> None:
    task = make_task()
    found = task.targets(torch.cat([flat((50, 0, 0)), flat((50, 3, -4)), flat((50, 6, 0))]))
    assert [bool(weight.any()) for weight in found["weight"]] == [False, False, True]
    spotted = flat((50, 0, 0))
    spotted[..., 0, 0] = flat((50, 40, 40))[..., 0, 0]
    assert task.targets(spotted)["weight"].all(), "a grey place in an image with colour is an answer like any other"


def test_a_batch_of_grey_images_gives_zero_and_not_nan() -> None:
    task = make_task()
    loss = task(task.views(batch_of(flat((50, 0, 0), 4))))["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in task.parameters())


def _set_of(images: Tensor) -> ImageSet:
    pixels = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return ImageSet(pixels, np.arange(len(images)), None, (), "scans", "scans")


def test_grey_only_data_is_refused_before_training() -> None:
    grey = torch.rand(200, 1, 16, 16).expand(-1, 3, -1, -1)
    with pytest.raises(DataError, match="colorization needs colour, and the 200 images looked at in scans are grey"):
        Colorization.check(Colorization.Options(), _set_of(grey))
    tinted = (grey + (torch.randint(-4, 5, (200, 3, 16, 16)) / 255)).clamp(0, 1)  # as JPEG leaves it
    assert is_coloured(rgb_to_lab(tinted)[:, 1:]).any(), "a single pixel would tell colour here"
    with pytest.raises(DataError, match="grey"):
        Colorization.check(Colorization.Options(), _set_of(tinted))
    with pytest.raises(DataError, match="grey"):
        make_task(sample=lambda n: grey)
    few_coloured = grey.clone()
    few_coloured[150:153] = colourful(3)
    Colorization.check(Colorization.Options(), _set_of(few_coloured))


def test_the_backbone_sees_lightness_and_no_colour() -> None:
    task = make_task().eval()
    assert task.backbone.input.kind == "lightness"
    red = flat((50, 30, 20))
    blue = flat((50, 0, -30))
    assert torch.allclose(lightness(red), lightness(blue), atol=1e-3)
    features = task.backbone(red)
    assert torch.allclose(features, task.backbone(blue), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(features, task.backbone(flat((70, 30, 20))), rtol=0.05)


def test_chance_is_what_the_best_constant_answer_gets_and_where_training_starts() -> None:
    task = make_task().eval()
    views = task.targets(colourful(64))
    mass = torch.zeros(len(BINS), dtype=torch.float64)
    mass.index_add_(0, views["index"].flatten(), (views["soft"] * views["weight"][..., None]).double().flatten())
    best = mass / mass.sum()
    constant = float(-(mass * best.clamp_min(1e-6).log()).sum()) / views["weight"].numel()
    assert task.chance_loss() == pytest.approx(constant, rel=1e-3)
    assert task.chance_loss() < math.log(len(BINS))
    start = float(task({"images": colourful(64), **views})["loss"].detach())
    assert start == pytest.approx(constant, rel=0.05)


@pytest.mark.parametrize(("size", "grid"), [(16, 4), (32, 8), (48, 12), (28, 8)])
def test_the_output_grid_is_about_a_quarter_of_the_side(size: int, grid: int) -> None:
    task = make_task(size, lambda n: colourful(4, size))
    assert task.grid == grid
    assert task.logits(colourful(2, size)).shape == (2, len(BINS), grid, grid)
    assert task.describe()["bins"] == len(BINS)


def test_the_annealed_mean_keeps_lightness() -> None:
    task = make_task().eval()
    certain = _bin_of(task, (20.0, 30.0))
    with torch.no_grad():
        task.head[-1].weight.zero_()
        task.head[-1].bias.fill_(-50)
        task.head[-1].bias[certain] = 50
    images = flat((60, 0, 0), 2)
    lab = rgb_to_lab(task.colorize(images))
    assert torch.allclose(lab, torch.tensor([60.0, 20, 30]).view(1, 3, 1, 1).expand_as(lab), atol=0.1)
    with torch.no_grad():  # two answers, one twice as likely: sharpened to 2^(1/.38)
        task.head[-1].bias[_bin_of(task, (-20.0, 30.0))] = 50 - math.log(2)
    share = 1 / (1 + 2 ** (1 / 0.38))
    a = rgb_to_lab(task.colorize(images))[:, 1]
    assert torch.allclose(a, torch.full_like(a, 20 - 40 * share), atol=0.1)


def test_mixed_precision_keeps_targets_and_loss_exact() -> None:
    task = make_task().eval()
    views = task.targets(colourful(4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = task.targets(colourful(4))
        loss = task({"images": colourful(4), **mixed})["loss"]
    assert all(torch.equal(views[name], mixed[name]) for name in views)
    assert loss.dtype == torch.float32
