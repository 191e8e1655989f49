"""What decoding images left out or chose, counted over a set, so that it can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_HALF = 32_768


@dataclass
class Facts:
    """Counts over the images decoded so far.

    Attributes
    ----------
    frames : images of several frames or pages, of which the first is used.
    transparent : images that are transparent somewhere, laid over white.
    inks : images in CMYK, converted without a colour profile.
    deep : images of 16 bits a channel; ``low`` and ``high`` are the lowest and highest of their levels, in 0..65,535.
    """

    frames: int = 0
    transparent: int = 0
    inks: int = 0
    deep: int = 0
    low: int = 65_535
    high: int = 0

    def add(self, other: Facts) -> None:
        self.frames += other.frames
        self.transparent += other.transparent
        self.inks += other.inks
        self.deep += other.deep
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def saw_levels(self, low: int, high: int) -> None:
        self.deep += 1
        self.low, self.high = min(self.low, low), max(self.high, high)

    @classmethod
    def read(cls, stored: Any) -> Facts:
        """Of what was written as JSON; nothing counted where it is missing or of another version."""
        names = {field.name for field in fields(cls)}
        if not isinstance(stored, Mapping) or not all(isinstance(value, int) for value in stored.values()):
            return cls()
        return cls(**{name: value for name, value in stored.items() if name in names})

    def told(self, what: str) -> list[str]:
        """A sentence for each kind that was seen; ``what`` names the images."""
        sentences = []
        if self.deep:
            levels = round((self.high - self.low) / 257) + 1
            few = (
                f", {levels} of 256 levels once they have 8 bits; `range: set` spreads what the set uses over all of "
                "them"
            )
            whole = "" if self.high - self.low >= _HALF else few
            sentences.append(
                f"{what}: {self.deep:,} images have 16 bits a channel and use levels {self.low:,} to {self.high:,} of "
                f"0 to 65,535{whole}"
            )
        if self.frames:
            sentences.append(f"{what}: {self.frames:,} images have several frames or pages; the first is used")
        if self.transparent:
            sentences.append(f"{what}: {self.transparent:,} images are partly transparent; they are laid over white")
        if self.inks:
            sentences.append(
                f"{what}: {self.inks:,} images are in CMYK; they are converted without their colour profile"
            )
        return sentences
