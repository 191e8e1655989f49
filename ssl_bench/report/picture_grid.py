"""A grid of small pictures with captions, as one PNG whose text can be read at any size it is shown in."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_bench.report.rendering.picture_text import lines_within, picture_font

COLUMNS = 8  #: pictures side by side
MOST_LINES = 4  #: of pictures below one caption; more are left out
CELL = 96  #: pixels that a picture is enlarged to, about
TEXT_SHARE = 1 / 40  #: of the grid's height that capital letters take at least
GAP = 4  #: pixels between pictures
SMALLEST_FONT = 12  #: pixels
LINE = 1.35  #: distance of lines of text, in sizes of the font
_CAPITALS = 0.73  # height of capital letters of DejaVu Sans, in sizes of the font
_FOREGROUND, _BACKGROUND, _DIM = (20, 20, 20), (255, 255, 255), (90, 90, 90)


@dataclass(frozen=True)
class _Block:
    """One caption and its pictures, enlarged."""

    caption: str
    pictures: tuple[NDArray[np.uint8], ...]
    cell: tuple[int, int]  # height and width of a picture

    @property
    def lines(self) -> int:
        return -(-len(self.pictures) // COLUMNS)


def picture_grid(title: str, words: Sequence[str], pictures: Mapping[str, NDArray[Any]]) -> bytes:
    """A PNG: title, sentences, and below each caption its pictures, eight in a line.

    Parameters
    ----------
    title : printed first.
    words : sentences below it, wrapped to the width.
    pictures : caption -> float [N, H, W, 3] in [0, 1]; at most 32 of each are shown.
    """
    blocks = [_block(caption, values) for caption, values in pictures.items()]
    layouts = (_laid_out(title, words, blocks, columns) for columns in range(1, len(blocks) + 1))
    layout = next((tried for tried in layouts if tried is not None), None)
    if layout is None:  # long captions of few pictures: a wider sheet
        layout = _laid_out(title, words, blocks, len(blocks), square=False)
    assert layout is not None
    image = Image.new("RGB", (layout.width, layout.height), _BACKGROUND)
    draw, font = ImageDraw.Draw(image), picture_font(layout.size)
    for left, top, text, colour in layout.texts:
        draw.text((left, top), text, font=font, fill=colour)
    for left, top, picture in layout.pictures:
        image.paste(Image.fromarray(picture), (left, top))
    written = io.BytesIO()
    image.save(written, "png", optimize=True)
    return written.getvalue()


@dataclass
class _Layout:
    """Where everything lies, in pixels from the left and the top."""

    width: int
    height: int
    size: int  # of the font
    texts: list[tuple[int, int, str, tuple[int, int, int]]]
    pictures: list[tuple[int, int, NDArray[np.uint8]]]


def _laid_out(
    title: str, words: Sequence[str], blocks: Sequence[_Block], columns: int, square: bool = True
) -> _Layout | None:
    """``columns`` blocks side by side, the text as large as the height asks for;
    None where that is higher than wide."""
    block_width = max([CELL * COLUMNS, *(COLUMNS * (block.cell[1] + GAP) for block in blocks)])
    width = columns * (block_width + 3 * GAP) + GAP
    size = SMALLEST_FONT
    for _ in range(30):  # larger text takes more lines, and makes the sheet higher
        layout = _Layout(width, 0, size, [], [])
        _fill(layout, title, words, blocks, columns, block_width)
        needed = int(np.ceil(layout.height * TEXT_SHARE / _CAPITALS))
        if square and layout.height > width:
            return None
        if size >= needed:
            return layout
        if layout.height > 2 * width:
            layout.width = width = int(1.5 * width)
        size = needed
    return None


def _fill(
    layout: _Layout, title: str, words: Sequence[str], blocks: Sequence[_Block], columns: int, block_width: int
) -> None:
    top, line = 2 * GAP, int(LINE * layout.size)
    for number, sentence in enumerate((title, *words)):
        for text in lines_within(sentence, layout.size, layout.width - 4 * GAP):
            layout.texts.append((2 * GAP, top, text, _DIM if number else _FOREGROUND))
            top += line
    for start in range(0, len(blocks), columns):
        side_by_side = blocks[start : start + columns]
        captions = [lines_within(block.caption, layout.size, block_width) for block in side_by_side]
        top += 2 * GAP
        below = top + line * max(map(len, captions))
        for number, (block, caption) in enumerate(zip(side_by_side, captions, strict=True)):
            left = 2 * GAP + number * (block_width + 3 * GAP)
            layout.texts += [(left, top + line * at, text, _FOREGROUND) for at, text in enumerate(caption)]
            for at, picture in enumerate(block.pictures):
                row, column = divmod(at, COLUMNS)
                place = (left + column * (block.cell[1] + GAP), below + row * (block.cell[0] + GAP))
                layout.pictures.append((*place, picture))
        top = below + max(block.lines * (block.cell[0] + GAP) for block in side_by_side)
    layout.height = top + 2 * GAP


def _block(caption: str, values: NDArray[Any]) -> _Block:
    shown = (np.clip(values[: COLUMNS * MOST_LINES], 0, 1) * 255).round().astype(np.uint8)
    times = max(1, round(CELL / max(shown.shape[1:3])))  # whole, so that pixels stay pixels
    enlarged = shown.repeat(times, axis=1).repeat(times, axis=2)
    return _Block(caption, tuple(enlarged), (enlarged.shape[1], enlarged.shape[2]))
