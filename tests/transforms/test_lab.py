"""CIE Lab against scikit-image, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import lab2rgb, rgb2lab

from ssl_bench.transforms.lab import lab_to_rgb, lightness, rgb_to_lab


def _oracle(images: torch.Tensor) -> np.ndarray:
    return rgb2lab(images.permute(0, 2, 3, 1).double().numpy()).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def cube() -> torch.Tensor:
    """Every colour of a 32-step RGB cube, as eight images."""
    axis = torch.linspace(0, 1, 32)
    return torch.cartesian_prod(axis, axis, axis).view(8, 64, 64, 3).permute(0, 3, 1, 2)


def test_lab_equals_scikit_image_over_the_cube(cube: torch.Tensor) -> None:
    assert np.abs(rgb_to_lab(cube).numpy() - _oracle(cube)).max() < 1e-3


@given(arrays(np.uint8, (1, 3, 4, 4), elements=st.integers(0, 255)))
@settings(max_examples=50)
def test_lab_equals_scikit_image_on_8_bit_pixels(pixels: np.ndarray) -> None:
    images = torch.from_numpy(pixels).float() / 255  # the dark colours among them meet both linear feet
    assert np.abs(rgb_to_lab(images).numpy() - _oracle(images)).max() < 1e-3


def test_lightness_is_the_first_channel_on_the_scale_of_0_to_100(cube: torch.Tensor) -> None:
    found = lightness(cube)
    assert found.shape == (8, 1, 64, 64)
    assert torch.allclose(found, rgb_to_lab(cube)[:, :1], atol=1e-4)
    assert float(found.min()) == pytest.approx(0, abs=1e-3) and float(found.max()) == pytest.approx(100, abs=1e-3)


def test_grey_has_no_colour() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert rgb_to_lab(grey)[:, 1:].abs().max() < 0.02


def test_known_colours() -> None:
    red, blue = rgb_to_lab(torch.eye(3).view(3, 3, 1, 1))[[0, 2]].flatten(1)
    assert red.tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert blue.tolist() == pytest.approx([32.30, 79.19, -107.86], abs=0.02)


def test_back_and_forth(cube: torch.Tensor) -> None:
    assert (lab_to_rgb(rgb_to_lab(cube)) - cube).abs().max() < 1e-4


def test_lab_to_rgb_equals_scikit_image_and_clips_what_is_outside_the_gamut() -> None:
    lab = torch.rand(2, 3, 16, 16) * torch.tensor([100.0, 160, 160]).view(1, 3, 1, 1) - torch.tensor(
        [0.0, 80, 80]
    ).view(1, 3, 1, 1)
    with pytest.warns(UserWarning, match="negative Z"):  # scikit-image says so of blues that no light can have
        expected = lab2rgb(lab.permute(0, 2, 3, 1).double().numpy()).transpose(0, 3, 1, 2)
    found = lab_to_rgb(lab)
    assert found.min() >= 0 and found.max() <= 1
    possible = torch.from_numpy(_oracle(torch.from_numpy(expected)))
    inside = (possible - lab).abs().amax(1) < 0.05  # scikit-image clips Z first, so only colours of the gamut compare
    assert inside.float().mean() > 0.1
    difference = np.abs(found.numpy() - expected).max(1)[inside.numpy()]
    assert difference.max() < 1e-3


def test_any_memory_layout_and_mixed_precision_give_the_same() -> None:
    images = torch.rand(2, 3, 8, 8)
    expected = rgb_to_lab(images)
    assert torch.equal(rgb_to_lab(images.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(rgb_to_lab(images), expected, atol=1e-4)
        assert torch.allclose(lightness(images), expected[:, :1], atol=1e-4)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="255"):
        rgb_to_lab(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(TypeError, match="255"):
        lightness(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_the_gradient_is_finite_at_black_and_equals_finite_differences() -> None:
    images = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    rgb_to_lab(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()
    colours = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, colours)
