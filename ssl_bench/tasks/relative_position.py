"""Relative position: where does one tile lie, seen from another? (Doersch, Gupta, Efros, 2015, arXiv:1505.05192)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batch
from ssl_bench.errors import DataError
from ssl_bench.spec.model import MOST_WIDE
from ssl_bench.spec.recipe import Recipe
from ssl_bench.tasks.base import PretextTask, Setup, TaskOptions
from ssl_bench.tasks.parts.recipes import revisited
from ssl_bench.transforms import random_flip, random_grayscale, random_tiles, standardise
from ssl_bench.transforms.tiles import MIN_GRID_SIZE, grid_of

CENTRE = 4
# numbers in the 3 x 3 grid, row by row; class i is NEIGHBOURS[i] and its opposite is class 7 - i
NEIGHBOURS = (0, 1, 2, 3, 5, 6, 7, 8)
ENLARGED_BELOW = 16  # px


class RelativePosition(PretextTask):
    """Predict on which of eight sides of the centre tile another tile of the image lies (Doersch et al., 2015).

    Geometry and training follow Kolesnikov et al. (2019): a 3 x 3 grid, one jittered tile a cell, all eight pairs with
    the centre. Every tile is standardised over its pixels and channels, so that brightness and contrast do not link
    neighbours. Tiles under 16 px are enlarged twofold; the trunk is the one that every task trains.
    """

    name = "relative_position"
    paper = (
        "Doersch, Gupta, Efros: Unsupervised Visual Representation Learning by Context Prediction, "
        "2015, arXiv:1505.05192"
    )
    short_learning_rate = 3e-3
    reads_borders = True
    min_image_size = MIN_GRID_SIZE

    class Options(TaskOptions):
        """Options of ``relative_position``."""

        #: share of images made grey: colour fringes of a lens give the absolute position away
        gray: float = Field(default=0.66, ge=0, le=1)
        #: side of a tile as a share of its cell; the rest is gap and jitter
        tile: float = Field(default=0.75, gt=0, lt=1)
        flip: bool = True  #: mirror whole images at random, before tiles are cut
        both_orders: bool = True  #: ask for every pair twice, where the neighbour lies and where the centre lies
        hidden: int = Field(default=1024, ge=1, le=MOST_WIDE)  #: width of the head

    def __init__(self, backbone: nn.Module, options: Options, setup: Setup) -> None:
        super().__init__(backbone, options, setup)
        self.grid = grid_of(setup.image_size, options.tile)
        self.head = nn.Sequential(
            nn.Linear(2 * self.backbone.num_features, options.hidden, bias=False),
            nn.BatchNorm1d(options.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(options.hidden, 8),
        )

    @classmethod
    def network_input(cls, options: Any) -> str:
        """Every image standardised, as the tiles are that it learns from."""
        return "standardised"

    @classmethod
    def check(cls, options: Any, images: Any) -> None:
        if images.size < MIN_GRID_SIZE:
            raise DataError(
                f"{images.name} has images of {images.size} px; the 3 x 3 grid of tiles needs at least {MIN_GRID_SIZE}"
            )
        grid_of(images.size, options.tile)

    def views(self, batch: Batch) -> Tensor:
        """Nine standardised tiles of every image, float [B, 9, 3, t, t]."""
        images = random_flip(batch.images) if self.options.flip else batch.images
        tiles = random_tiles(random_grayscale(images, self.options.gray), self.options.tile).flatten(0, 1)
        if tiles.shape[-1] < ENLARGED_BELOW:
            tiles = F.interpolate(tiles, scale_factor=2, mode="bilinear")
        return standardise(tiles).unflatten(0, (len(images), 9))

    def forward(self, views: Tensor, phase: str = "main") -> dict[str, Tensor]:
        """Cross-entropy over the eight sides, and top-1 accuracy.

        One pass through the trunk for the tiles of all images.
        """
        tiles = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.backbone.trunk(tiles).unflatten(0, (len(views), 9))
        neighbours = features[:, NEIGHBOURS]
        centre = features[:, CENTRE, None].expand_as(neighbours)
        pairs = torch.cat([neighbours, centre], 2)  # where the first lies, seen from the second
        side = torch.arange(8, device=views.device).expand(len(views), 8)
        if self.options.both_orders:
            pairs, side = torch.cat([pairs, torch.cat([centre, neighbours], 2)]), torch.cat([side, 7 - side])
        logits, side = self.head(pairs.flatten(0, 1)), side.flatten()
        return {"loss": F.cross_entropy(logits, side), "accuracy": (logits.argmax(1) == side).float().mean()}

    @classmethod
    def paper_recipe(cls, options: Any, image_size: int) -> Recipe:
        """Up to 96 px SGD with a cosine; above, Kolesnikov et al.'s steps (35 epochs, 5 of warm-up)."""
        return revisited(image_size)

    def chance_loss(self) -> float:
        return math.log(8)

    def chance_accuracy(self) -> float:
        return 0.125

    def describe(self) -> Mapping[str, Any]:
        """The geometry, and that a tile is seen at another scale than the whole images that are judged."""
        seen = 2 * self.grid.tile if self.grid.tile < ENLARGED_BELOW else self.grid.tile
        geometry = {"cell_px": self.grid.cell, "tile_px": self.grid.tile, "jitter_px": self.grid.jitter}
        return {**geometry, "tile_px_seen": seen, "scale_of_tiles": seen / self.grid.tile}

    @torch.no_grad()
    def preview(self, batch: Batch) -> Mapping[str, Tensor]:
        """The images, their tiles as the trunk sees them (grey is a tile's mean), and the eight where they are said to
        lie."""
        views = self.views(batch)
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.backbone.trunk(flat).unflatten(0, (len(views), 9))
        centre = features[:, CENTRE, None].expand(-1, 8, -1)
        sides = self.head(torch.cat([features[:, NEIGHBOURS], centre], 2).flatten(0, 1)).argmax(1).view(-1, 8)
        tiles = views.mul(0.25).add(0.5).clamp(0, 1)
        placed = torch.full_like(tiles, 0.9)  # where no tile is said to lie
        placed[:, CENTRE] = tiles[:, CENTRE]
        for number, place in enumerate(NEIGHBOURS):
            answer = torch.tensor(NEIGHBOURS, device=views.device)[sides[:, number]]
            placed[torch.arange(len(views)), answer] = tiles[:, place]
        return {
            "images": batch.images,
            "sees: tiles with gaps; is asked: on which side of the centre does each lie?": in_grid(tiles),
            "answers: each tile where it is said to lie": in_grid(placed),
        }


def in_grid(tiles: Tensor) -> Tensor:
    """Nine tiles of every image, [B, 9, C, t, t], side by side with a light line between: [B, C, 3 t + 6, 3 t + 6]."""
    side = tiles.shape[-1] + 2
    padded = F.pad(tiles, (1, 1, 1, 1), value=1.0).unflatten(1, (3, 3)).permute(0, 3, 1, 4, 2, 5)
    return padded.reshape(len(tiles), -1, 3 * side, 3 * side)
