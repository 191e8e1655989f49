"""Images that a source holds more than once, pixel for pixel: counted, and listed with where they are and what they are
labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ssl_bench.data.images import ImageSet

_FEW = 3


@dataclass(frozen=True)
class Copy:
    """One of several images with the same pixels.

    Attributes
    ----------
    number : the same for all copies of an image, from 1.
    source : the source's name.
    role : "train", "validation" or "test".
    label : class name, "" without labels.
    image : where it is: a path, or a file and row.
    """

    number: int
    source: str
    role: str
    label: str
    image: str


def note_copies(name: str, sets: Mapping[str, tuple[ImageSet, np.ndarray]], notes: list[str]) -> None:
    """Say how many training images repeat another one, and how many images stand under several labels.

    Parameters
    ----------
    sets : role to its images and their hashes, uint8 [N, 16].
    """
    told = []
    hashes = sets["train"][1]
    if repeated := len(hashes) - len(np.unique(hashes, axis=0)):
        told.append(f"{repeated:,} of {len(hashes):,} training images repeat another one")
    classes = sets["train"][0].classes
    labels: dict[bytes, set[int]] = {}
    for images, rows in sets.values():
        if images.labels is not None:
            for row, label in zip(rows, images.labels, strict=True):
                labels.setdefault(bytes(row), set()).add(int(label))
    if several := [sorted(numbers) for numbers in labels.values() if len(numbers) > 1]:
        pairs = Counter(pair for numbers in several for pair in combinations(numbers, 2))
        named = [
            f"{classes[first]!r} and {classes[second]!r} {count:,}"
            for (first, second), count in pairs.most_common(_FEW)
        ]
        more = f" and {len(pairs) - _FEW:,} more pairs" if len(pairs) > _FEW else ""
        told.append(f"{len(several):,} images stand under several labels ({', '.join(named)}{more})")
    if told:
        notes.append(f"{name}: pixel for pixel, {' and '.join(told)}; `ssl-bench duplicates MATRIX` lists them")


def copies_of(source: str, entries: Sequence[tuple[bytes, str, str, str]], first: int) -> list[Copy]:
    """Of (hash, role, label, image) those whose hash occurs more than once, copies together, numbered from
    ``first``."""
    by_hash: dict[bytes, list[tuple[str, str, str]]] = {}
    for row, *entry in entries:
        by_hash.setdefault(row, []).append((entry[0], entry[1], entry[2]))
    several = [copies for copies in by_hash.values() if len(copies) > 1]
    return [Copy(first + at, source, *entry) for at, copies in enumerate(several) for entry in copies]
