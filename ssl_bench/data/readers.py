"""What a source is before anything is decoded: readers of stored images, their labels, their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ssl_bench.data.packs.decode import Stored
from ssl_bench.data.places import Places


class Reader(Protocol):
    """Stored images of one split, in a fixed order.

    It may also have ``content_at(positions, places)``, the hash over some of its images, where that spares reading the
    others.
    """

    def __len__(self) -> int: ...

    def content(self, places: Places) -> str:
        """A hash that changes whenever a stored image does."""

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        """The stored images of each stretch (start, stop), stretches being in order."""

    def where(self, position: int) -> str:
        """How a person finds the image: a path, or a file and row."""


class Subset:
    """A reader of some positions (sorted, int64 [N]) of another reader."""

    def __init__(self, reader: Reader, positions: np.ndarray) -> None:
        self.reader, self.positions = reader, positions

    def __len__(self) -> int:
        return len(self.positions)

    def content(self, places: Places) -> str:
        # spares reading a million files for the sake of a few
        if (content_at := getattr(self.reader, "content_at", None)) is not None:
            return str(content_at(self.positions, places))
        return hashlib.sha256(self.reader.content(places).encode() + self.positions.astype("<i8").tobytes()).hexdigest()

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        wanted = [int(position) for start, stop in stretches for position in self.positions[start:stop]]
        singles = self.reader.items([(position, position + 1) for position in wanted])
        for start, stop in stretches:
            yield [next(singles)[0] for _ in range(start, stop)]

    def where(self, position: int) -> str:
        return self.reader.where(int(self.positions[position]))


class ArrayReader:
    """Images in memory: uint8 [N, H, W, 3] or [N, H, W] (grey), or a sequence of such images of different sizes;
    ``name`` is for messages."""

    def __init__(self, images: Sequence[np.ndarray], name: str = "array") -> None:
        self.images, self.name = images, name

    def __len__(self) -> int:
        return len(self.images)

    def content(self, places: Places) -> str:
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(repr((image.shape, image.dtype.str)).encode() + np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        for start, stop in stretches:
            yield [self.images[position] for position in range(start, stop)]

    def where(self, position: int) -> str:
        return f"{self.name} image {position}"


@dataclass(frozen=True)
class RawSplit:
    """One split, not decoded.

    Attributes
    ----------
    reader : the N stored images.
    labels : int64 [N], -1 where an image has none; None where none has.
    groups : int64 [N], comparable between splits; None without groups.
    unlabelled : why it has no labels, where that is known.
    doubt : why the labels may not be what is meant; nothing is judged by them then.
    """

    reader: Reader
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    unlabelled: str = ""
    doubt: str = ""

    def __len__(self) -> int:
        return len(self.reader)


@dataclass(frozen=True)
class RawSet:
    """The images of a source, not decoded.

    Attributes
    ----------
    name : how tables call it.
    classes : class names, empty without labels.
    splits : "train" always, "test" and "validation" where the source has them.
    native : (width, height) when a sample of the images all has it, else None.
    common : the most common (width, height) of that sample.
    notes : what a user should know about how the source was read.
    group_names : the values of the group column, by the numbers that splits have; empty without groups.
    unreadable : what lies there and cannot be read, with the reason, beside the images of the splits.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]
    native: tuple[int, int] | None = None
    common: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
