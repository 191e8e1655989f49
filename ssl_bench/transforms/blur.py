"""Gaussian blur of whole batches, its width drawn per image."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.errors import SpecError
from ssl_bench.transforms.geometry import apply_separable, uniform


def blur_kernel_size(side: int) -> int:
    """SimCLR's kernel: a tenth of the side, odd (23 at 224 px, 9 at 96 px), and 3 where that would be a single pixel,
    which blurs nothing."""
    return max(3, 2 * (side // 20) + 1)


def gaussian_blur(
    images: Tensor, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, kernel_size: int | None = None
) -> Tensor:
    """Blur every image with probability ``p`` by a Gaussian of its own width (SimCLR: Chen et al., 2020).

    Parameters
    ----------
    images : float [B, C, H, W] in [0, 1].
    sigma : range of the standard deviation, in pixels, uniform.
    p : probability, drawn per image.
    kernel_size : odd number of taps; None: a tenth of the side, 3 at least.

    Raises
    ------
    SpecError : a kernel that is even, or reaches beyond the mirrored image.
    """
    widths = uniform(*sigma, len(images)).float()
    chosen = (uniform(0, 1, len(images)) < p).nonzero()[:, 0]
    index = chosen.to(images.device)
    blurred = blur(images.index_select(0, index), widths[chosen], kernel_size or blur_kernel_size(images.shape[2]))
    return images.index_copy(0, index, blurred)


def blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur images in [0, 1], each by the Gaussian of its ``sigma`` [B] in pixels, borders mirrored; as torchvision does
    image by image."""
    sides = images.shape[2:]
    if kernel_size < 1 or kernel_size % 2 == 0 or kernel_size // 2 >= min(sides):
        raise SpecError(
            f"gaussian_blur: kernel_size must be odd, from 1 to {2 * min(sides) - 1} for images of "
            f"{sides[0]} x {sides[1]} px, got {kernel_size}"
        )
    reach = torch.arange(kernel_size, device=images.device, dtype=images.dtype) - kernel_size // 2
    weights = torch.softmax(-0.5 * (reach / sigma.to(images)[:, None]).square(), 1)  # [B, taps]
    rows, columns = (_mirrored_toeplitz(weights, side) for side in sides)
    return apply_separable(images, rows, columns).clamp_(0, 1)


def _mirrored_toeplitz(weights: Tensor, side: int) -> Tensor:
    """The convolution along one axis as a matrix [B, side, side]; taps beyond the border fall on the mirrored pixel."""
    count, taps = weights.shape
    pixel = torch.arange(side, device=weights.device)
    source = (pixel[:, None] + torch.arange(taps, device=weights.device) - taps // 2).abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)  # [side, taps]
    matrix = torch.zeros(count, side, side, device=weights.device, dtype=weights.dtype)
    return matrix.scatter_add_(2, source.expand(count, -1, -1), weights[:, None, :].expand(-1, side, -1))
