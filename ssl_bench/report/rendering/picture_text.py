"""Text in pictures that are drawn without matplotlib: its font, and where lines are broken."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont


def lines_within(text: str, size: int, width: int) -> list[str]:
    """The text in lines that are at most ``width`` pixels wide; a word that is wider stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and picture_font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=32)
def picture_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that a picture looks alike everywhere."""
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
