"""A set of decoded images with what is known about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ssl_bench.data.packs.sealed import Checked


@dataclass(frozen=True)
class ImageSet:
    """Decoded square images, usually memory-mapped, seen through a selection of rows.

    Attributes
    ----------
    pixels : uint8 [M, S, S, 3], RGB; not copied by ``take``.
    rows : int64 [N], which of the M rows this set shows, in order.
    labels : int64 [N] in 0..len(classes)-1, or None.
    classes : class names, empty without labels.
    columns : further facts per image, name -> array [N, ...] (groups, factors of the embedded set).
    name : how a table calls the set.
    fingerprint : hash over pixels and labels of the rows shown, not over paths or times.
    skipped : unreadable images left out on request.
    checked : holds images of a pack against their hashes when they are first read; None where they come from elsewhere.
    """

    pixels: np.ndarray
    rows: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    skipped: int = 0
    checked: Checked | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.pixels.shape[1])

    def read(self, positions: np.ndarray | None = None) -> np.ndarray:
        """A copy of the pixels of the images at ``positions`` (int64 [B], into this set), of all without them: uint8
        [B, S, S, 3], checked.

        Raises DataError for a damaged image that cannot be decoded again.
        """
        rows = self.rows if positions is None else self.rows[positions]
        whole = len(rows) == len(self.pixels) and bool((rows == np.arange(len(rows))).all())
        pixels = np.array(self.pixels) if whole else self.pixels[rows]  # a mapped file is read from front to back
        if self.checked is not None:
            self.checked.hold(rows, pixels)
        return pixels

    def take(self, positions: np.ndarray, fingerprint: str | None = None) -> ImageSet:
        """The images at ``positions`` (int64, into this set) as a set of their own; pixels are shared."""
        positions = np.asarray(positions, dtype=np.int64)
        return replace(
            self,
            rows=self.rows[positions],
            labels=None if self.labels is None else self.labels[positions],
            columns={name: column[positions] for name, column in self.columns.items()},
            fingerprint=fingerprint or self._fingerprint_of(positions),
        )

    def without_labels(self) -> ImageSet:
        """The same images for pretraining: nothing that could give a label away but the columns a task declares."""
        return replace(self, labels=None, classes=())

    def _fingerprint_of(self, positions: np.ndarray) -> str:
        return hashlib.sha256(self.fingerprint.encode() + np.ascontiguousarray(positions).tobytes()).hexdigest()[:32]


def fingerprint_of(size: int, hashes: np.ndarray, labels: np.ndarray | None) -> str:
    """Over pixels (by the hashes uint8 [N, 16] of images) and labels, in order; not over paths, times or what else the
    source holds."""
    digest = hashlib.sha256(f"{size} {len(hashes)} ".encode() + hashes.tobytes())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def is_grey(images: ImageSet, sample: int = 256) -> bool:
    """Whether the images show no colour, judged on an evenly spaced sample.

    A few levels between the channels are compression, not colour: an image counts as coloured when over 1 % of its
    pixels differ by more than 8 levels between channels, a set as grey when under 1 % of the sample is coloured.
    """
    shown = evenly_spaced(len(images), sample)
    coloured = 0
    for part in np.array_split(shown, -(-len(shown) // 64) or 1):  # large images would not all fit into memory
        pixels = images.read(part)
        coloured += int((((pixels.max(-1) - pixels.min(-1)) > 8).mean((1, 2)) > 0.01).sum())
    return coloured < 0.01 * len(shown)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Positions int64 [at most ``most``] from first to last of ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
