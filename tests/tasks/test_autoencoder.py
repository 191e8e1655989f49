"""The autoencoder: the code is all the decoder sees, the error is that of pixels,
and only crop and flip are applied."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch, Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import SpecError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.autoencoder import Autoencoder
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.parts.reconstruction import Decoder
from ssl_bench.training.loop import fit

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)
PIXELS = InputSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def make_task(size: int = 16, **options: object) -> Autoencoder:
    setup = Setup(size, 100, 8, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    return Autoencoder(Backbone(TINY, size, PIXELS), Autoencoder.Options(**options), setup)


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


def smooth_images(count: int, size: int) -> Tensor:
    """Blobs of colour: something that a small code can hold."""
    coarse = torch.rand(count, 3, 4, 4)
    return nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def test_the_loss_is_the_mean_squared_error_of_standardised_pixels() -> None:
    task, images = make_task(), torch.rand(4, 3, 16, 16)
    task.eval()  # so that a second pass meets the same BatchNorm statistics
    rebuilt = task.reconstruct(images).detach().double().numpy()
    total = 0.0
    for image, answer in zip(images.double().numpy(), rebuilt, strict=True):
        for channel in range(3):
            target = (image[channel] - PIXELS.mean[channel]) / PIXELS.std[channel]
            total += float(((target - answer[channel]) ** 2).sum())
    assert float(task(images)["loss"].detach()) == pytest.approx(total / images.numel(), rel=1e-5)


def test_the_mean_colour_gets_a_loss_of_one_on_standardised_data() -> None:
    task = make_task(32)
    for parameter in task.decoder.last.parameters():
        nn.init.zeros_(parameter)
    images = torch.randn(32, 3, 32, 32) * task.backbone.std + task.backbone.mean
    assert float(task(images)["loss"].detach()) == pytest.approx(task.chance_loss(), abs=0.02)
    assert task.chance_loss() == 1


def test_the_decoder_sees_nothing_but_the_code() -> None:
    task = make_task().eval()
    nn.init.zeros_(task.to_code.weight)
    rebuilt = task.reconstruct(torch.rand(5, 3, 16, 16))
    assert torch.equal(rebuilt, rebuilt[:1].expand_as(rebuilt)), "with an empty code all images look the same"


def test_the_code_is_of_the_whole_feature_map_not_of_pooled_features() -> None:
    task, images = make_task(32).eval(), torch.rand(2, 3, 32, 32)
    features = task.backbone.feature_map(images)
    moved = features.flip(2, 3)
    assert task.to_code.in_features == features[0].numel() > task.backbone.num_features
    assert torch.allclose(moved.mean((2, 3)), features.mean((2, 3)), atol=1e-6)
    assert not torch.allclose(task.to_code(moved.flatten(1)), task.codes(images)["code"], atol=1e-3)


def test_the_code_is_named_sized_and_told() -> None:
    task = make_task(32)
    assert task.codes(torch.rand(3, 3, 32, 32))["code"].shape == (3, 128)
    assert task.describe()["code"] == "128 numbers for an image of 3,072"
    assert [Autoencoder.default_code_size(size) for size in (8, 32, 96, 224)] == [48, 128, 256, 512]


def test_a_code_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(SpecError, match=r"code_size must be less than the 768 numbers of an image of 16 px, got 768"):
        make_task(16, code_size=768)
    assert make_task(16, code_size=767).code_size == 767
    with pytest.raises(SpecError, match="code_size"):
        parse(Autoencoder.Options, {"code_size": 0}, "task 'autoencoder'")


@pytest.mark.parametrize("size", [8, 9, 28, 32, 48, 96, 100])
def test_the_decoder_gives_images_of_any_size(size: int) -> None:
    decoder = Decoder(16, size, 32)
    rebuilt = decoder(torch.randn(2, 16))
    assert rebuilt.shape == (2, 3, size, size)
    rebuilt[0, :, 0, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_the_last_layer_is_neither_normalised_nor_squashed() -> None:
    decoder = Decoder(16, 32, 32)
    code = torch.randn(8, 16)
    before = decoder(code)
    with torch.no_grad():
        decoder.last.bias += torch.tensor([1.0, 20.0, -20.0])
    shift = decoder(code) - before
    assert torch.allclose(shift, torch.tensor([1.0, 20.0, -20.0]).view(1, 3, 1, 1).expand_as(shift), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "width", "stride", "size"),
    [("resnet18", 0.25, 2, 32), ("resnet18", 1.0, 1, 32), ("resnet50", 1.0, None, 224), ("resnet18", 0.25, 2, 96)],
)
def test_the_decoder_costs_less_than_half_of_the_trunk(name: str, width: float, stride: int | None, size: int) -> None:
    with torch.device("meta"):  # shapes without values
        backbone = Backbone(BackboneSpec(name=name, width=width, stem_stride=stride), size)
        task = Autoencoder(
            backbone, Autoencoder.Options(), Setup(size, 1, 2, 2, None, lambda n: torch.rand(n, 3, size, size))
        )
        images = torch.rand(2, 3, size, size)
        with FlopCounterMode(display=False) as trunk:
            backbone(images)
        with FlopCounterMode(display=False) as whole:
            task.reconstruct(images)
    assert 1 < whole.get_total_flops() / trunk.get_total_flops() < 1.5


def test_views_are_windows_of_the_mirrored_out_image_and_nothing_else() -> None:
    torch.manual_seed(0)
    images = torch.rand(24, 3, 16, 16)
    views = make_task(16, pad=2).views(batch_of(images))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    seen = set()
    for number in range(24):
        windows = {
            (top, left, flipped): padded[number, :, top : top + 16, left : left + 16][..., :: -1 if flipped else 1]
            for top in range(5) for left in range(5) for flipped in (False, True)
        }  # fmt: skip
        found = [where for where, window in windows.items() if np.array_equal(window, views[number].numpy())]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 12, "every image has its own window"


def test_the_error_reported_is_that_of_pixels_in_0_to_1_and_changes_nothing() -> None:
    task, images = make_task().eval(), torch.rand(300, 3, 16, 16)
    before = copy.deepcopy(task.state_dict())
    found = task.diagnose(images)
    rebuilt = task.reconstruct(images) * task.backbone.std + task.backbone.mean
    error = float((rebuilt.detach() - images).square().mean())
    assert found["mse"] == pytest.approx(error, rel=1e-4)
    variance = float(np.mean([images[:, channel].numpy().var() for channel in range(3)]))
    assert found["variance_explained"] == pytest.approx(1 - error / variance, abs=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())


def test_it_learns_to_rebuild_a_few_images() -> None:
    torch.manual_seed(0)
    size = 16
    pixels = (smooth_images(16, size).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    few = ImageSet(pixels, np.arange(16), None, (), "blobs", "blobs")
    task = make_task(size, pad=0)
    result = fit(task, Batches(few, 16, 0), Recipe(learning_rate=5e-3), 80, seed=0, precision="fp32", cost=False)
    values = result.curves["loss"].value
    assert values[-1] < 0.25 * values[0]
    assert task.diagnose(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)["variance_explained"] > 0.5
