"""The denoising autoencoder: noise in standardised units, against the clean image, fresh at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_bench.backbones.resnet import Backbone, InputSpec
from ssl_bench.data.batches import Batch
from ssl_bench.errors import SpecError
from ssl_bench.spec.matrix import BackboneSpec
from ssl_bench.spec.model import parse
from ssl_bench.tasks.base import Setup
from ssl_bench.tasks.denoising_autoencoder import DenoisingAutoencoder

TINY = BackboneSpec(name="resnet10t", width=0.125, stem="3x3", stem_stride=2)
PIXELS = InputSpec(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))


def make_task(size: int = 16, **options: object) -> DenoisingAutoencoder:
    setup = Setup(size, 100, 8, 1_000, None, lambda n: torch.rand(n, 3, size, size))
    return DenoisingAutoencoder(Backbone(TINY, size, PIXELS), DenoisingAutoencoder.Options(**options), setup)


def batch_of(images: Tensor) -> Batch:
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(len(images)))


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_gaussian_noise_has_its_deviation_where_pixels_have_deviation_one(sigma: float) -> None:
    torch.manual_seed(0)
    task = make_task(32, sigma=sigma)
    clean, corrupted = task.views(batch_of(torch.rand(32, 3, 32, 32)))
    noise = task.backbone.prepare(corrupted) - task.backbone.prepare(clean)  # as the network meets it
    assert noise.transpose(0, 1).flatten(1).std(1).tolist() == pytest.approx([sigma] * 3, rel=0.03)
    assert corrupted.max() > 1 and corrupted.min() < 0, "nothing is clipped"


def test_a_masked_pixel_is_zero_for_the_network_and_the_others_are_as_they_were() -> None:
    torch.manual_seed(0)
    task = make_task(32, noise="mask", masked=0.25)
    clean, corrupted = task.views(batch_of(torch.rand(16, 3, 32, 32)))
    given, asked = task.backbone.prepare(corrupted), task.backbone.prepare(clean)
    masked = given.abs().amax(1) < 1e-6
    assert float(masked.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(given.permute(0, 2, 3, 1)[~masked], asked.permute(0, 2, 3, 1)[~masked])


def test_the_noise_is_drawn_anew_at_every_step() -> None:
    task, batch = make_task(pad=0), batch_of(torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1))
    noises = [corrupted - clean for clean, corrupted in (task.views(batch), task.views(batch))]
    assert not torch.allclose(noises[0], noises[1])
    assert len(torch.unique(noises[0].flatten(1).round(decimals=4), dim=0)) == 8, (
        "every image of a batch has its own noise"
    )


def test_the_target_is_the_clean_image() -> None:
    task = make_task(sigma=1.0).eval()
    clean, corrupted = task.views(batch_of(torch.rand(4, 3, 16, 16)))
    rebuilt = task.reconstruct(corrupted)
    expected = (rebuilt - (clean - task.backbone.mean) / task.backbone.std).square().mean()
    loss = task((clean, corrupted))["loss"]
    assert torch.allclose(loss, expected)
    assert not torch.allclose(loss, (rebuilt - task.backbone.prepare(corrupted)).square().mean(), rtol=0.05)
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_probes_meet_clean_images() -> None:
    task, images = make_task().eval(), torch.rand(4, 3, 16, 16)
    first, second = task.codes(images)["code"], task.codes(images)["code"]
    assert torch.equal(first, second)
    assert torch.equal(first, task.to_code(task.backbone.feature_map(images).flatten(1)))


def test_both_errors_are_reported_and_the_random_state_is_left_alone() -> None:
    task, images = make_task().eval(), torch.rand(8, 3, 16, 16)
    state = torch.get_rng_state()
    found = task.diagnose(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(found) == {"mse", "variance_explained", "mse_denoised", "variance_explained_denoised"}
    assert found == task.diagnose(images)
    assert found["mse"] != found["mse_denoised"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "salt"}, "noise"),
        ({"sigma": 0}, "sigma"),
        ({"noise": "mask", "masked": 1.0}, "masked"),
        ({"sigmas": 0.1}, "did you mean 'sigma'"),
        ({"noise": "mask", "sigma": 0.2}, "sigma = 0.2 changes nothing: it is a setting of noise: gaussian"),
        ({"masked": 0.25}, "masked = 0.25 changes nothing: it is a setting of noise: mask"),
        ({"noise": "mask", "sigma": 0.3}, "leave it out"),
    ],
)
def test_options_that_cannot_mean_anything(options: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse(DenoisingAutoencoder.Options, options, "task 'denoising_autoencoder'")


@pytest.mark.parametrize("options", [{}, {"sigma": 0.5}, {"noise": "mask"}, {"noise": "mask", "masked": 0.25}])
def test_options_of_a_record_are_read_back(options: dict[str, object]) -> None:
    given = DenoisingAutoencoder.Options(**options)
    assert parse(DenoisingAutoencoder.Options, given.model_dump(mode="json"), "a record") == given
