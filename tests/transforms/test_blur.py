"""Gaussian blur against torchvision image by image."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as reference

from ssl_bench.errors import SpecError
from ssl_bench.transforms import blur, gaussian_blur
from ssl_bench.transforms.blur import blur_kernel_size


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("side", "taps"), [(32, 3), (24, 9), (12, 23)])
def test_blur_equals_torchvision_with_a_width_for_every_image(layout, side, taps) -> None:
    torch.manual_seed(0)
    images = torch.rand(12, 3, side, side + 4).contiguous(memory_format=layout)
    sigma = torch.linspace(0.1, 2, 12)
    for one, image, width in zip(blur(images, sigma, taps), images, sigma.tolist(), strict=True):
        torch.testing.assert_close(one, reference.gaussian_blur(image, [taps, taps], [width, width]), atol=2e-6, rtol=0)


def test_half_of_the_images_are_blurred_each_in_its_own_way() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 24, 24).expand(1_000, -1, -1, -1)
    found = gaussian_blur(images, sigma=(0.5, 2.0), p=0.5, kernel_size=9)
    changed = (found != images).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 1_000, 0.5).pvalue > 1e-3
    assert len({one.numpy().tobytes() for one in found[changed]}) == int(changed.sum())


def test_kernel_is_a_tenth_of_the_side_and_odd() -> None:
    assert [blur_kernel_size(side) for side in (32, 64, 96, 224)] == [3, 7, 9, 23]


def test_small_images_are_blurred_too() -> None:
    torch.manual_seed(0)
    for side in (8, 16, 19):
        images = torch.rand(4, 3, side, side)
        assert not torch.allclose(gaussian_blur(images, sigma=(1.0, 2.0), p=1.0), images, atol=0.05)


@pytest.mark.parametrize("taps", [4, 17, -1])
def test_impossible_kernels_are_refused(taps) -> None:
    with pytest.raises(SpecError, match="must be odd, from 1 to 15"):
        blur(torch.rand(1, 3, 8, 8), torch.ones(1), taps)
