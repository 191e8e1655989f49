"""Colour distortion of whole batches, drawn per image: exact, in torchvision's sense of every operation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_bench.errors import SpecError
from ssl_bench.transforms.geometry import uniform

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)  # torchvision's and Pillow's weights of red, green, blue


@dataclass(frozen=True)
class JitterDraws:
    """What was drawn for every image; all on the CPU.

    Attributes
    ----------
    factors : float32 [B, 4]: of brightness, contrast, saturation (1 changes nothing) and the shift of hue (in turns, 0
        changes nothing).
    order : int64 [B, 4], which of the four comes first, second, third, last.
    apply : bool [B], which images are distorted at all.
    """

    factors: Tensor
    order: Tensor
    apply: Tensor


def draw_jitter(
    count: int, brightness: float, contrast: float, saturation: float, hue: float, p: float = 1.0
) -> JitterDraws:
    """Draw what torchvision's ColorJitter draws, for every image on its own.

    Parameters
    ----------
    count : number of images.
    brightness, contrast, saturation : factor from U(max(0, 1 - x), 1 + x).
    hue : shift from U(-hue, hue) turns, at most 0.5.
    p : probability that an image is distorted.

    Raises
    ------
    SpecError : a strength below 0, or a hue above 0.5.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation), ("hue", hue)):
        if value < 0 or (name == "hue" and value > 0.5):
            bounds = "from 0 to 0.5" if name == "hue" else "at least 0"
            raise SpecError(f"color_jitter: {name} must be {bounds}, got {value}")
    scales = [uniform(max(0.0, 1 - value), 1 + value, count) for value in (brightness, contrast, saturation)]
    factors = torch.stack([*scales, uniform(-hue, hue, count)], 1).float()
    return JitterDraws(factors, uniform(0, 1, count, 4).argsort(1), uniform(0, 1, count) < p)


def color_jitter(
    images: Tensor, brightness: float, contrast: float, saturation: float, hue: float, p: float = 1.0
) -> Tensor:
    """Distort brightness, contrast, saturation and hue of every image in an order of its own.

    As torchvision's ColorJitter inside RandomApply(p): brightness multiplies, contrast blends with the image's mean
    grey, saturation with its grey version, hue turns in HSV; the result of each is clamped to [0, 1].

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1].
    brightness, contrast, saturation, hue, p : see ``draw_jitter``. SimCLR (Chen et al., 2020): 0.8 s, 0.8 s, 0.8 s, 0.2
        s and 0.8.

    Returns
    -------
    float [B, 3, H, W] in [0, 1].
    """
    return apply_jitter(images, draw_jitter(len(images), brightness, contrast, saturation, hue, p))


def apply_jitter(images: Tensor, jitter: JitterDraws) -> Tensor:
    """The distortion that ``jitter`` describes. Pure: equal input, equal output."""
    turn = (jitter.order == HUE).long().argmax(1)
    chosen = jitter.apply.nonzero()[:, 0]
    chosen = chosen[turn[chosen].argsort(stable=True)]  # by the turn at which hue comes: each turn then works on slices
    ends = torch.bincount(turn[chosen], minlength=4).cumsum(0).tolist()
    factors, order = jitter.factors[chosen], jitter.order[chosen]
    index = chosen.to(images.device)
    x = images.contiguous().index_select(0, index)
    device_factors = factors.to(images.device)
    for at, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        operation = order[:, at]
        factor = factors.gather(1, operation[:, None])[:, 0]
        blend = torch.stack([factor, (operation == CONTRAST).float(), (operation == SATURATION).float()]).to(
            images.device
        )
        for part in (slice(0, start), slice(end, len(chosen))):
            if part.start < part.stop:
                _blend_(x[part], *blend[:, part])
        if start < end:
            _shift_hue_(x[start:end], device_factors[start:end, HUE])
    return images.contiguous().index_copy(0, index, x)


def random_grayscale(images: Tensor, p: float = 0.2) -> Tensor:
    """Make every image grey with probability ``p``; three equal channels stay.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1].
    p : probability, drawn per image.
    """
    chosen = (uniform(0, 1, len(images)) < p).nonzero()[:, 0].to(images.device)
    return images.index_copy(0, chosen, grayscale(images.index_select(0, chosen)).expand(-1, 3, -1, -1))


def grayscale(images: Tensor) -> Tensor:
    """Luma of RGB images, float [B, 3, H, W] to [B, 1, H, W]."""
    red, green, blue = images.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])[:, None]


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of every image, in HSV.

    Parameters
    ----------
    images : float [B, 3, H, W] in [0, 1].
    shift : float [B] in [-0.5, 0.5], in turns of the colour circle.
    """
    return _shift_hue_(images.clone(memory_format=torch.contiguous_format), shift)


def _blend_(x: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> None:
    """Brightness, contrast and saturation are one blend, factor x + (1 - factor) ref: ref is black, the mean grey or
    the grey image."""
    column = (-1, 1, 1, 1)
    grey = grayscale(x)
    mean = grey.mean((2, 3), keepdim=True).mul_(contrast.view(column))
    reference = grey.mul_(saturation.view(column)).add_(mean)
    torch.lerp(reference.expand_as(x), x, factor.view(column), out=x).clamp_(0, 1)


def _shift_hue_(x: Tensor, shift: Tensor) -> Tensor:
    """Hue in sixths of a turn, then the closed form of HSV to RGB, in place: every channel is low + chroma *
    trapezium(hue)."""
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # weights 0 and 1 of lerp: as exact as where, and much faster
    from_red, from_green = high.eq(red).to(x.dtype), high.eq_(green)
    hue = (
        (red - green)
        .add_(chroma, alpha=4)
        .lerp_((blue - red).add_(chroma, alpha=2), from_green)
        .lerp_(green - blue, from_red)
    )
    hue.div_(chroma.clamp(min=torch.finfo(x.dtype).tiny))
    # positive before frac, because shift >= -0.5 and hue >= -1/6
    hue = hue.div_(6).add_((shift + 1).view(-1, 1, 1)).frac_().mul_(6)
    torch.sub(hue, 3, out=red).abs_().sub_(1).clamp_(0, 1)
    for channel, center in ((green, 2), (blue, 4)):
        torch.sub(hue, center, out=channel).abs_().neg_().add_(2).clamp_(0, 1)
    return x.mul_(chroma[:, None]).add_(low[:, None])
