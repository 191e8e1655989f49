"""Parquet files of one split as one table: their schemas, what the metadata says of a column, its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_bench.data.sources import columns
from ssl_bench.data.sources.arrow import features_of, kind_of
from ssl_bench.data.sources.hub import check_complete
from ssl_bench.data.sources.labels import spelled
from ssl_bench.data.sources.pictures import is_text
from ssl_bench.errors import DataError

FIRST_ROWS = 8  # looked at to see what a column holds


class ParquetFiles:
    """The rows of several Parquet files of one split, in order.

    Raises
    ------
    DataError : files that are damaged or missing, or whose columns differ.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.parts = [_opened_parquet(file) for file in self.files]
        self.notes = check_complete(self.files)  #: what a user should know of the files
        self.schemas = [part.schema_arrow for part in self.parts]
        filled = [at for at, part in enumerate(self.parts) if part.metadata.num_rows] or [0]
        self.schema = self.schemas[filled[0]]
        for at in filled:  # a file without rows has columns of no type
            if twice := sorted(name for name, count in Counter(self.schemas[at].names).items() if count > 1):
                raise DataError(f"{self.files[at]} has several columns called {twice[0]!r}; give them different names")
            if sorted(self.schemas[at].names) != sorted(self.schema.names):
                raise DataError(
                    f"{self.files[at]} has the columns {', '.join(self.schemas[at].names)}, "
                    f"{self.files[filled[0]].name} has {', '.join(self.schema.names)}"
                )
        self.filled = filled
        self.row_groups: list[tuple[int, int, int]] = []  #: first row, part, row group
        rows = 0
        for number, part in enumerate(self.parts):
            for group in range(part.num_row_groups):
                self.row_groups.append((rows, number, group))
                rows += part.metadata.row_group(group).num_rows
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    @property
    def empty_files(self) -> list[Path]:
        """Files without a row."""
        return [file for file, part in zip(self.files, self.parts, strict=True) if not part.metadata.num_rows]

    @cached_property
    def _features(self) -> dict[str, Any]:
        """What the metadata says of the columns: the first file's, that is where it says anything."""
        return next((features for schema in self.schemas if (features := features_of(schema))), {})

    def said(self, column: str) -> str | None:
        feature = self._features.get(column)
        return str(feature.get("_type")) if isinstance(feature, dict) else None

    def names_in(self, column: str) -> tuple[str, ...] | None:
        """The class names that the metadata gives for a column; None where it gives none."""
        feature = self._features.get(column)
        # some only say how many there are
        if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel" or not feature.get("names"):
            return None
        return tuple(map(str, feature["names"]))

    def check_alike(self, column: str) -> None:
        """Refuse files that mean different things by one column, such as another class by the same number; those
        without metadata say nothing."""
        first = self.schema.field(column).type
        said: dict[Path, tuple[str, list[str]]] = {}
        for at in self.filled:
            file, schema = self.files[at], self.schemas[at]
            kind = schema.field(column).type
            if kind_of(kind) != kind_of(first):
                raise DataError(
                    f"column {column!r} holds {first} in {self.files[self.filled[0]]} and {kind} in {file}; it must "
                    "be alike in all files of a split"
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
                    f"{file} and {reference} describe column {column!r} differently{example}; files of one split must "
                    "agree"
                )

    def words(self, column: str) -> list[str | None]:
        """The values of a column as text, those of a ClassLabel by their names.

        Raises DataError when there is no such column.
        """
        return self._as_words(column, self.column(column))

    def _as_words(self, column: str, values: Any) -> list[str | None]:
        names, values = self.names_in(column), values.to_pylist()
        if names is None:
            return [
                None if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                for value in values
            ]
        return [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]

    def first_words(self, column: str) -> list[str]:
        """A column's values in the first rows, as text; empty for one of numbers, images or anything else that is no
        text."""
        if not self.rows or not (is_text(self.schema.field(column).type) or self.names_in(column) is not None):
            return []
        part, group = self.first_filled()
        return [
            "" if word is None else word.strip()
            for word in self._as_words(column, next(self.batches(part, group, column, FIRST_ROWS)))
        ]

    def first_filled(self) -> tuple[int, int]:
        """The first part and row group that has rows."""
        return next(
            (part, group) for _, part, group in self.row_groups if self.parts[part].metadata.row_group(group).num_rows
        )

    def column(self, name: str) -> Any:
        """One whole column as a pyarrow array; files may store it in different widths.

        Raises DataError when the files have none of that name.
        """
        import pyarrow as pa

        if name not in self.schema.names:
            raise DataError(f"{self.files[0]} has no column {name!r}; its columns: {', '.join(self.schema.names)}")
        kind = self.schema.field(name).type
        unlike = any(self.schemas[at].field(name).type != kind for at in self.filled)
        if unlike:
            self.check_alike(name)
            kind = pa.int64() if pa.types.is_integer(kind) else pa.large_string() if kind_of(kind) == "text" else kind
        chunks: list[Any] = []
        for at in self.filled:
            with _reading(self.files[at], name):
                read = self.parts[at].read([name]).column(0).chunks
            try:
                chunks += [chunk.cast(kind) for chunk in read] if unlike else read
            except pa.ArrowInvalid as error:
                raise columns.NotLabels(
                    f"{self.files[at]}: column {name!r} cannot be read together with that of the other files: {error}"
                ) from None
        return pa.chunked_array(chunks, kind).combine_chunks()

    def batches(self, part: int, group: int, column: str, rows: int = 256) -> Iterator[Any]:
        """A column of one row group, some rows at a time."""
        with _reading(self.files[part], column, group):
            for batch in self.parts[part].iter_batches(rows, row_groups=[group], columns=[column]):
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
                f"{self.where} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}; "
                "the file is damaged"
            ) from None


def _opened_parquet(file: Path) -> Any:
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
