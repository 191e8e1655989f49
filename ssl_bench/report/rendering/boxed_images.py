"""Images with boxes drawn on them, side by side, a title above and what the colours mean below: pixels, not a chart.

Hundreds of such pictures are drawn with a run that detects objects. Pillow draws one in a hundredth of the time that a
chart of as many panels takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ssl_bench.report.rendering.picture_text import lines_within, picture_font

ACROSS = 3  # images side by side
WIDTH = 480  # pixels that an image is as wide as, with the gap beside it
GAP = 20  # pixels between images
TALLEST = 1.5  # height by width; what is higher becomes narrower
TITLE, SMALL = 19, 14  # sizes of the font
_WHITE, _BLACK = "#ffffff", "#000000"
_DASH = 8  # pixels; as long again lies between two


@dataclass(frozen=True)
class Box:
    """A box in pixels of its image, from edge to edge: ``colour`` None is dashed, black on white."""

    corners: tuple[float, float, float, float]  #: x1, y1, x2, y2
    colour: str | None = None
    text: str = ""


def boxed_images(
    title: str, images: Sequence[Image.Image], boxes: Sequence[Sequence[Box]], legend: Sequence[tuple[str, str | None]]
) -> Image.Image:
    """One picture of all images with their boxes.

    Parameters
    ----------
    boxes : those of each image, in the order they are drawn.
    legend : what is said of a colour, and the colour; None as in ``Box``.
    """
    across = min(ACROSS, len(images))
    width, inside = across * WIDTH + GAP, WIDTH - GAP
    tallest = min(TALLEST, max(image.height / image.width for image in images))
    step = round(inside * tallest) + GAP
    title_lines = lines_within(title, TITLE, width - 2 * GAP)
    below = list(_rows_of_legend(legend, width - 2 * GAP))
    top = GAP + round(1.35 * TITLE) * len(title_lines) + GAP // 2
    foot = top + step * math.ceil(len(images) / across)
    sheet = Image.new("RGB", (width, foot + round(1.8 * SMALL) * len(below) + GAP // 2), _WHITE)
    draw = ImageDraw.Draw(sheet)
    for at, line in enumerate(title_lines):
        place = width / 2, GAP // 2 + round(1.35 * TITLE) * at
        draw.text(place, line, font=picture_font(TITLE), fill=_BLACK, anchor="ma")
    for at, (image, drawn) in enumerate(zip(images, boxes, strict=True)):
        down, column = divmod(at, across)
        scale = min(inside / image.width, inside * tallest / image.height)
        size = round(image.width * scale), round(image.height * scale)
        # pixels of a small image stay pixels
        kind = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
        shown = image.convert("RGB").resize(size, kind)
        for box in drawn:
            _draw_box(ImageDraw.Draw(shown), box, np.tile(np.array(size) / image.size, 2))
        left = GAP + column * WIDTH + (inside - size[0]) // 2
        sheet.paste(shown, (left, top + down * step + (step - GAP - size[1]) // 2))
    for at, entries in enumerate(below):
        _draw_legend(draw, entries, width, foot + round(1.8 * SMALL) * at)
    return sheet


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, scale: np.ndarray) -> None:
    x1, y1, x2, y2 = (float(value) for value in np.asarray(box.corners) * scale)
    if box.colour is not None:
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=box.colour, width=3)
    else:
        draw.rectangle((x1 - 1, y1 - 1, max(x1, x2) + 1, max(y1, y2) + 1), outline=_WHITE, width=4)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2))):
            _dashed(draw, start, end)
    if box.text:
        place = max(0.0, x1), max(round(1.1 * SMALL), y1)
        draw.rectangle(draw.textbbox(place, box.text, font=picture_font(SMALL), anchor="lb"), fill=box.colour)
        draw.text(place, box.text, font=picture_font(SMALL), fill=_WHITE, anchor="lb")


def _dashed(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A straight line, black."""
    length = math.dist(start, end)
    for at in np.arange(0, length, 2 * _DASH):
        ends = (np.array([at, min(at + _DASH, length)]) / length)[:, None]
        (a, b), (c, d) = np.array(start) + ends * (np.array(end) - np.array(start))
        draw.line((float(a), float(b), float(c), float(d)), fill=_BLACK, width=2)


def _width_of(text: str) -> int:
    """Pixels that an entry of the legend takes: a piece of line, the text, and the gap to the next."""
    return round(3.5 * SMALL + picture_font(SMALL).getlength(text) + 2 * SMALL)


def _rows_of_legend(legend: Sequence[tuple[str, str | None]], width: int) -> Iterator[list[tuple[str, str | None]]]:
    row: list[tuple[str, str | None]] = []
    for entry in legend:
        if row and sum(_width_of(text) for text, _ in [*row, entry]) > width:
            yield row
            row = []
        row.append(entry)
    if row:
        yield row


def _draw_legend(
    draw: ImageDraw.ImageDraw, entries: Sequence[tuple[str, str | None]], width: int, middle: float
) -> None:
    left = (width - sum(_width_of(text) for text, _ in entries)) / 2 + SMALL
    middle += SMALL / 2
    for text, colour in entries:
        ends = (left, middle), (left + 3 * SMALL, middle)
        if colour is None:
            _dashed(draw, *ends)
        else:
            draw.line([*ends[0], *ends[1]], fill=colour, width=3)
        draw.text((left + 3.5 * SMALL, middle), text, font=picture_font(SMALL), fill=_BLACK, anchor="lm")
        left += _width_of(text)
