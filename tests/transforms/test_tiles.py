"""The grid of tiles: where tiles lie, how far apart, and what standardising leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ssl_bench.errors import SpecError
from ssl_bench.transforms import random_tiles, standardise
from ssl_bench.transforms.tiles import draw_tiles, grid_of


@pytest.mark.parametrize(
    ("size", "cell", "tile", "jitter"),
    [(255, 85, 64, 21), (96, 32, 24, 8), (32, 10, 8, 2), (30, 10, 8, 2), (64, 21, 16, 5)],
)
def test_geometry_of_the_method_card(size, cell, tile, jitter) -> None:
    grid = grid_of(size)
    assert (grid.cell, grid.tile, grid.jitter) == (cell, tile, jitter)


def coordinates(count: int, size: int) -> Tensor:
    """Images whose first two channels hold row and column."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([rows, columns, torch.zeros(size, size)]).float().expand(count, -1, -1, -1)


@given(size=st.integers(30, 120), share=st.floats(0.5, 0.9), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_tiles_stay_in_their_cells_and_never_overlap(size, share, seed) -> None:
    torch.manual_seed(seed)
    grid = grid_of(size, share)
    tiles = random_tiles(coordinates(8, size), share)
    assert tiles.shape == (8, 9, 3, grid.tile, grid.tile)
    first, last = tiles[:, :, :2, 0, 0], tiles[:, :, :2, -1, -1]  # [B, 9, 2] row and column, as planted in the pixels
    assert (last - first == grid.tile - 1).all() and (first >= 0).all() and (last < size).all()
    cell = torch.stack([torch.arange(9) // 3, torch.arange(9) % 3], 1) * grid.cell
    offset = first - cell  # window + offset in the cell
    assert (offset.amax(1) - offset.amin(1) <= grid.jitter).all()
    for a in range(9):
        for b in range(a):
            assert ((first[:, a] > last[:, b]) | (last[:, a] < first[:, b])).any(1).all()


def test_every_offset_is_drawn_equally_often_and_per_tile() -> None:
    torch.manual_seed(0)
    grid = grid_of(30)
    top, left = draw_tiles(3_000, 30, grid)
    cell = torch.arange(9) // 3 * 10
    counts = torch.stack([torch.bincount((top - cell)[:, n], minlength=3) for n in range(9)])
    assert counts.shape == (9, 3) and stats.chisquare(counts.numpy(), axis=1).pvalue.min() > 1e-4
    together = torch.corrcoef(torch.cat([top - cell, left - torch.arange(9) % 3 * 10], 1).T.double()) - torch.eye(18)
    assert together.abs().max() < 0.1, "offsets of tiles depend on each other"


def test_window_of_30_in_32_is_drawn_per_image() -> None:
    torch.manual_seed(0)
    top, _ = draw_tiles(4_000, 32, grid_of(32))
    corner = top[:, 0]  # sum of two uniform draws over 0..2
    observed = torch.bincount(corner, minlength=5).numpy()
    assert stats.chisquare(observed, 4_000 * torch.tensor([1, 2, 3, 2, 1]).numpy() / 9).pvalue > 1e-3


def test_standardised_tiles_tell_nothing_of_brightness_and_contrast() -> None:
    tiles = torch.rand(10, 3, 8, 8)
    found = standardise(tiles)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.square().mean((1, 2, 3)), torch.ones(10), atol=1e-5, rtol=0)
    scaled = tiles * torch.linspace(0.2, 1, 10).view(-1, 1, 1, 1) + torch.linspace(0.3, -0.1, 10).view(-1, 1, 1, 1)
    torch.testing.assert_close(standardise(scaled), found, atol=1e-4, rtol=0)


def test_flat_tiles_become_zero_and_rounding_is_not_blown_up() -> None:
    flat = torch.full((2, 3, 8, 8), 0.3)
    flat[1] += 1e-6 * torch.rand(3, 8, 8)
    assert standardise(flat).abs().max() < 1e-3


@pytest.mark.parametrize(("size", "share"), [(29, 0.75), (32, 0.99), (96, 1.2)])
def test_impossible_grids_are_refused(size, share) -> None:
    with pytest.raises(SpecError, match="at least 30 px and tiles smaller than their cells"):
        random_tiles(torch.rand(1, 3, size, size), share)
