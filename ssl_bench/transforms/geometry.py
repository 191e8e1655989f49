"""Crops, flips and turns of whole batches, drawn per image.

What is drawn is a few numbers an image; they come from torch's CPU generator whatever the device, so that the same seed
gives the same views everywhere and no device has to be waited for.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_bench.errors import SpecError

Interpolation = Literal["bilinear", "bicubic"]


def uniform(low: float, high: float, *shape: int) -> Tensor:
    """Draws from U(low, high) on the CPU, float64 ``shape``; never equal to ``high`` once scaled to a whole-number
    range."""
    return torch.rand(shape, dtype=torch.float64).mul_(high - low).add_(low)


def integers(limits: Tensor) -> Tensor:
    """Draws uniform over 0..limit-1 for every limit, int64 in the shape of ``limits``."""
    return (torch.rand(limits.shape, dtype=torch.float64) * limits).long()


def random_flip(images: Tensor, p: float = 0.5) -> Tensor:
    """Mirror every image left to right with probability ``p``.

    Parameters
    ----------
    images : float [B, C, H, W].
    p : probability, drawn per image.
    """
    chosen = (uniform(0, 1, len(images)) < p).nonzero()[:, 0].to(images.device)
    pixels = images.permute(0, 2, 3, 1)
    return pixels.index_copy(0, chosen, pixels.index_select(0, chosen).flip(2)).permute(0, 3, 1, 2)


def random_crop(
    images: Tensor, pad: int = 4, size: int | None = None, mode: Literal["zeros", "reflect"] = "zeros"
) -> Tensor:
    """Cut a window out of every padded image, drawn per image.

    Parameters
    ----------
    images : float [B, C, H, W].
    pad : pixels added on every side before cutting; 0 for none.
    size : side of the window; None: the images' own height and width.
    mode : what the padding holds, "zeros" (black) or "reflect" (the image mirrored at its border).

    Returns
    -------
    float [B, C, size, size], channels-last.

    Raises
    ------
    SpecError : a window larger than the padded image, or a reflection longer than the image.
    """
    sides = images.shape[2:]
    if pad < 0 or (mode == "reflect" and pad >= min(sides)):
        raise SpecError(
            f"random_crop: pad must be from 0 to {min(sides) - 1} for images of {sides[0]} x {sides[1]} px, got {pad}"
        )
    for side in sides:
        if size is not None and not 0 < size <= side + 2 * pad:
            raise SpecError(
                f"random_crop: size must be from 1 to {side + 2 * pad} for images of {side} px with pad {pad}, got "
                f"{size}"
            )
    out = [size or side for side in sides]
    top, left = (
        integers(torch.full((len(images), 1), side + 2 * pad - length + 1))
        for side, length in zip(sides, out, strict=True)
    )
    padded = F.pad(images, (pad,) * 4, mode="constant" if mode == "zeros" else "reflect") if pad else images
    return cut_windows(padded, top, left, *out)[:, 0]


def cut_windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Windows of one size, N out of every image.

    Parameters
    ----------
    images : float [B, C, H, W].
    top, left : int64 [B, N], where each window begins, in pixels; it has to lie inside the image.
    height, width : of a window.

    Returns
    -------
    float [B, N, C, height, width]; every window is channels-last.
    """
    count, channels, image_height, image_width = images.shape
    pixels = images.permute(0, 2, 3, 1).contiguous()
    # A row of a window is one run of channels-last memory: all runs as an overlapping view, then one gather of whole
    # runs.
    runs = pixels.view(-1).unfold(0, width * channels, channels)
    first = (
        (torch.arange(count)[:, None] * image_height + top)[:, :, None] + torch.arange(height)
    ) * image_width + left[:, :, None]
    return runs[first.to(images.device)].view(count, -1, height, width, channels).permute(0, 1, 4, 2, 3)


def crop_boxes(
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Random boxes as Inception and SimCLR cut them: area and log aspect ratio uniform, ten tries, else the central
    crop.

    Parameters
    ----------
    count, height, width : how many boxes, and the size of the images they lie in, in pixels.
    scale : range of the box's area as a share of the image.
    ratio : range of width / height.

    Returns
    -------
    int64 [count, 4] on the CPU: top, left, height, width.
    """
    tries = 10
    area = uniform(*scale, count, tries) * (height * width)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), count, tries).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = torch.where(fits, torch.arange(tries), tries).amin(1)
    central_w, central_h = width, height
    if width / height < ratio[0]:
        central_h = round(width / ratio[0])
    elif width / height > ratio[1]:
        central_w = round(height * ratio[1])
    drawn = first < tries
    pick = first.clamp(max=tries - 1)[:, None]
    h = torch.where(drawn, h.gather(1, pick)[:, 0], central_h).long()
    w = torch.where(drawn, w.gather(1, pick)[:, 0], central_w).long()
    top = torch.where(drawn, integers(height - h + 1), (height - h) // 2)
    left = torch.where(drawn, integers(width - w + 1), (width - w) // 2)
    return torch.stack([top, left, h, w], 1)


def resized_crop(
    images: Tensor,
    boxes: Tensor,
    size: int | None = None,
    flip: Tensor | None = None,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut one box out of every image and resize it, antialiased, exactly as torchvision does image by image.

    Resizing is linear and separable, so each image needs one matrix for its rows and one for its columns; two batched
    products then do the whole batch, and mirroring is only the order of a matrix's rows.

    Parameters
    ----------
    images : float [B, C, H, W] in [0, 1].
    boxes : int64 [B, 4]: top, left, height, width, inside the image.
    size : side of the output in pixels; None: the images' own height and width.
    flip : bool [B], which outputs are mirrored left to right; None: none.
    interpolation : "bilinear", or "bicubic" (Keys, a = -0.5, which overshoots at edges).

    Returns
    -------
    float [B, C, size, size], clamped to [0, 1].
    """
    height, width = images.shape[2:]
    top, left, h, w = boxes.to(torch.float32).to(images.device).unbind(1)
    rows = _resize_matrix(top, h, height, size or height, interpolation)
    columns = _resize_matrix(
        left, w, width, size or width, interpolation, None if flip is None else flip.to(images.device)
    )
    return apply_separable(images, rows, columns).clamp_(0, 1)


def random_resized_crop(
    images: Tensor,
    size: int | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.0,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut a random box out of every image and resize it (Szegedy et al., 2015; as torchvision's RandomResizedCrop),
    drawn per image.

    Parameters
    ----------
    images : float [B, C, H, W] in [0, 1].
    size : side of the output; None: the images' own.
    scale, ratio : as in ``crop_boxes``.
    flip : probability of mirroring left to right, at no cost.
    interpolation : "bilinear" or "bicubic", both antialiased.

    Returns
    -------
    float [B, C, size, size].
    """
    boxes = crop_boxes(len(images), images.shape[2], images.shape[3], scale, ratio)
    mirrored = uniform(0, 1, len(images)) < flip if flip > 0 else None
    return resized_crop(images, boxes, size, mirrored, interpolation)


def rotate90(images: Tensor, turns: Tensor) -> Tensor:
    """Turn every image by its own number of quarter turns, counter-clockwise, by moving pixels only.

    Parameters
    ----------
    images : float [B, C, S, S].
    turns : int64 [B], any whole numbers.

    Raises
    ------
    SpecError : images that are not square.
    """
    _need_square(images, "rotate90")
    turns = turns.remainder(4)
    out = images.clone()
    for k in (1, 2, 3):
        chosen = (turns == k).nonzero()[:, 0].to(images.device)
        out[chosen] = images[chosen].rot90(k, (2, 3))
    return out


def quarter_turns(images: Tensor) -> Tensor:
    """All four quarter turns of every image, float [4 B, C, S, S]: all images as they are, then all by 90 degrees
    counter-clockwise, ..."""
    _need_square(images, "quarter_turns")
    return torch.cat([images.rot90(k, (2, 3)) for k in range(4)])


def apply_separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ image @ columns.T`` for every image and channel.

    Parameters
    ----------
    images : float [B, C, H, W].
    rows : float [B, h, H].
    columns : float [B, w, W].

    Returns
    -------
    float [B, C, h, w], contiguous.
    """
    count, channels, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):
        if images.is_contiguous(memory_format=torch.channels_last):
            # Channels-last memory is [B, H, W C]: rows mix without moving a byte, and one copy then makes planes for
            # the columns.
            mixed = torch.bmm(rows, images.permute(0, 2, 3, 1).reshape(count, height, width * channels))
            planes = mixed.view(count, -1, width, channels).permute(0, 3, 1, 2).reshape(count, -1, width)
            return torch.bmm(planes, columns.transpose(1, 2)).view(count, channels, rows.shape[1], columns.shape[1])
        mixed = torch.bmm(images.reshape(count, channels * height, width), columns.transpose(1, 2))
        return torch.matmul(rows[:, None], mixed.view(count, channels, height, -1))


def _need_square(images: Tensor, name: str) -> None:
    if images.shape[2] != images.shape[3]:
        size = f"{images.shape[2]} x {images.shape[3]} px"
        raise SpecError(f"{name}: images of {size} are not square; a turned copy would show its angle by its shape")


def _resize_matrix(
    start: Tensor, length: Tensor, side: int, out: int, interpolation: Interpolation, flip: Tensor | None = None
) -> Tensor:
    """Weights [B, out, side] that resize pixels start..start+length-1 of an axis to ``out`` (ATen's antialiased
    kernels, dense)."""
    at = torch.arange(out, device=start.device, dtype=start.dtype).expand(len(start), -1)
    if flip is not None:
        at = torch.where(flip[:, None], out - 1 - at, at)
    step = (length / out)[:, None]
    center = step * (at + 0.5)  # [B, out], in the box's own coordinates
    pixel = torch.arange(side, device=start.device, dtype=start.dtype) - start[:, None]  # [B, side]
    x = ((pixel + 0.5)[:, None, :] - center[:, :, None]).mul_(1 / step.clamp(min=1)[:, :, None]).abs_()
    weight = (1 - x).clamp_(min=0) if interpolation == "bilinear" else _cubic(x)
    weight.mul_(((pixel >= 0) & (pixel < length[:, None])).to(weight.dtype)[:, None, :])
    return weight.div_(weight.sum(2, keepdim=True))


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5 of |x|, as truncated powers instead of a case for every piece."""
    outer, inner = (2 - x).clamp_(min=0), (1 - x).clamp_(min=0)
    return (outer - 1).mul_(0.5).mul_(outer).mul_(outer).add_((1 - 2 * inner).mul_(inner).mul_(inner))
