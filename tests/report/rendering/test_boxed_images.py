"""Pixels of pictures with boxes: they lie where the boxes are, whatever the images are like."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssl_bench.report.rendering.boxed_images import GAP, WIDTH, Box, boxed_images

GREY = (128, 128, 128)


@pytest.mark.parametrize("size", [(23, 23), (46, 23), (23, 92), (920, 460)], ids=str)
def test_a_box_is_drawn_on_the_pixels_that_it_encloses(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, GREY)
    box = Box((0.25 * size[0], 0.5 * size[1], 0.75 * size[0], size[1]), "#ff0000")
    sheet = np.asarray(boxed_images("title", [image], [[box]], [("truth", None)])).astype(int)
    grey = (sheet == GREY).all(2)
    red = (sheet == (255, 0, 0)).all(2)
    assert red.any()
    (top, left), (bottom, right) = (np.argwhere(grey | red).min(0), np.argwhere(grey | red).max(0) + 1)
    (y1, x1), (y2, x2) = np.argwhere(red).min(0), np.argwhere(red).max(0) + 1
    width, height = right - left, bottom - top
    assert width / height == pytest.approx(size[0] / size[1], abs=0.02) and width <= WIDTH - GAP
    expected = (left + 0.25 * width, top + 0.5 * height, left + 0.75 * width, bottom)
    assert np.allclose((x1, y1, x2, y2), expected, atol=2)


def test_truth_shows_on_black_and_on_white_and_scores_stand_by_their_box() -> None:
    boxes = [Box((4, 4, 20, 20)), Box((6, 6, 18, 18), "#00ff00", "0.97")]
    for shade in (0, 255):
        image = Image.new("RGB", (24, 24), (shade,) * 3)
        plain, drawn = (np.asarray(boxed_images("", [image], [shown], [])).astype(int) for shown in ([], boxes))
        changed = drawn[(plain != drawn).any(2)]
        assert (changed == 255 - shade).all(1).any() and (changed == (0, 255, 0)).all(1).sum() > 200


def test_many_images_and_long_names_stay_on_the_sheet() -> None:
    images = [Image.new("L", (30, 20 + at)) for at in range(7)]
    legend: list[tuple[str, str | None]] = [(f"a class with a long name {at}", "#0072B2") for at in range(12)]
    sheet = boxed_images(
        "a title " * 40, images, [[Box((-9, -9, 99, 99), "#000000", "1.00"), Box((5, 5, 5, 5))]] * 7, legend
    )
    assert sheet.width == 3 * WIDTH + GAP and 2 * WIDTH < sheet.height < 4 * WIDTH
    edge = np.asarray(sheet)
    assert (edge[:, 0] == 255).all() and (edge[:, -1] == 255).all() and (edge[-1] == 255).all()
