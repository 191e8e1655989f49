"""Corruptions of the denoising autoencoder: their scale, their independence, and what they must not do."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ssl_bench.transforms.noise import gaussian_noise, mask_noise


def test_gaussian_noise_is_normal_with_the_deviation_asked_for_in_every_channel() -> None:
    torch.manual_seed(0)
    std = torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1)
    images = torch.full((16, 3, 32, 32), 0.5)
    noise = (gaussian_noise(images, 0.3, std) - images) / (0.3 * std)
    for channel in range(3):
        assert stats.kstest(noise[:, channel].flatten()[:5_000].numpy(), "norm").pvalue > 1e-3
    assert noise.flatten(2).transpose(0, 1).flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.05


def test_gaussian_noise_is_not_clipped() -> None:
    noisy = gaussian_noise(torch.ones(4, 3, 16, 16), 0.5)
    assert (noisy > 1).float().mean() == pytest.approx(0.5, abs=0.1)


def test_masked_pixels_lose_all_channels_and_kept_ones_stay_as_they_were() -> None:
    torch.manual_seed(0)
    images = 0.1 + 0.8 * torch.rand(16, 3, 32, 32)
    fill = torch.tensor([-1.0, -2.0, -3.0]).view(1, 3, 1, 1)
    found = mask_noise(images, 0.3, fill)
    masked = found[:, 0] == -1
    share, count = float(masked.float().mean()), masked.numel()
    low, high = stats.binom.interval(0.9999, count, 0.3)
    assert low <= share * count <= high
    for channel in range(3):
        assert torch.equal(found[:, channel] == fill[0, channel], masked)
        assert torch.equal(found[:, channel][~masked], images[:, channel][~masked])  # no factor 1 / (1 - p)


@pytest.mark.parametrize("corrupt", [lambda x: gaussian_noise(x, 0.3), lambda x: mask_noise(x, 0.5)])
def test_every_image_and_every_call_has_its_own_draw(corrupt) -> None:  # type: ignore[no-untyped-def]
    images = torch.full((2, 3, 16, 16), 0.5)
    first, second = corrupt(images), corrupt(images)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(images, torch.full((2, 3, 16, 16), 0.5))


@pytest.mark.parametrize("corrupt", [lambda x: gaussian_noise(x, 0.3), lambda x: mask_noise(x, 0.5)])
def test_channels_last_stays_channels_last(corrupt) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert corrupt(images).is_contiguous(memory_format=torch.channels_last)
