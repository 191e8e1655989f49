"""Crops, flips and turns against torchvision image by image, and against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from ssl_bench.errors import SpecError
from ssl_bench.transforms import (
    crop_boxes,
    cut_windows,
    quarter_turns,
    random_crop,
    random_flip,
    random_resized_crop,
    resized_crop,
    rotate90,
)


def channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def numbered(count: int, height: int, width: int) -> Tensor:
    """Images whose pixels say where they are: channels are image, row and column, from 1."""
    grid = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
    return channels_last(torch.stack(grid, 1).float() + 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "out"), [(32, None), (48, 20), (24, 40)])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous])
def test_resized_crop_equals_torchvision_image_by_image(interpolation, size, out, layout) -> None:
    torch.manual_seed(0)
    images, boxes, flip = layout(torch.rand(24, 3, size, size)), crop_boxes(24, size, size), torch.rand(24) < 0.5
    before = images.clone()
    found = resized_crop(images, boxes, out, flip, interpolation)
    assert torch.equal(images, before)
    for image, box, mirrored, one in zip(images, boxes.tolist(), flip, found, strict=True):
        mode = reference.InterpolationMode(interpolation)
        expected = reference.resized_crop(image, *box, [out or size] * 2, interpolation=mode, antialias=True).clamp(
            0, 1
        )
        torch.testing.assert_close(one, expected.flip(2) if mirrored else expected, atol=2e-6, rtol=0)


def test_resized_crop_of_oblong_images_to_their_own_shape() -> None:
    images = torch.rand(5, 3, 18, 30)
    boxes = crop_boxes(5, 18, 30)
    found = resized_crop(channels_last(images), boxes)
    for image, box, one in zip(images, boxes.tolist(), found, strict=True):
        torch.testing.assert_close(
            one, reference.resized_crop(image, *box, [18, 30], antialias=True), atol=2e-6, rtol=0
        )


def test_resizing_keeps_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    images, boxes = torch.rand(4, 3, 16, 16), crop_boxes(4, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resized_crop(images, boxes)
    assert found.dtype == torch.float32 and torch.equal(found, resized_crop(images, boxes))


@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    aspect=st.floats(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_boxes_lie_inside_the_image(height, width, low, high, aspect, seed) -> None:
    torch.manual_seed(seed)
    top, left, h, w = crop_boxes(32, height, width, (min(low, high), max(low, high)), (1 / aspect, aspect)).unbind(1)
    assert (h > 0).all() and (w > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def torchvision_boxes(count: int, size: int, **options) -> Tensor:
    crop = v2.RandomResizedCrop(size, **options)
    image = torch.empty(3, size, size)
    drawn = [crop.make_params([image]) for _ in range(count)]
    return torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = crop_boxes(20_000, 32, 32).double(), torchvision_boxes(4_000, 32).double()
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0] / (33 - b[:, 2]),
        "left": lambda b: b[:, 1] / (33 - b[:, 3]),
    }.items():
        assert stats.ks_2samp(of(ours).numpy(), of(theirs).numpy()).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [(20, 20, (5.0, 6.0)), (40, 20, (3 / 4, 4 / 3)), (20, 40, (3 / 4, 4 / 3)), (20, 20, (0.5, 2.0))],
)
def test_central_crop_when_ten_tries_fail(height, width, ratio) -> None:
    scale = (4.0, 4.0)  # no box of four times the area fits
    theirs = v2.RandomResizedCrop(8, scale=scale, ratio=ratio).make_params([torch.empty(3, height, width)])
    expected = [theirs["top"], theirs["left"], theirs["height"], theirs["width"]]
    assert crop_boxes(3, height, width, scale, ratio).tolist() == [expected] * 3


def test_every_position_of_a_box_is_reached_equally_often() -> None:
    torch.manual_seed(0)
    top = crop_boxes(9_000, 16, 16, (0.3, 0.3), (1.0, 1.0))[:, 0]  # a side of 9, so 8 positions
    assert stats.chisquare(torch.bincount(top, minlength=8).numpy()).pvalue > 1e-3


def test_flip_is_drawn_per_image() -> None:
    torch.manual_seed(0)
    images = channels_last(torch.rand(1, 3, 6, 6).expand(4_000, -1, -1, -1))
    found = random_flip(images, 0.3)
    same, mirrored = ((found == whole).flatten(1).all(1) for whole in (images, images.flip(3)))
    assert (same ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 4_000, 0.3).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padded_crop_is_a_window_of_the_padded_image(mode) -> None:
    torch.manual_seed(0)
    images = numbered(1_500, 8, 8)
    padded = torch.nn.functional.pad(images, (4,) * 4, mode="constant" if mode == "zeros" else mode)
    found = random_crop(images, 4, mode=mode)
    every = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # [B, C, 9, 9, 8, 8]
    hit = (every == found[:, :, None, None]).flatten(4).all(4).all(1)  # [B, 9, 9]
    assert (hit.flatten(1).sum(1) == 1).all()
    assert stats.chisquare(hit.sum(0).flatten().numpy()).pvalue > 1e-3


def test_crop_without_padding_is_smaller_and_whole() -> None:
    images = numbered(200, 12, 12)
    found = random_crop(images, 0, 10)
    assert found.shape == (200, 3, 10, 10) and (found > 0).all()
    assert {tuple(corner) for corner in found[:, 1:, 0, 0].int().tolist()} == {
        (y, x) for y in (1, 2, 3) for x in (1, 2, 3)
    }


def test_windows_lie_where_they_are_asked_for() -> None:
    images = numbered(3, 9, 11)
    top, left = torch.tensor([[0, 5], [2, 1], [5, 0]]), torch.tensor([[0, 6], [3, 4], [6, 2]])
    found = cut_windows(images, top, left, 4, 5)
    for b in range(3):
        for n in range(2):
            y, x = int(top[b, n]), int(left[b, n])
            assert torch.equal(found[b, n], images[b, :, y : y + 4, x : x + 5])


def test_one_seed_gives_one_result_and_images_differ() -> None:
    images = channels_last(torch.rand(1, 3, 16, 16).expand(64, -1, -1, -1))
    for operation in (random_resized_crop, lambda x: random_crop(x, 4)):
        torch.manual_seed(3)
        first = operation(images)
        torch.manual_seed(3)
        assert torch.equal(first, operation(images))
        assert len({one.numpy().tobytes() for one in first}) > 32, "one draw for the whole batch"


@given(turns=st.lists(st.integers(-5, 9), min_size=1, max_size=6), side=st.integers(1, 6))
@settings(max_examples=30)
def test_rotate90_equals_rot90(turns, side) -> None:
    images = torch.rand(len(turns), 2, side, side)
    found = rotate90(images, torch.tensor(turns))
    assert all(torch.equal(one, image.rot90(k, (1, 2))) for one, image, k in zip(found, images, turns, strict=True))


def test_quarter_turns_move_pixels_only() -> None:
    images = numbered(3, 5, 5)
    found = quarter_turns(images).unflatten(0, (4, 3))
    for k in range(4):
        back = rotate90(found[k], torch.full((3,), -k))
        assert torch.equal(back, images)
    rows, columns = found[1, 0, 1:, 0]  # counter-clockwise: the right edge, read downwards, has become the top
    assert rows.tolist() == [1, 2, 3, 4, 5] and columns.tolist() == [5] * 5


def test_errors_say_what_is_allowed() -> None:
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(SpecError, match="must be from 0 to 7"):
        random_crop(images, 8, mode="reflect")
    with pytest.raises(SpecError, match="must be from 1 to 10"):
        random_crop(images, 1, 11)
    for turn in (quarter_turns, lambda x: rotate90(x, torch.zeros(2))):
        with pytest.raises(SpecError, match="8 x 6"):
            turn(torch.rand(2, 3, 8, 6))


def test_area_share_of_the_default_crop() -> None:
    torch.manual_seed(0)
    boxes = crop_boxes(5_000, 64, 64).double()
    share = boxes[:, 2] * boxes[:, 3] / 64**2
    assert share.min() > 0.07 and share.max() <= 1
    aspect = (boxes[:, 3] / boxes[:, 2]).log()
    assert aspect.abs().max() < math.log(4 / 3) + 0.08  # half a pixel of rounding on a side of 18
