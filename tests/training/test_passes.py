"""Passes are counted wherever images go through a network: teachers, halves, crops, networks that are no ResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import ssl_bench
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.batches import Batches
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import TASKS
from ssl_bench.tasks.base import Setup
from ssl_bench.training.cost import Cost, measure_cost
from tests.runner.test_run import matrix
from toys import TINY, Brightness, build, noise_set

PLUGINS = Path(__file__).parents[1] / "plugins"
FILES = {
    "momentum_teacher": "momentum_teacher",
    "split_brain": "half_width_pair",
    "linear_autoencoder": "linear_encoder",
}


def cost_of(task: Any) -> Cost:
    return measure_cost(task.train(), Batches(noise_set(), 16, 0).batch(0))


def plugin(name: str, **options: Any) -> Any:
    load_plugin(PLUGINS / f"{FILES[name]}.py")
    task = TASKS.get(name)

    def make(input: str = "rgb", width: float = 1.0) -> Backbone:
        return Backbone(TINY.model_copy(update={"width": 0.25 * width}), 32)

    parsed = task.Options(**options)
    setup = Setup(32, 10, 16, 64, None, lambda n: torch.rand(n, 3, 32, 32))
    return task(task.build_backbone(make, parsed), parsed, setup)


@pytest.mark.parametrize("judge_teacher", [True, False])
def test_a_momentum_teacher_counts_as_the_student_does(judge_teacher: bool) -> None:
    two_views_each = cost_of(plugin("momentum_teacher", judge_teacher=judge_teacher))
    assert two_views_each.passes == 4 and two_views_each.by_area


def test_small_crops_count_by_their_area() -> None:
    assert cost_of(plugin("momentum_teacher", small_crops=3)).passes == 4 + 3 / 4


def test_both_halves_of_a_pair_count_half() -> None:
    task = plugin("split_brain")
    found = cost_of(task)
    assert found.passes == pytest.approx(1, abs=1e-9) and not found.by_area

    class Again(type(task)):  # type: ignore[misc]
        def forward(self, views: Any) -> Any:
            return {"loss": super().forward(views)["loss"] + self.backbone.second(views).mean()}

    task.__class__ = Again
    assert cost_of(task).passes == pytest.approx(1.5, abs=1e-9)


@pytest.mark.parametrize("encoder", ["linear", "recurrent"])
def test_a_network_that_is_no_resnet_counts_images_not_pixels(encoder: str) -> None:
    found = cost_of(plugin("linear_autoencoder", encoder=encoder))
    assert found.passes == 1
    numbers, width = 3 * 32 * 32, 32
    if encoder == "linear":  # encoder: forward, weights; decoder: forward, weights, code
        assert found.flops == (2 + 3) * 2 * numbers * width
    else:  # four gates, each of a row and of the state before it, 32 times
        assert found.flops > 32 * 2 * 4 * width * (3 * 32 + width)


class Elsewhere(Brightness):
    """Has further networks, which see images in views, in after_step and in forward."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.others = nn.ModuleList([Backbone(TINY, 32), Backbone(TINY, 32)])
        self.critic = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 15 * 15, 1))

    def views(self, batch: Any) -> Any:
        self.kept = batch.images
        self.others[0](batch.images)
        return super().views(batch)

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(views)["loss"] + self.critic(views[0]).mean()}

    def after_step(self) -> None:
        self.others[1](self.kept)


def test_networks_count_wherever_images_go_through_them() -> None:
    plain, found = cost_of(build()), cost_of(build(Elsewhere))
    critic = 2 * 3 * 9 * 8 * 15 * 15 + 2 * 8 * 15 * 15
    one_forward = (plain.flops - _head()) / (3 - _first_layer())
    assert found.passes == pytest.approx(3 + critic / one_forward, rel=1e-6)
    assert found.flops == pytest.approx(plain.flops + 2 * one_forward + 2 * critic + 2 * 8 * 15 * 15, rel=1e-6)


def _head() -> int:
    return 3 * 2 * 64


def _first_layer() -> float:
    """The share of a forward pass that a gradient for the pixels would cost, which is not computed."""
    network = build().backbone
    pixels = network.prepare(torch.rand(2, 3, 32, 32))
    with FlopCounterMode(display=False) as whole:
        network.trunk(pixels)
    with FlopCounterMode(display=False) as first:
        network.network.conv1(pixels)
    return first.get_total_flops() / whole.get_total_flops()


class UNet(Brightness):
    """Has a decoder that sees feature maps and images that it makes, as large as the input."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.grow = nn.ConvTranspose2d(64, 8, 4, 4)

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.grow(self.backbone.feature_map(views[0])).mean((1, 2, 3)), views[1])}


def test_a_decoder_is_no_network_that_images_go_through() -> None:
    assert cost_of(build(UNet)).passes == 1


def test_rows_of_equal_passes_see_images_by_what_each_sends_through_its_networks(tmp_path: Path) -> None:
    rows = [
        "momentum_teacher",
        {"momentum_teacher": {"small_crops": 4, "row": "crops"}},
        "split_brain",
        "linear_autoencoder",
        "rotation",
    ]
    spec = matrix(
        tasks=rows,
        baselines=[],
        backbone={"name": "resnet18", "width": 0.25, "stem_stride": 2},
        pretrain={"passes": 640, "batch_size": 32, "monitor": 0},
    )
    plugins = [PLUGINS / f"{name}.py" for name in FILES.values()]
    results = ssl_bench.run(spec, tmp_path, val=True, plugins=plugins, skip_checks=True)
    trained = results.pretraining.set_index("row")
    expected = {"momentum_teacher": 4, "crops": 5, "split_brain": 1, "linear_autoencoder": 1, "rotation": 4}
    assert trained["passes"].to_dict() == pytest.approx(expected)
    assert (trained["passes"] * trained["images_seen"]).to_dict() == pytest.approx(dict.fromkeys(expected, 640))
