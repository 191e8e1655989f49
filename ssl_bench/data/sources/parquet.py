"""Images and labels in Parquet files as on the Hugging Face hub: ``image: {bytes, path}``, ``label``, class names in
the metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import Stored, open_image
from ssl_bench.data.places import Places
from ssl_bench.data.sources import columns
from ssl_bench.data.sources.arrow import Labels, all_stored, labels_of
from ssl_bench.data.sources.parquet_files import FIRST_ROWS, ParquetFiles
from ssl_bench.data.sources.pictures import holds_images, named_files, stored
from ssl_bench.errors import DataError

# what the hub's metadata may call a column that is stored as images are
_NO_IMAGES = ("Audio", "Video", "Pdf", "Nifti")


class ParquetReader(ParquetFiles):
    """Images of one split, streamed row group by row group.

    Parameters
    ----------
    files : of one split, in order.
    image, target : columns of images and of labels; None lets ``columns`` choose them.
    kept : further columns that a user named, which hold something else.
    """

    def __init__(
        self, files: Sequence[Path], image: str | None = None, target: str | None = None, kept: Sequence[str] = ()
    ) -> None:
        super().__init__(files)
        self._image, self._target, self._kept = image, target, kept

    def alike(self, files: Sequence[Path]) -> ParquetReader:
        """A reader of another split's files: of the same columns, without labels where they lack that column."""
        reader = ParquetReader(files, self.image_column, kept=self._kept)
        reader._choice = (self.label_column if self.label_column in reader.schema.names else None, "")
        reader.image_column  # noqa: B018  (raises where there is none)
        return reader

    # ---- which columns ----

    @cached_property
    def image_column(self) -> str:
        """Name of the column that holds the images.

        Raises DataError when there is none, or several that could be meant.
        """
        where = str(self.files[0])
        if self._image is not None:
            columns.check_named(where, "image", self._image, self.schema.names)
            if not holds_images(kind := self.schema.field(self._image).type):
                raise DataError(
                    f"{where}: column {self._image!r} holds {kind}, not images (bytes, paths, base64 text, or lists "
                    "of whole pixel values)"
                )
            self.check_alike(self._image)
            return self._image
        if not (candidates := self._image_candidates):
            raise DataError(
                f"{where} has no image column (`image`: bytes, or a struct with `bytes`); its columns: "
                f"{', '.join(self.schema.names)}; if one of "
                "them holds images, name it as `image:`"
            )
        chosen = columns.choose_images(where, candidates)
        self.check_alike(chosen)
        return chosen

    @cached_property
    def _image_candidates(self) -> dict[str, bool]:
        """Columns that hold images, and whether the metadata says so; without that, a conventional name or the first
        rows decide."""
        candidates = {}
        for name in self.schema.names:
            how = holds_images(self.schema.field(name).type)
            said = self.said(name)
            if not how or said in _NO_IMAGES or name in self._kept:
                continue
            named = columns.rank(name, columns.IMAGES) is not None
            if (
                said == "Image"
                or (named and how in ("bytes", "struct", "pixels"))
                or (named or how != "pixels")
                and self._begins_with_images(name)
            ):
                candidates[name] = said == "Image"
        return candidates

    def _begins_with_images(self, name: str) -> bool:
        if not self.rows:
            return False
        part, group = self.first_filled()
        first = next(self.batches(part, group, name, FIRST_ROWS))
        for item in stored(first, self.files[part].parent):
            try:
                open_image(item)
            except Exception:  # no image, which is what was asked
                continue
            return True
        return False

    @cached_property
    def label_column(self) -> str | None:
        """Name of the column of labels; None where there is none or none that can be taken, see ``why_unlabelled``."""
        return self._choice[0]

    @property
    def why_unlabelled(self) -> str:
        """Why no column of labels was taken though some might be meant; "" otherwise."""
        return self._choice[1]

    @cached_property
    def _choice(self) -> tuple[str | None, str]:
        where = str(self.files[0])
        if self._target is not None:
            columns.check_named(where, "target", self._target, self.schema.names)
            self._labels_in(self._target)  # raises for one that holds no labels
            return self._target, ""
        taken = (self.image_column, *self._kept)
        able = [
            columns.LabelColumn(name, self.said(name) == "ClassLabel", partial(self._codes_in, name))
            for name in self.schema.names
            if name not in taken and name not in self._image_candidates
        ]
        return columns.choose_labels(where, able)

    # ---- labels ----

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """int64 [N] (-1 where a row has none) and the class names; None without a label column."""
        labels = self.labels_read
        return None if labels is None else (labels.numbers, labels.names)

    @cached_property
    def labels_read(self) -> Labels | None:
        """The labels with what is known of how they were written; None without a label column."""
        column = self.label_column
        return None if column is None else self._labels_in(column)

    def _codes_in(self, column: str) -> np.ndarray:
        return self._labels_in(column).numbers

    def _labels_in(self, column: str) -> Labels:
        """Raises NotLabels where the column holds something else."""
        self.check_alike(column)
        return labels_of(self.column(column), self.names_in(column), str(self.files[0]), column)

    # ---- images ----

    def content(self, places: Places) -> str:
        """Over the Parquet files and the image files that rows without bytes name, and over which of those are missing.

        Where files hold several columns of images, the name of the one that is read is part of it.
        """
        content = content_of(self.files, places, self.files[0].parent.name)
        if len(self._image_candidates) > 1 or self.image_column not in self._image_candidates:
            content = hashlib.sha256(f"{content} column {self.image_column}".encode()).hexdigest()
        if not self._links:
            return content
        there = [link.is_file() for link in self._links]
        linked = content_of(
            [link for link, is_there in zip(self._links, there, strict=True) if is_there],
            places,
            "linked image files",
        )
        return hashlib.sha256(f"{content} {linked} ".encode() + bytes(there)).hexdigest()

    @cached_property
    def _links(self) -> list[Path]:
        """The image files that are named instead of stored, in the order of their rows."""
        if holds_images(self.schema.field(self.image_column).type) not in ("struct", "text"):
            return []
        links: list[Path] = []
        for _, part, group in self.row_groups:
            if all_stored(self.parts[part].metadata.row_group(group), f"{self.image_column}.bytes"):
                continue  # spares reading every image once more
            for values in self.batches(part, group, self.image_column):
                links.extend(named_files(values, self.files[part].parent))
        return links

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        waiting = iter(stretches)
        current = next(waiting, None)
        items: list[Stored] = []
        ends = [first for first, _, _ in self.row_groups[1:]] + [self.rows]
        for (first, part, group), end in zip(self.row_groups, ends, strict=True):
            at = first
            if current is None:
                return
            if current[0] >= end:
                continue
            for values in self.batches(part, group, self.image_column):
                stop = at + len(values)
                while current is not None and current[0] < stop:
                    low, high = max(current[0], at), min(current[1], stop)
                    items.extend(stored(values.slice(low - at, high - low), self.files[part].parent))
                    if current[1] > stop:
                        break
                    yield items
                    items, current = [], next(waiting, None)
                at = stop
                if current is None or current[0] >= end:
                    break

    def where(self, position: int) -> str:
        first, part, group = self.row_groups[
            int(np.searchsorted([first for first, _, _ in self.row_groups], position, "right")) - 1
        ]
        table = self.parts[part].read_row_group(group, columns=[self.image_column])
        value = table.column(0)[position - first].as_py()
        path = value.get("path") if isinstance(value, dict) else None
        row = position - next(f for f, p, _ in self.row_groups if p == part)
        column = f", column {self.image_column!r}" if len(self._image_candidates) > 1 else ""
        return f"{self.files[part]} row {row}{column}" + (f" ({path})" if path else "")
