"""What can be said of a representation without labels: its rank, its spectrum, how it spreads."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DEAD = 1e-5  # deviation of a dimension, relative to the features' root mean square
FIRST_RANK, LAST_RANK = 4, 100  # of the eigenvalues that a power law is fitted to
FEWEST_RANKS = 3  # that show a slope
NO_VARIANCE = 1e-12  # an eigenvalue, as a share of the largest, that rounding may have left


def rankme(z: Tensor, epsilon: float = 1e-7) -> float:
    """exp of the entropy of the normalised singular values of features [N, D], not centred; between 1 and min(N, D).

    As in Garrido et al. (2023), epsilon is added to every share. 1.0 for features that are all zero.
    """
    sigma = torch.linalg.svdvals(z.double())
    total = float(sigma.sum())
    if total == 0:
        return 1.0
    p = sigma / total + epsilon
    return float(torch.exp(-(p * p.log()).sum()))


def alpha_req(z: Tensor) -> float:
    """Exponent a of the power law n^-a that the eigenvalues of the covariance of features [N, D] follow (Agrawal et
    al., 2022, who find good features where it is near 1).

    The paper gives neither range nor weights. As in the authors' code: eigenvalues 4 to 100, least squares of the
    logarithms, weighted by 1 / rank. nan where fewer than three of these are above rounding.
    """
    centred = z.double() - z.double().mean(0)
    eigenvalues = torch.linalg.svdvals(centred).square()
    above = eigenvalues > NO_VARIANCE * eigenvalues.max().clamp_min(1e-300)
    ranks = torch.arange(1, len(eigenvalues) + 1, device=z.device, dtype=torch.float64)
    used = above & (ranks >= FIRST_RANK) & (ranks <= LAST_RANK)
    if int(used.sum()) < FEWEST_RANKS:
        return math.nan
    x, y, weights = ranks[used].log(), eigenvalues[used].log(), 1 / ranks[used]
    weights = weights / weights.sum()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return -float((weights * x * y).sum() / (weights * x * x).sum())


def dead_dimensions(z: Tensor) -> float:
    """Share of the dimensions of features [N, D] that do not move from image to image."""
    size = float(z.double().square().mean().sqrt())
    return float((z.double().std(0, correction=0) <= DEAD * size).double().mean())


def alignment(z: Tensor, other: Tensor) -> float:
    """Mean squared distance of the L2-normalised features [N, D] of two views of the same images (Wang & Isola, 2020,
    alpha = 2); from 0, the best, to 4."""
    return float((F.normalize(z.double(), dim=1) - F.normalize(other.double(), dim=1)).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """log of the mean of exp(-2 d^2) over pairs of different images, d being the distance of their L2-normalised
    features [N, D] (Wang & Isola, 2020, t = 2); from -8 to 0, where all images look alike.

    Raises ValueError for fewer than two images.
    """
    if len(z) < 2:
        raise ValueError(f"uniformity needs at least 2 images (got {len(z)})")
    u = F.normalize(z.double(), dim=1)
    return float(torch.pdist(u).square().mul(-2).exp().mean().log())
