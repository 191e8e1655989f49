"""The 3 x 3 grid of tiles that patch tasks cut, and what is done to a tile before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.errors import SpecError
from ssl_bench.transforms.geometry import cut_windows, integers

MIN_GRID_SIZE = 30  # cells of 10 px, tiles of 8
GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Grid:
    """Geometry of the grid in pixels: nine cells side by side,
    in each one tile at a random offset of 0..cell - tile."""

    cell: int
    tile: int

    @property
    def jitter(self) -> int:
        """Largest offset of a tile in its cell; also the mean gap between two neighbouring tiles."""
        return self.cell - self.tile


def grid_of(size: int, share: float = 0.75) -> Grid:
    """The grid for images of ``size`` pixels: cells of a third of the side, tiles of ``share`` of a cell, rounded.

    255 px: 85 / 64 / 0..21; 96 px: 32 / 24 / 0..8; 32 px: 10 / 8 / 0..2, in a random window of 30 x 30.

    Raises
    ------
    SpecError : images too small for tiles that show anything.
    """
    cell = size // 3
    grid = Grid(cell, int(share * cell + 0.5))
    if size < MIN_GRID_SIZE or not 0 < grid.tile < cell:
        needed = f"images of at least {MIN_GRID_SIZE} px and tiles smaller than their cells"
        raise SpecError(f"a 3 x 3 grid of tiles needs {needed}; got {size} px and tiles of {share:g} of a cell")
    return grid


def draw_tiles(count: int, size: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Top and left pixel of every image's nine tiles, int64 [count, 9] each, row by row: one random window an image,
    one offset a tile."""
    window = integers(torch.full((2, count, 1), size - 3 * grid.cell + 1))
    cells = torch.stack([torch.arange(9) // 3, torch.arange(9) % 3])[:, None] * grid.cell
    corner = window + cells + integers(torch.full((2, count, 9), grid.jitter + 1))
    return corner[0], corner[1]


def random_tiles(images: Tensor, share: float = 0.75) -> Tensor:
    """The nine jittered tiles of every image's grid.

    Parameters
    ----------
    images : float [B, C, S, S].
    share : side of a tile as a share of its cell.

    Returns
    -------
    float [B, 9, C, t, t], row by row of the grid; number 4 is the centre. Tiles never overlap.

    Raises
    ------
    SpecError : images too small, or not square.
    """
    if images.shape[2] != images.shape[3]:
        raise SpecError(f"random_tiles: images of {images.shape[2]} x {images.shape[3]} px are not square")
    grid = grid_of(images.shape[3], share)
    top, left = draw_tiles(len(images), images.shape[3], grid)
    return cut_windows(images, top, left, grid.tile, grid.tile)


def standardise(images: Tensor) -> Tensor:
    """Subtract every image's mean and divide by its standard deviation, over all channels and pixels.

    The deviation counts as at least one grey level (1/255), so a flat tile becomes zeros and no rounding is blown up to
    noise.

    Parameters
    ----------
    images : float [N, C, H, W] in [0, 1].
    """
    std, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return (images - mean).div_(std.clamp(min=GREY_LEVEL))
