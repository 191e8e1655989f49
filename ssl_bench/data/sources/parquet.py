"""Images and labels in Parquet files as on the Hugging Face hub: ``image: {bytes, path}``, ``label``, class names in the metadata."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import Stored, open_image
from ssl_bench.data.places import Places
from ssl_bench.data.sources import columns
from ssl_bench.data.sources.arrow import Labels, all_stored, features_of, kind_of, labels_of
from ssl_bench.data.sources.hub import check_complete
from ssl_bench.data.sources.labels import spelled
from ssl_bench.data.sources.pictures import holds_images, is_text, named_files, stored
from ssl_bench.errors import DataError

_TRIED = 8  # rows looked at to see whether a column holds images
# what the hub's metadata may call a column that is stored as images are
_NO_IMAGES = ("Audio", "Video", "Pdf", "Nifti")


class ParquetReader:
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
        self.files = list(files)
        self._image, self._target, self._kept = image, target, kept
        self._parts = [_opened(file) for file in self.files]
        self.notes = check_complete(self.files)  #: what a user should know of the files
        self._schemas = [part.schema_arrow for part in self._parts]
        filled = [at for at, part in enumerate(self._parts) if part.metadata.num_rows] or [0]
        self.schema = self._schemas[filled[0]]
        for at in filled:  # a file without rows has columns of no type
            if twice := sorted(name for name, count in Counter(self._schemas[at].names).items() if count > 1):
                raise DataError(f"{self.files[at]} has several columns called {twice[0]!r}; give them different names")
            if sorted(self._schemas[at].names) != sorted(self.schema.names):
                raise DataError(
                    f"{self.files[at]} has the columns {', '.join(self._schemas[at].names)}, {self.files[filled[0]].name} has {', '.join(self.schema.names)}"
                )
        self._filled = filled
        self._groups: list[tuple[int, int, int]] = []  # first row, part, row group
        rows = 0
        for number, part in enumerate(self._parts):
            for group in range(part.num_row_groups):
                self._groups.append((rows, number, group))
                rows += part.metadata.row_group(group).num_rows
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def alike(self, files: Sequence[Path]) -> ParquetReader:
        """A reader of another split's files: of the same columns, without labels where they lack that column."""
        reader = ParquetReader(files, self.image_column, kept=self._kept)
        reader._choice = (self.label_column if self.label_column in reader.schema.names else None, "")
        reader.image_column  # noqa: B018  (raises where there is none)
        return reader

    @property
    def empty_files(self) -> list[Path]:
        """Files without a row."""
        return [file for file, part in zip(self.files, self._parts, strict=True) if not part.metadata.num_rows]

    # ---- which columns ----

    @cached_property
    def image_column(self) -> str:
        """Name of the column that holds the images. Raises DataError when there is none, or several that could be meant."""
        where = str(self.files[0])
        if self._image is not None:
            columns.check_named(where, "image", self._image, self.schema.names)
            if not holds_images(kind := self.schema.field(self._image).type):
                raise DataError(
                    f"{where}: column {self._image!r} holds {kind}, not images (bytes, paths, base64 text, or lists of whole pixel values)"
                )
            self._check_alike(self._image)
            return self._image
        if not (candidates := self._image_candidates):
            raise DataError(
                f"{where} has no image column (`image`: bytes, or a struct with `bytes`); its columns: {', '.join(self.schema.names)}; if one of "
                "them holds images, name it as `image:`"
            )
        found = columns.choose_images(where, candidates)
        self._check_alike(found)
        return found

    @cached_property
    def _image_candidates(self) -> dict[str, bool]:
        """Columns that hold images, and whether the metadata says so; without that, a conventional name or the first rows decide."""
        found = {}
        for name in self.schema.names:
            how = holds_images(self.schema.field(name).type)
            said = self._said(name)
            if not how or said in _NO_IMAGES or name in self._kept:
                continue
            named = columns.rank(name, columns.IMAGES) is not None
            if (
                said == "Image"
                or (named and how in ("bytes", "struct", "pixels"))
                or (named or how != "pixels")
                and self._begins_with_images(name)
            ):
                found[name] = said == "Image"
        return found

    def _begins_with_images(self, name: str) -> bool:
        if not self._rows:
            return False
        _, part, group = next(one for one in self._groups if self._parts[one[1]].metadata.row_group(one[2]).num_rows)
        first = next(self._batches(part, group, name, _TRIED))
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
            columns.LabelColumn(name, self._said(name) == "ClassLabel", lambda name=name: self._labels_in(name).numbers)  # type: ignore[misc]
            for name in self.schema.names
            if name not in taken and name not in self._image_candidates
        ]
        return columns.choose_labels(where, able)

    @cached_property
    def _features(self) -> dict[str, Any]:
        """What the metadata says of the columns: the first file's, that is where it says anything."""
        return next((found for schema in self._schemas if (found := features_of(schema))), {})

    def _said(self, column: str) -> str | None:
        feature = self._features.get(column)
        return str(feature.get("_type")) if isinstance(feature, dict) else None

    def _names_in(self, column: str) -> tuple[str, ...] | None:
        """The class names that the metadata gives for a column; None where it gives none."""
        feature = self._features.get(column)
        # some only say how many there are
        if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel" or not feature.get("names"):
            return None
        return tuple(map(str, feature["names"]))

    def _check_alike(self, column: str) -> None:
        """Refuse files that mean different things by one column, such as another class by the same number; those without metadata say nothing."""
        first = self.schema.field(column).type
        said: dict[Path, tuple[str, list[str]]] = {}
        for at in self._filled:
            file, schema = self.files[at], self._schemas[at]
            kind = schema.field(column).type
            if kind_of(kind) != kind_of(first):
                raise DataError(
                    f"column {column!r} holds {first} in {self.files[self._filled[0]]} and {kind} in {file}; it must be alike in all files of a split"
                )
            feature = features_of(schema).get(column)
            if isinstance(feature, dict):
                said[file] = str(feature.get("_type")), [spelled(str(name)) for name in feature.get("names") or ()]
        for file, (kind, names) in said.items():
            reference, (usual, expected) = next(iter(said.items()))
            if (kind, names) != (usual, expected):
                example = next(
                    (
                        f": label {at} is {b!r} here, {a!r} there"
                        for at, (a, b) in enumerate(zip(expected, names, strict=False))
                        if a != b
                    ),
                    "",
                )
                example = example or f": {kind} of {len(names)} classes here, {usual} of {len(expected)} there"
                raise DataError(
                    f"{file} and {reference} describe column {column!r} differently{example}; files of one split must agree"
                )

    # ---- labels and other columns ----

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """int64 [N] (-1 where a row has none) and the class names; None without a label column."""
        found = self.labels_read
        return None if found is None else (found.numbers, found.names)

    @cached_property
    def labels_read(self) -> Labels | None:
        """The labels with what is known of how they were written; None without a label column."""
        column = self.label_column
        return None if column is None else self._labels_in(column)

    def _labels_in(self, column: str) -> Labels:
        """Raises NotLabels where the column holds something else."""
        self._check_alike(column)
        return labels_of(self.column(column), self._names_in(column), str(self.files[0]), column)

    def words(self, column: str) -> list[str | None]:
        """The values of a column as text, those of a ClassLabel by their names. Raises DataError when there is no such column."""
        return self._as_words(column, self.column(column))

    def _as_words(self, column: str, values: Any) -> list[str | None]:
        names, values = self._names_in(column), values.to_pylist()
        if names is None:
            return [
                None if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                for value in values
            ]
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]

    def first_words(self, column: str) -> list[str]:
        """A column's values in the first rows, as text; empty for one of numbers, images or anything else that is no text."""
        if not self._rows or not (is_text(self.schema.field(column).type) or self._names_in(column) is not None):
            return []
        _, part, group = next(one for one in self._groups if self._parts[one[1]].metadata.row_group(one[2]).num_rows)
        return [
            "" if word is None else word.strip()
            for word in self._as_words(column, next(self._batches(part, group, column, _TRIED)))
        ]

    def column(self, name: str) -> Any:
        """One whole column as a pyarrow array; files may store it in different widths. Raises DataError when the files have none of that name."""
        import pyarrow as pa

        if name not in self.schema.names:
            raise DataError(f"{self.files[0]} has no column {name!r}; its columns: {', '.join(self.schema.names)}")
        kind = self.schema.field(name).type
        unlike = any(self._schemas[at].field(name).type != kind for at in self._filled)
        if unlike:
            self._check_alike(name)
            kind = pa.int64() if pa.types.is_integer(kind) else pa.large_string() if kind_of(kind) == "text" else kind
        chunks: list[Any] = []
        for at in self._filled:
            with _reading(self.files[at], name):
                found = self._parts[at].read([name]).column(0).chunks
            try:
                chunks += [chunk.cast(kind) for chunk in found] if unlike else found
            except pa.ArrowInvalid as error:
                raise columns.NotLabels(
                    f"{self.files[at]}: column {name!r} cannot be read together with that of the other files: {error}"
                ) from None
        return pa.chunked_array(chunks, kind).combine_chunks()

    # ---- images ----

    def content(self, places: Places) -> str:
        """Over the Parquet files and the image files that rows without bytes name, and over which of those are missing.

        Where files hold several columns of images, the name of the one that is read is part of it.
        """
        own = content_of(self.files, places, self.files[0].parent.name)
        if len(self._image_candidates) > 1 or self.image_column not in self._image_candidates:
            own = hashlib.sha256(f"{own} column {self.image_column}".encode()).hexdigest()
        if not self._links:
            return own
        there = [link.is_file() for link in self._links]
        linked = content_of(
            [link for link, found in zip(self._links, there, strict=True) if found],
            places,
            "linked image files",
        )
        return hashlib.sha256(f"{own} {linked} ".encode() + bytes(there)).hexdigest()

    @cached_property
    def _links(self) -> list[Path]:
        """The image files that are named instead of stored, in the order of their rows."""
        if holds_images(self.schema.field(self.image_column).type) not in ("struct", "text"):
            return []
        found: list[Path] = []
        for _, part, group in self._groups:
            if all_stored(self._parts[part].metadata.row_group(group), f"{self.image_column}.bytes"):
                continue  # spares reading every image once more
            for values in self._batches(part, group, self.image_column):
                found.extend(named_files(values, self.files[part].parent))
        return found

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        waiting = iter(stretches)
        current = next(waiting, None)
        found: list[Stored] = []
        ends = [first for first, _, _ in self._groups[1:]] + [self._rows]
        for (first, part, group), end in zip(self._groups, ends, strict=True):
            at = first
            if current is None:
                return
            if current[0] >= end:
                continue
            for values in self._batches(part, group, self.image_column):
                stop = at + len(values)
                while current is not None and current[0] < stop:
                    low, high = max(current[0], at), min(current[1], stop)
                    found.extend(stored(values.slice(low - at, high - low), self.files[part].parent))
                    if current[1] > stop:
                        break
                    yield found
                    found, current = [], next(waiting, None)
                at = stop
                if current is None or current[0] >= end:
                    break

    def where(self, position: int) -> str:
        first, part, group = self._groups[
            int(np.searchsorted([first for first, _, _ in self._groups], position, "right")) - 1
        ]
        table = self._parts[part].read_row_group(group, columns=[self.image_column])
        value = table.column(0)[position - first].as_py()
        path = value.get("path") if isinstance(value, dict) else None
        row = position - next(f for f, p, _ in self._groups if p == part)
        column = f", column {self.image_column!r}" if len(self._image_candidates) > 1 else ""
        return f"{self.files[part]} row {row}{column}" + (f" ({path})" if path else "")

    def _batches(self, part: int, group: int, column: str, rows: int = 256) -> Iterator[Any]:
        """A column of one row group, some rows at a time."""
        with _reading(self.files[part], column, group):
            for batch in self._parts[part].iter_batches(rows, row_groups=[group], columns=[column]):
                yield batch.column(0)


class _reading:
    """Turns what the library raises for damaged pages into a DataError that names file, column and row group."""

    def __init__(self, file: Path, column: str, group: int | None = None) -> None:
        self.where = f"{file}: column {column!r}" + (f", row group {group}" if group is not None else "")

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, (pa.ArrowException, OSError)):
            raise DataError(
                f"{self.where} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}; the file is damaged"
            ) from None


def _opened(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        if _begins_with(file, b"version https://git-lfs"):
            raise DataError(
                f"{file} is a Git LFS pointer in place of the file; `git lfs pull` gets what it stands for"
            ) from None
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None


def _begins_with(file: Path, signature: bytes) -> bool:
    try:
        with open(file, "rb") as stream:
            return stream.read(len(signature)) == signature
    except OSError:
        return False
