"""Corruptions for denoising, drawn per image and per pixel.

Nothing is clipped: a clipped value would tell where noise was large.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_noise(images: Tensor, sigma: float, std: Tensor | float = 1.0) -> Tensor:
    """Add independent Gaussian noise to every value.

    Parameters
    ----------
    images : float [B, C, H, W].
    sigma : deviation of the noise in units of ``std``.
    std : what counts as one unit, a number or a tensor that broadcasts to the images ([1, C, 1, 1]: the data set's
        deviation per channel, which makes this noise of deviation ``sigma`` on standardised pixels).

    Returns
    -------
    float [B, C, H, W]; leaves [0, 1].
    """
    count, channels, height, width = images.shape
    # Drawn as channels-last memory: torch fills plain memory ten times faster than a tensor with strides.
    noise = torch.randn(count, height, width, channels, dtype=images.dtype, device=images.device).permute(0, 3, 1, 2)
    return images + noise * (sigma * std)


def mask_noise(images: Tensor, p: float, fill: Tensor | float = 0.0) -> Tensor:
    """Replace pixels, all channels together, by ``fill``, each with probability ``p``.

    Kept pixels stay as they are: dropout's factor 1 / (1 - p) would change their colour. Masking channels apart would
    leave each to be read off the others.

    Parameters
    ----------
    images : float [B, C, H, W].
    p : share of the pixels masked, in [0, 1].
    fill : value of a masked pixel, a number or a tensor that broadcasts to the images ([1, C, 1, 1]: the data set's
        mean, which is zero once standardised).

    Returns
    -------
    float [B, C, H, W].
    """
    masked = torch.rand(len(images), 1, *images.shape[2:], device=images.device) < p
    return torch.where(masked, torch.as_tensor(fill, dtype=images.dtype, device=images.device), images)
