"""SimCLR: NT-Xent against a double loop, two independent draws, and what follows the image size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError, SSLBenchError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.simclr import SimCLR, partner_found
from ssl_bench.transforms import policy

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)


def make_task(size: int = 16, batch_size: int = 8, **options: object) -> SimCLR:
    setup = Setup(size, 100, batch_size, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    return SimCLR(Backbone(TINY, size), SimCLR.Options(**options), setup)


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[float, float]:
    """Loss and top-1 of NT-Xent as the paper's Algorithm 1 writes it, view by view."""
    z = [row.double() for pair in zip(first, second, strict=True) for row in pair]  # 2k and 2k + 1 are partners
    total, found = 0.0, 0
    for i in range(len(z)):
        partner = i ^ 1
        similarity = {k: float(z[i] @ z[k] / (z[i].norm() * z[k].norm())) for k in range(len(z)) if k != i}
        total -= math.log(
            math.exp(similarity[partner] / temperature) / sum(math.exp(s / temperature) for s in similarity.values())
        )
        found += max(similarity, key=similarity.__getitem__) == partner
    return total / len(z), found / len(z)


class Given(nn.Module):
    """A backbone whose features are the views themselves."""

    num_features = 5

    def forward(self, views: Tensor) -> Tensor:
        return views


def loss_of(first: Tensor, second: Tensor, temperature: float) -> dict[str, Tensor]:
    task = make_task(temperature=temperature, batch_size=len(first))
    task.backbone, task.projection_head = Given(), nn.Identity()
    return task(torch.cat([first, second]))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_equals_a_double_loop(temperature) -> None:
    torch.manual_seed(0)
    first = torch.randn(7, 5)
    second = first + 0.7 * torch.randn(7, 5)
    loss, accuracy = nt_xent(first, second, temperature)
    out = loss_of(first, second, temperature)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert 0 < accuracy < 1 and out["accuracy"].item() == pytest.approx(accuracy)


def test_nt_xent_of_equal_embeddings_is_that_of_a_guess() -> None:
    same = torch.ones(6, 5)
    assert loss_of(same, same, 0.5)["loss"].item() == pytest.approx(math.log(11))
    assert make_task(batch_size=6).chance_loss() == pytest.approx(math.log(11))


def test_nt_xent_does_not_depend_on_the_order_of_images_nor_of_views() -> None:
    torch.manual_seed(0)
    first, second, order = torch.randn(9, 5), torch.randn(9, 5), torch.randperm(9)
    loss = loss_of(first, second, 0.2)["loss"]
    torch.testing.assert_close(loss_of(first[order], second[order], 0.2)["loss"], loss)
    torch.testing.assert_close(loss_of(second, first, 0.2)["loss"], loss)
    assert not torch.isclose(loss_of(first, second[order], 0.2)["loss"], loss), "partners are told apart"


def test_loss_is_in_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    task = make_task(temperature=0.01)
    views = task.views(batch_of(torch.rand(8, 3, 16, 16)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = task.projection_head(task.backbone(views))
        out = task(views)
    assert projected.dtype == torch.bfloat16 and out["loss"].dtype == torch.float32
    expected, _ = nt_xent(*projected.detach().float().chunk(2), 0.01)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-3)


def test_both_views_share_one_forward_and_gradients_flow() -> None:
    task, passes = make_task(), []
    task.backbone.network.conv1.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    task(task.views(batch_of(torch.rand(8, 3, 16, 16))))["loss"].backward()
    assert passes == [16]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("size", [32, 40])
def test_two_independent_draws_an_image(size) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, size, size).expand(48, -1, -1, -1)
    views = make_task(size).views(batch_of(images))
    assert views.shape == (96, 3, size, size) and views.min() >= 0 and views.max() <= 1
    assert len({one.numpy().tobytes() for one in views}) == 96, "an image's two views, or two images, share a draw"


@pytest.mark.parametrize(("size", "strength", "s"), [(32, None, 0.5), (64, None, 1.0), (32, 0.7, 0.7)])
def test_operations_strengths_and_their_order_are_the_papers(size, strength, s, monkeypatch) -> None:
    calls: list[tuple[Any, ...]] = []
    for name in ("random_resized_crop", "color_jitter", "random_grayscale", "gaussian_blur"):

        def record(images: Tensor, *values: float, name: str = name, **named: object) -> Tensor:
            calls.append((name, *values, named))
            return images

        monkeypatch.setattr(policy, name, record)
    make_task(size, strength=strength, blur=True, min_scale=0.2).views(batch_of(torch.rand(8, 3, size, size)))
    one = [
        ("random_resized_crop", None, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, "bicubic", {}),
        ("color_jitter", 0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, {"p": 0.8}), ("random_grayscale", 0.2, {}),
        ("gaussian_blur", (0.1, 2.0), 0.5, {}),
    ]  # fmt: skip
    assert calls == one * 2
    assert SimCLR.Options().min_scale == 0.08


def test_share_of_grey_views_and_of_undistorted_ones() -> None:
    torch.manual_seed(0)
    solid = torch.tensor([0.7, 0.4, 0.2]).view(1, 3, 1, 1).expand(2_000, 3, 8, 8)  # crops and flips leave it alone
    views = make_task(8).views(batch_of(solid))
    grey = (views[:, 0] - views[:, 2]).abs().flatten(1).amax(1) < 1e-6
    untouched = (views - solid[:1]).abs().flatten(1).amax(1) < 1e-4
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert untouched.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.03)


def test_image_size_decides_strength_blur_and_temperature() -> None:
    small, large = make_task(32), make_task(64)
    assert dict(small.describe()) == {"temperature": 0.5, "strength": 0.5, "blur": False}
    assert dict(large.describe()) == {"temperature": 0.1, "strength": 1.0, "blur": True}
    assert dict(make_task(32, temperature=0.2, strength=1.0, blur=True).describe()) == {
        "temperature": 0.2,
        "strength": 1.0,
        "blur": True,
    }


def test_blur_smooths_half_of_the_views() -> None:
    torch.manual_seed(0)
    images = (torch.arange(40) % 2).float().expand(200, 3, 40, 40)
    options = {"strength": 0.0, "min_scale": 1.0, "interpolation": "bilinear"}

    def contrast(blur: bool) -> Tensor:
        return make_task(40, blur=blur, **options).views(batch_of(images)).std((1, 2, 3))

    sharp, blurred = contrast(False), contrast(True)
    smooth = (blurred < sharp.min() - 0.02).float().mean()
    assert 0.3 < smooth < 0.55


def test_projection_head_and_width() -> None:
    task = make_task()
    features = task.backbone.num_features
    layers = [m for m in task.projection_head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(features, features), (features, 128)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in task.projection_head.modules()) == 2
    other = make_task(hidden=40, projection=16).projection_head(torch.rand(4, features))
    assert other.shape == (4, 16)


def test_partner_found_of_hand_made_views() -> None:
    axes = torch.eye(4)
    assert partner_found(axes, axes) == 1.0
    assert partner_found(axes, axes.roll(1, 0)) == 0.0
    assert partner_found(axes, torch.cat([axes[:2], axes[2:].flip(0)])) == 0.5


def test_recipe_of_the_paper() -> None:
    options = SimCLR.Options()
    small, large = SimCLR.recipe(options, 32, 50_000), SimCLR.recipe(options, 224, 50_000)
    assert (small.optimizer, small.learning_rate, small.weight_decay, small.batch_size) == ("lars", 2.0, 1e-6, 512)
    assert (small.trust_coefficient, small.warmup, small.schedule) == (0.001, 0.05, "cosine")
    assert large.learning_rate == pytest.approx(0.075 * 512**0.5)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SpecError, match=r"batch_size must be at least 2 \(got 1\)"):
        make_task(batch_size=1)
    with pytest.raises(SSLBenchError, match="temperature"):
        parse(SimCLR.Options, {"temperature": 0}, "simclr")
    with pytest.raises(SSLBenchError, match="did you mean 'temperature'"):
        parse(SimCLR.Options, {"temprature": 0.5}, "simclr")


def test_views_of_one_image_are_closer_than_those_of_two_after_a_little_training() -> None:
    torch.manual_seed(0)
    task = make_task(16, 16).train()
    colours = torch.rand(16, 3, 1, 1).expand(-1, -1, 16, 16) * 0.8 + 0.2 * torch.rand(16, 3, 16, 16)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(40):
        loss = task(task.views(batch_of(colours)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), last) if step == 0 else (first, loss.item())
    assert last < first - 0.2
