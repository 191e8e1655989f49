"""The distortions of exemplar networks: HSV against colorsys, geometry against scikit-image, colours along the axes of
all pixels."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform, warp

import ssl_bench.transforms.exemplar as module
from ssl_bench.transforms.exemplar import (
    hsv_to_rgb,
    principal_colours,
    random_affine,
    random_contrast_of_components,
    random_hsv_power,
    rgb_to_hsv,
)

unit = st.floats(0, 1, width=32)


@given(st.tuples(unit, unit, unit))
def test_hsv_agrees_with_colorsys_and_back(colour: tuple[float, float, float]) -> None:
    image = torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1)
    hsv = rgb_to_hsv(image)
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    found = hsv.flatten().tolist()
    assert found[1:] == pytest.approx([saturation, value], abs=1e-6)
    if saturation * value > 1e-6:
        assert abs((found[0] - hue + 0.5) % 1 - 0.5) < 1e-6
    torch.testing.assert_close(hsv_to_rgb(hsv), image, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        hsv_to_rgb(torch.tensor([hue, saturation, value], dtype=torch.float64).view(1, 3, 1, 1)),
        image,
        atol=1e-6,
        rtol=0,
    )


def test_an_affine_change_equals_scikit_images(monkeypatch: pytest.MonkeyPatch) -> None:
    size, count = 33, 5
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.random((count, 1, 6, 6)))
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    drawn: list[torch.Tensor] = []
    original = module.uniform
    monkeypatch.setattr(module, "uniform", lambda *a: (drawn.append(original(*a)), drawn[-1])[1])
    found = random_affine(images)
    scale, angle, move = drawn[0].exp().numpy(), drawn[1].numpy(), drawn[2].numpy()
    centre = (size - 1) / 2
    for k in range(count):
        # where a point of the output comes from: turned and scaled about the centre, then moved
        to_centre, back = (
            SimilarityTransform(translation=(-centre, -centre)),
            SimilarityTransform(translation=(centre, centre)),
        )
        source = (
            to_centre
            + SimilarityTransform(scale=1 / scale[k], rotation=angle[k])
            + SimilarityTransform(translation=move[k] * size / 2)
            + back
        )
        expected = warp(images[k, 0].numpy(), source, order=1, mode="symmetric")
        np.testing.assert_allclose(found[k, 0].numpy(), expected, atol=1e-6)
    assert len({round(float(s), 6) for s in scale}) == count


def test_ranges_of_the_geometry() -> None:
    torch.manual_seed(0)
    spot = torch.zeros(400, 1, 41, 41)
    spot[:, :, 19:22, 19:22] = 1
    moved = random_affine(spot, shift=0.2, scale=(1.0, 1.0), degrees=0.0)
    at = torch.arange(41.0)
    mass = moved.sum((1, 2, 3))
    x = (moved.sum((1, 2)) * at).sum(1) / mass - 20
    assert x.abs().max() <= 0.2 * 41 + 0.1 and x.min() < -7 and x.max() > 7
    torch.testing.assert_close(random_affine(spot, 0.0, (1.0, 1.0), 0.0), spot, atol=1e-4, rtol=0)
    sized = random_affine(spot, shift=0.0, scale=(0.7, 1.4), degrees=0.0).sum((1, 2, 3)) / 9
    assert 0.4 < sized.min() < 0.6 and 1.7 < sized.max() < 2.1, "areas go with the square of 0.7 to 1.4"


def test_colours_move_along_the_axes_of_all_pixels() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 3))[0]
    pixels = (torch.randn(4, 50 * 64, 3) * torch.tensor([0.01, 0.025, 0.05])) @ basis.T + 0.5
    images = pixels.view(4, 50, 64, 3).permute(0, 3, 1, 2).contiguous()
    mean, axes = principal_colours([images])
    torch.testing.assert_close((axes.T @ basis).abs(), torch.eye(3), atol=0.05, rtol=0)
    pixels = images.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(mean, pixels.mean(1).float())
    in_parts = principal_colours(images.split(3))  # large images are not all in memory
    torch.testing.assert_close(in_parts[0], mean)
    torch.testing.assert_close(
        (in_parts[1].T @ torch.linalg.eigh(torch.cov(pixels))[1].float()).abs(), torch.eye(3), atol=1e-5, rtol=0
    )
    changed = random_contrast_of_components(images, mean, axes)
    before, after = (((x.permute(0, 2, 3, 1) - mean) @ axes).flatten(1, 2) for x in (images, changed))
    factor = (before * after).sum(1) / before.square().sum(1)  # [4, 3]
    assert ((factor > 0.45) & (factor < 2.05)).all() and len(torch.unique(factor.round(decimals=4))) == 12
    torch.testing.assert_close(after, before * factor[:, None], atol=5e-3, rtol=0)


@given(st.integers(0, 2**31))
def test_powers_stay_numbers_in_range(seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(4, 3, 5, 5)
    images[0], images[1], images[2, :, 0] = 0, 1, images[2, :1, 0]  # black, white, grey pixels
    found = random_hsv_power(images)
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


def test_no_change_where_nothing_is_asked() -> None:
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(random_hsv_power(images, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        random_contrast_of_components(images, *principal_colours([images]), 1.0, 1.0), images, atol=1e-5, rtol=0
    )
