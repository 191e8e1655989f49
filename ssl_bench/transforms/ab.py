"""The ab plane of CIE Lab in bins of 10 x 10: soft targets, prior, weights for rare colours.

(Zhang et al., 2016, arXiv:1603.08511)
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

# Cells of the ab plane (nearest multiple of 10) that sRGB reaches: a -> first and last b. From a sweep of the RGB
# cube's faces in 2,048 steps (1,024 give the same). The 313 bins of the paper are its released list of points, which no
# rule reproduces.
_GAMUT = {
    -90: (80, 80), -80: (40, 80), -70: (20, 90), -60: (0, 90), -50: (-20, 90), -40: (-30, 90), -30: (-40, 90),
    -20: (-40, 90), -10: (-50, 90), 0: (-60, 90), 10: (-70, 80), 20: (-80, 80), 30: (-80, 80), 40: (-90, 80),
    50: (-90, 70), 60: (-100, 70), 70: (-110, 70), 80: (-110, 70), 90: (-90, 0), 100: (-70, -50),
}  # fmt: skip
#: [Q, 2]
BINS = torch.tensor(
    [(a, b) for a, (low, high) in _GAMUT.items() for b in range(low, high + 1, 10)], dtype=torch.float32
)
NEIGHBOURS = 5  # bins that share a target
_LOW, _SIDE = -120, 241  # the table of nearest bins covers a and b in -120..120 in steps of 1
GREY = 5.0  # an image without any |a| or |b| above this counts as grey


class SoftEncoder(nn.Module):
    """Colours to shares of their five nearest bins.

    Which bins are nearest is looked up for the colour rounded to whole units, which is several times cheaper than
    sorting the distances to all; the shares follow from the colour itself.

    Parameters
    ----------
    sigma : of the Gaussian by which a share falls with distance, in ab units.
    """

    bins: Tensor
    nearest: Tensor

    def __init__(self, sigma: float = 5.0) -> None:
        super().__init__()
        self.sigma = sigma
        self.register_buffer("bins", BINS.clone(), persistent=False)
        self.register_buffer("nearest", nearest_bins().clone(), persistent=False)

    def forward(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Float [..., 2] to rows of ``BINS``, int64 [..., 5], and their shares, float [..., 5], which sum to one."""
        index = self.nearest[_table_row(ab)]
        squared = (self.bins[index] - ab[..., None, :]).square().sum(-1)
        return index, torch.softmax(-squared / (2 * self.sigma**2), dim=-1)


def is_coloured(ab: Tensor) -> Tensor:
    """bool [B]: does any pixel of ab [B, 2, H, W] lie more than 5 from grey in a or b?"""
    return ab.abs().amax((1, 2, 3)) > GREY


@lru_cache(maxsize=1)
def nearest_bins() -> Tensor:
    """The five nearest bins, nearest first, of every whole-numbered colour with a and b in -120..120: int64 [241 * 241,
    5], a by a."""
    axis = torch.arange(_SIDE, dtype=torch.float32) + _LOW
    rows = [
        torch.cdist(torch.cartesian_prod(axis[i : i + 1], axis), BINS).topk(NEIGHBOURS, largest=False).indices
        for i in range(_SIDE)
    ]
    return torch.cat(rows)


def _table_row(ab: Tensor) -> Tensor:
    cell = (ab.round().long() - _LOW).clamp(0, _SIDE - 1)
    return cell[..., 0] * _SIDE + cell[..., 1]


def smoothed_prior(colours: Tensor, sigma: float) -> Tensor:
    """How often each bin occurs among colours [N, 2], spread over bins by a Gaussian; float64 [Q], sums to one."""
    counts = torch.bincount(nearest_bins()[_table_row(colours), 0], minlength=len(BINS)).double()
    kernel = torch.softmax(-torch.cdist(BINS.double(), BINS.double()).square() / (2 * sigma**2), dim=1)
    return (counts / counts.sum()) @ kernel


def rebalancing_weights(prior: Tensor, share: float) -> Tensor:
    """Weights [Q] inverse to the prior mixed with a uniform part of ``share``; their mean under the prior is one.

    Float32.
    """
    weights = 1 / ((1 - share) * prior + share / len(prior))
    return (weights / (prior * weights).sum()).float()
