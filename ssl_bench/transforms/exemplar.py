"""The distortions of exemplar networks (Dosovitskiy et al., 2014, arXiv:1406.6909), whole batches, drawn per image."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.transforms.geometry import uniform


def random_affine(
    images: Tensor, shift: float = 0.2, scale: tuple[float, float] = (0.7, 1.4), degrees: float = 20.0
) -> Tensor:
    """Move, scale and turn every image about its centre, with bilinear sampling; what comes from outside is mirrored
    in.

    Parameters
    ----------
    images : float [B, C, H, W].
    shift : largest move along each axis, as a share of the side.
    scale : range of the factor by which an image is enlarged, uniform in its logarithm.
    degrees : largest turn to either side.
    """
    count = len(images)
    size = uniform(math.log(scale[0]), math.log(scale[1]), count).exp()
    angle = uniform(-math.radians(degrees), math.radians(degrees), count)
    move = uniform(-2 * shift, 2 * shift, count, 2)  # grid coordinates span two units
    cosine, sine = angle.cos() / size, angle.sin() / size
    matrix = torch.stack([torch.stack([cosine, -sine, move[:, 0]], 1), torch.stack([sine, cosine, move[:, 1]], 1)], 1)
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def principal_colours(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [3] and principal axes [3, 3] (a column an axis) of the pixels of images that come in parts, float [N, 3, H,
    W] each."""
    count, total, products = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for images in parts:
        pixels = images.transpose(0, 1).flatten(1).double()
        count, total, products = count + pixels.shape[1], total + pixels.sum(1), products + pixels @ pixels.T
    mean = total / count
    _, axes = torch.linalg.eigh(products / count - mean[:, None] * mean)
    return mean.float(), axes.float()


def random_contrast_of_components(
    images: Tensor, mean: Tensor, axes: Tensor, low: float = 0.5, high: float = 2.0
) -> Tensor:
    """Scale each image's colours along the principal axes of all pixels, by a factor drawn per image and axis.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1].
    mean, axes : of ``principal_colours``.
    low, high : range of the factors.

    Returns
    -------
    float [B, 3, H, W], clamped to [0, 1].
    """
    factors = uniform(low, high, len(images), 3).to(images)
    change = (axes * factors[:, None]) @ axes.T  # [B, 3, 3]
    centre = mean.view(-1, 1)
    return (change @ (images.flatten(2) - centre) + centre).clamp(0, 1).view(images.shape)


def random_hsv_power(
    images: Tensor,
    power: tuple[float, float] = (0.25, 4.0),
    factor: tuple[float, float] = (0.7, 1.4),
    offset: float = 0.1,
    hue: float = 0.1,
) -> Tensor:
    """Raise saturation and value to a power, multiply and shift them, and turn the hue, all drawn per image.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1]; powers of standardised or negative pixels would not be numbers.
    power, factor : ranges, for saturation and value apart; the power uniform in its logarithm, half of it below 1.
    offset : largest addition to saturation and value.
    hue : largest turn of the hue, in turns of the colour circle.

    Returns
    -------
    float [B, 3, H, W] in [0, 1].
    """
    count, column = len(images), (-1, 1, 1)
    hsv = rgb_to_hsv(images)
    powers = uniform(math.log(power[0]), math.log(power[1]), count, 2).exp().to(images)
    factors, offsets = uniform(*factor, count, 2).to(images), uniform(-offset, offset, count, 2).to(images)
    turned = (hsv[:, 0] + uniform(-hue, hue, count).to(images).view(column)).remainder(1.0)
    changed = [
        (hsv[:, 1 + k].pow(powers[:, k].view(column)) * factors[:, k].view(column) + offsets[:, k].view(column)).clamp(
            0, 1
        )
        for k in (0, 1)
    ]
    return hsv_to_rgb(torch.stack([turned, *changed], 1))


def rgb_to_hsv(images: Tensor) -> Tensor:
    """Hue (in turns, 0 to below 1), saturation and value of RGB in [0, 1]; float [B, 3, H, W] both.

    Grey has hue and saturation 0.
    """
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    safe = chroma.clamp(min=torch.finfo(images.dtype).tiny)
    sixth = torch.where(
        high == red,
        ((green - blue) / safe).remainder(6.0),
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    grey = chroma == 0
    hue = torch.where(grey, torch.zeros_like(sixth), sixth / 6).remainder(1.0)
    saturation = torch.where(grey, torch.zeros_like(chroma), chroma / high.clamp(min=torch.finfo(images.dtype).tiny))
    return torch.stack([hue, saturation, high], 1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    """RGB in [0, 1] of hue (in turns), saturation and value; float [B, 3, H, W] both."""
    hue, saturation, value = images.unbind(1)
    chroma = saturation * value
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = (hue * 6 + offset).remainder(6.0)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)
