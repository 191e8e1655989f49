"""CIE L*a*b* (sRGB primaries and transfer curve, white point D65, 2-degree observer) for whole batches.

Agrees with scikit-image's ``rgb2lab`` to 1e-3, as Kornia's ``rgb_to_lab`` does. It is written out here because
``lightness`` is computed in every forward pass of a backbone that is blind to colour: one luminance instead of three
XYZ channels, and powers by way of logarithms, take about a third of the time that Kornia needs for all of Lab.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to XYZ (IEC 61966-2-1), rows divided by the D65 white point, so that white is (1, 1, 1).
_TO_XYZ = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
_EPSILON = 0.008856  # below it the cube root becomes a line: (6/29)^3, rounded as scikit-image and OpenCV do


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB to CIE Lab.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1]; a uint8 image has to be divided by 255 first.

    Returns
    -------
    Tensor
        [B, 3, H, W]: L in 0..100, a in about -87..99, b in about -108..95.

    Raises
    ------
    TypeError : integer pixels, whose 0..255 would silently be taken for [0, 1].
    """
    red, green, blue = _linear(images).unbind(1)
    x, y, z = (_root(red * r + green * g + blue * b) for r, g, b in _TO_XYZ)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lightness(images: Tensor) -> Tensor:
    """CIE lightness L, 0..100, [B, 1, H, W], of sRGB images, float [B, 3, H, W] in [0, 1]."""
    red, green, blue = _linear(images).split(1, dim=1)
    r, g, b = _TO_XYZ[1]
    return 116 * _root(red * r + green * g + blue * b) - 16


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIE Lab to sRGB, both [B, 3, H, W]; colours outside the sRGB gamut are clipped to [0, 1]."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    roots = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(roots > _EPSILON ** (1 / 3), roots**3, (roots - 16 / 116) / 7.787)
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).tolist()
    linear = torch.stack([sum(weight * xyz[:, i] for i, weight in enumerate(row)) for row in inverse], dim=1).clamp_min(
        0
    )
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-4) ** (1 / 2.4) - 0.055, 12.92 * linear).clamp(
        0, 1
    )


def _linear(images: Tensor) -> Tensor:
    """sRGB's transfer curve undone."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], not {images.dtype}; divide uint8 pixels by 255")
    curve = ((images.clamp_min(0.04) + 0.055) / 1.055).log().mul(2.4).exp()
    return torch.where(images > 0.04045, curve, images / 12.92)


def _root(t: Tensor) -> Tensor:
    """Lab's cube root with its linear foot (the clamp keeps the branch not taken finite, in the gradient too)."""
    return torch.where(t > _EPSILON, t.clamp_min(1e-3).log().div(3).exp(), 7.787 * t + 16 / 116)
