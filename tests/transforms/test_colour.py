"""Colour distortion against torchvision with the very factors that were drawn."""

from __future__ import annotations

import colorsys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from ssl_bench.errors import SpecError
from ssl_bench.transforms import adjust_hue, apply_jitter, color_jitter, draw_jitter, grayscale, random_grayscale

ADJUST = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)


def awkward(count: int) -> Tensor:
    """Images that meet every branch of HSV: noise, greys, black, white, saturated corners of the cube, ties of two
    channels."""
    images = torch.rand(count, 3, 8, 8)
    images[0] = images[0, :1]
    images[1], images[2], images[3] = 0, 1, images[3].round()
    images[4, 1] = images[4, 0]
    images[5, 2] = images[5, 1]
    images[6] *= 1e-4
    return images


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_jitter_equals_torchvision_image_by_image(layout, strength) -> None:
    torch.manual_seed(0)
    images = awkward(200).contiguous(memory_format=layout)
    before = images.clone()
    jitter = draw_jitter(200, 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, 0.8)
    found = apply_jitter(images, jitter)
    assert torch.equal(images, before)
    for at, image in enumerate(images):
        expected = image
        for operation in jitter.order[at].tolist() if jitter.apply[at] else ():
            expected = ADJUST[operation](expected, jitter.factors[at, operation].item())
        torch.testing.assert_close(found[at], expected, atol=2e-5, rtol=0)


def test_jitter_draws_order_and_factors_per_image() -> None:
    torch.manual_seed(0)
    jitter = draw_jitter(24_000, 0.4, 0.3, 1.5, 0.1, 0.8)
    code = (jitter.order * torch.tensor([64, 16, 4, 1])).sum(1)
    orders, counts = code.unique(return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    for column, (low, high) in enumerate([(0.6, 1.4), (0.7, 1.3), (0.0, 2.5), (-0.1, 0.1)]):
        assert (
            stats.kstest(jitter.factors[:, column].double().numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
        )
    assert abs(torch.corrcoef(jitter.factors.T) - torch.eye(4)).max() < 0.03
    assert stats.binomtest(int(jitter.apply.sum()), 24_000, 0.8).pvalue > 1e-3


def test_equal_images_are_distorted_differently() -> None:
    images = torch.rand(1, 3, 8, 8).expand(50, -1, -1, -1)
    assert len({one.numpy().tobytes() for one in color_jitter(images, 0.4, 0.4, 0.4, 0.1)}) == 50


def test_without_strength_or_probability_nothing_changes() -> None:
    images = torch.rand(20, 3, 8, 8)
    torch.testing.assert_close(color_jitter(images, 0, 0, 0, 0), images, atol=1e-6, rtol=0)
    assert torch.equal(color_jitter(images, 0.8, 0.8, 0.8, 0.2, p=0), images)


@given(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), st.floats(-0.5, 0.5))
@settings(max_examples=200)
def test_hue_equals_the_standard_library(pixel, shift) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    expected = torch.tensor(colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value), dtype=torch.float32)
    found = adjust_hue(
        torch.tensor(pixel, dtype=torch.float32).view(1, 3, 1, 1), torch.tensor([shift], dtype=torch.float32)
    )
    torch.testing.assert_close(found.flatten(), expected, atol=1e-5, rtol=0)


def test_hue_has_a_shift_of_its_own_for_every_image() -> None:
    images, shift = awkward(16), torch.linspace(-0.5, 0.5, 16)
    found = adjust_hue(images, shift)
    for one, image, turn in zip(found, images, shift.tolist(), strict=True):
        torch.testing.assert_close(one, reference.adjust_hue(image, turn), atol=1e-5, rtol=0)


def test_grey_equals_torchvision_and_is_drawn_per_image() -> None:
    torch.manual_seed(0)
    images = torch.rand(2_000, 3, 4, 4)
    grey = reference.rgb_to_grayscale(images, 3)
    torch.testing.assert_close(grayscale(images), grey[:, :1], atol=1e-6, rtol=0)
    found = random_grayscale(images, 0.2)
    turned = (found[:, 0] == found[:, 1]).flatten(1).all(1)
    torch.testing.assert_close(found[turned], grey[turned], atol=1e-6, rtol=0)
    assert torch.equal(found[~turned], images[~turned])
    assert stats.binomtest(int(turned.sum()), 2_000, 0.2).pvalue > 1e-3


@pytest.mark.parametrize(("name", "value"), [("brightness", -0.1), ("hue", 0.6)])
def test_errors_name_the_strength(name, value) -> None:
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1} | {name: value}
    with pytest.raises(SpecError, match=f"{name} must be .*, got {value}"):
        color_jitter(torch.rand(2, 3, 4, 4), **strengths)
