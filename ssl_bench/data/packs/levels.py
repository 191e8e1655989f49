"""Images of more than 8 bits a channel, scaled by the range of levels that their set uses."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ssl_bench.data.packs.content import NotRemembered, workers, writing_to_cache
from ssl_bench.data.packs.decode import Stored, in_parallel, is_deep, open_image, orientation
from ssl_bench.data.places import Places
from ssl_bench.data.readers import Reader
from ssl_bench.records.schema import write_bytes
from ssl_bench.system.digests import read_sealed, seal

VERSION = 1  # raise it when the same files would give another range
_STRETCH = 64


class Rescaled:
    """A reader whose images of more than 8 bits are scaled: ``low`` and below becomes black, ``high`` and above white;
    others are as they are."""

    def __init__(self, reader: Reader, low: float, high: float) -> None:
        self.reader, self.low, self.high = reader, low, high

    def __len__(self) -> int:
        return len(self.reader)

    def content(self, places: Places) -> str:
        return self._with_range(self.reader.content(places))

    def content_at(self, positions: np.ndarray, places: Places) -> str:
        if (content_at := getattr(self.reader, "content_at", None)) is not None:
            return self._with_range(content_at(positions, places))
        return hashlib.sha256(self.content(places).encode() + positions.astype("<i8").tobytes()).hexdigest()

    def _with_range(self, content: str) -> str:
        return hashlib.sha256(f"{content} {VERSION} {self.low!r} {self.high!r}".encode()).hexdigest()

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        for items in self.reader.items(stretches):
            yield [partial(rescaled, item, self.low, self.high) for item in items]

    def where(self, position: int) -> str:
        return self.reader.where(position)


@dataclass(frozen=True)
class Range:
    """Lowest and highest level of the images of more than 8 bits, and how many there are; not a number where there are
    none."""

    low: float = math.nan
    high: float = math.nan
    images: int = 0


def range_of(reader: Reader, places: Places, what: str) -> Range | None:
    """The range of all images of ``reader``, remembered in CACHE/ranges; None where it is not known and nothing is to
    be decoded.

    Images that cannot be opened are left out: packing lists them.
    """
    try:
        content = reader.content(places)
    except NotRemembered:
        return None
    known = places.cache / "ranges" / hashlib.sha256(f"{VERSION} {content}".encode()).hexdigest()[:32]
    stored = read_sealed(known, "the range of levels in")
    if stored is not None:
        return Range(**json.loads(stored))
    if places.unpacked is not None:
        return None
    stretches = [(start, min(start + _STRETCH, len(reader))) for start in range(0, len(reader), _STRETCH)]
    parts: list[Range] = []
    jobs = ((items,) for items in reader.items(stretches))
    with in_parallel(_range_of_items, jobs, ahead=2 * workers()) as ranges:
        for part in ranges:
            parts.append(part)
            done = min(len(parts) * _STRETCH, len(reader))
            places.progress(f"looking for the range of levels of {what}", done, len(reader))
    deep = [part for part in parts if part.images]
    whole = (
        Range(min(part.low for part in deep), max(part.high for part in deep), sum(part.images for part in deep))
        if deep
        else Range()
    )
    with writing_to_cache(places.cache):
        write_bytes(known, seal(json.dumps(asdict(whole)).encode()))
    return whole


def _range_of_items(items: Sequence[Stored]) -> Range:
    lows, highs = [], []
    for item in items:
        try:
            image, content = _opened_image(item)
            if is_deep(image):
                levels = _levels_of(image, content)[0]
                finite = levels[np.isfinite(levels)]
                lows.append(float(finite.min()))
                highs.append(float(finite.max()))
        except Exception:  # listed with its reason when it is packed
            continue
    return Range(min(lows), max(highs), len(lows)) if lows else Range()


def rescaled(stored: Stored, low: float, high: float) -> Image.Image:
    """The stored image with 8 bits, upright; one that has no more than 8 bits is only opened."""
    image, content = _opened_image(stored)
    if not is_deep(image) or math.isnan(low):
        return image
    levels, alpha = _levels_of(image, content)
    share = (np.nan_to_num(levels, nan=low, posinf=high, neginf=low) - low) / (high - low if high > low else 1.0)
    pixels = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    scaled = Image.fromarray(pixels)
    if alpha is not None:
        scaled.putalpha(Image.fromarray(alpha))
    if (turn := orientation(image)) > 1:
        scaled.getexif()[0x0112] = turn
        scaled = ImageOps.exif_transpose(scaled)
    return scaled


def _opened_image(stored: Stored) -> tuple[Image.Image, bytes | None]:
    """The image, and its file's content where it has one."""
    while callable(stored):
        stored = stored()
    if isinstance(stored, Path):
        stored = stored.read_bytes()
    return open_image(stored), stored if isinstance(stored, bytes) else None


def _levels_of(image: Image.Image, content: bytes | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels float64 [H, W] or [H, W, 3], and alpha uint8 [H, W] where there is one."""
    if image.mode[0] in "IF":
        return np.asarray(image).astype(np.float64), None
    upper = np.atleast_3d(np.asarray(image)).astype(np.int64)  # PIL keeps the upper 8 bits of colours
    lower = None if content is None else _lower_bits(content)
    levels = upper * 257 if lower is None else upper * 256 + lower
    colours = 1 if levels.shape[2] < 3 else 3
    alpha = ((levels[..., -1] + 128) // 257).astype(np.uint8) if levels.shape[2] in (2, 4) else None
    return levels[..., :colours].astype(np.float64).squeeze(2 if colours == 1 else ()), alpha


def _lower_bits(content: bytes) -> np.ndarray | None:
    """int64 [H, W, C]: what PIL drops of 16 bits a channel, found by reading the bytes as if they were the other way
    round; None where it cannot."""
    image: Any = open_image(content)  # an image file, which has tiles
    tiles = []
    for tile in image.tile:
        mode, *more = (tile[3],) if isinstance(tile[3], str) else tile[3]
        stored = {"N": "L" if sys.byteorder == "little" else "B"}.get(mode[-1], mode[-1])
        other = mode[:-1] + ("B" if stored == "L" else "L")
        tiles.append((*tile[:3], (other, *more) if more else other))
    image.tile = [type(old)(*new) for old, new in zip(image.tile, tiles, strict=True)]
    try:
        return np.atleast_3d(np.asarray(image)).astype(np.int64)
    except ValueError:  # no such reading, as of grey with alpha
        return None
