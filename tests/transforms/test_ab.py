"""Colour bins against scikit-image, soft targets against brute force, prior and weights against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from ssl_bench.transforms.ab import BINS, SoftEncoder, nearest_bins, rebalancing_weights, smoothed_prior
from ssl_bench.transforms.lab import rgb_to_lab

ENCODER = SoftEncoder(5.0)


def test_bins_are_the_cells_that_scikit_image_finds_in_the_rgb_cube() -> None:
    axis = np.linspace(0, 1, 512)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    found = set()
    for channel in range(3):  # chroma is largest on the faces of the cube
        for value in (0.0, 1.0):
            face = np.insert(np.stack([u, v], -1), channel, value, axis=-1)
            found |= set(
                map(
                    tuple,
                    np.unique(np.rint(rgb2lab(face)[..., 1:].reshape(-1, 2) / 10).astype(int) * 10, axis=0).tolist(),
                )
            )
    inner = np.stack(np.meshgrid(*[np.linspace(0, 1, 33)] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    found |= set(map(tuple, np.unique(np.rint(rgb2lab(inner)[0, :, 1:] / 10).astype(int) * 10, axis=0).tolist()))
    assert found == {tuple(row) for row in BINS.int().tolist()}
    assert 255 <= len(BINS) <= 275


@given(st.floats(-80, 90), st.floats(-100, 90))
@settings(deadline=None, max_examples=200)
def test_soft_encoding_equals_the_five_nearest_bins_by_brute_force(a: float, b: float) -> None:
    index, soft = ENCODER(torch.tensor([[a, b]]))
    distance = np.sqrt(((BINS.double().numpy() - [a, b]) ** 2).sum(1))
    order = np.argsort(distance)
    chosen = distance[index[0].numpy()]
    # Colours are rounded to whole units for the choice of bins, so a bin may stand in for one at most sqrt(2) nearer.
    assert (np.sort(chosen) <= distance[order[:5]] + 2**0.5 + 1e-4).all()
    weight = np.exp(-(chosen**2 - chosen.min() ** 2) / 50)
    assert np.abs(soft[0].numpy() - weight / weight.sum()).max() < 1e-4
    assert float(soft.sum()) == pytest.approx(1, abs=1e-6)


def test_soft_encoding_is_close_to_the_exact_one_over_the_gamut() -> None:
    torch.manual_seed(0)
    ab = rgb_to_lab(torch.rand(1, 3, 64, 64))[0, 1:].flatten(1).T
    index, soft = ENCODER(ab)
    squared = torch.cdist(ab.double(), BINS.double()).square()
    near, exact_index = squared.topk(5, largest=False)
    exact = torch.zeros_like(squared).scatter_(1, exact_index, torch.softmax(-near / 50, 1))
    found = torch.zeros_like(squared).scatter_(1, index, soft.double())
    difference = (exact - found).abs().sum(1)
    assert difference.mean() < 0.02 and difference.max() < 0.25
    agree = found.argmax(1) == exact.argmax(1)
    assert agree.float().mean() > 0.999


def test_the_table_covers_every_colour() -> None:
    assert nearest_bins().shape == (241 * 241, 5)
    cube = torch.cartesian_prod(*[torch.linspace(0, 1, 17)] * 3).view(1, 17 * 17, 17, 3).permute(0, 3, 1, 2)
    ab = rgb_to_lab(cube)[0, 1:].flatten(1).T
    index, soft = ENCODER(ab)
    nearest = BINS[index.gather(1, soft.argmax(1, keepdim=True))[:, 0]]
    # a cell's corner is 7.1 from its centre; at the gamut's edge a little more
    assert (nearest - ab).norm(dim=1).max() < 10
    index, _ = ENCODER(torch.tensor([[500.0, -500.0]]))  # outside: clamped, never another row of the table
    assert float((BINS[index[0]] - torch.tensor([120.0, -120.0])).norm(dim=1).min()) < 60


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_rebalancing_by_the_formula(share: float) -> None:
    prior = torch.rand(len(BINS), dtype=torch.float64).pow(6)
    prior /= prior.sum()
    weights = rebalancing_weights(prior, share).double()
    assert float((prior * weights).sum()) == pytest.approx(1, abs=1e-6)
    unscaled = np.array([1 / ((1 - share) * p + share / len(BINS)) for p in prior.tolist()])
    ratio = weights.numpy() / unscaled
    assert ratio == pytest.approx(np.full(len(BINS), ratio[0]), rel=1e-5)
    order = prior.argsort()
    assert (weights[order].diff() <= 1e-7).all(), "the rarer, the heavier"
    assert bool((weights == weights[0]).all()) == (share == 1.0)


def test_the_prior_is_a_smoothed_histogram() -> None:
    colours = torch.cat([torch.zeros(30, 2), torch.tensor([[40.0, 40.0]]).expand(10, -1)])
    prior = smoothed_prior(colours, 5.0)
    expected = np.zeros(len(BINS))
    for centre, share in (((0.0, 0.0), 0.75), ((40.0, 40.0), 0.25)):
        kernel = np.exp(-((BINS.numpy() - np.array(centre)) ** 2).sum(1) / 50)
        expected += share * kernel / kernel.sum()
    assert prior.numpy() == pytest.approx(expected, abs=1e-9)
    assert float(prior.sum()) == pytest.approx(1)
