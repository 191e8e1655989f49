"""Images in Parquet files as on the Hugging Face hub: ``image: {bytes, path}``, ``label``, class names in the metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ssl_bench.data.content import Progress, content_of
from ssl_bench.data.decode import Stored
from ssl_bench.errors import DataError

_SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}
# train.parquet, train_0.parquet, train.0.parquet, train-00000-of-00002.parquet, train-00000-of-00002-0123456789abcdef.parquet
_FILE = re.compile(r"^(?P<split>[A-Za-z]+)(?:[-_.]\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?)?\.parquet$")
_LIKE_A_SPLIT = re.compile(rf"^(?:{'|'.join(_SPLITS)})(?![A-Za-z])", re.IGNORECASE)
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


def find_files(path: Path) -> dict[str, list[Path]]:
    """The splits of a single Parquet file (train) or of a folder's Parquet files, as ``sort_into_splits`` has it."""
    if path.is_file():
        return {"train": [path]} if path.suffix == ".parquet" else {}
    folders = [folder for folder in (path, path / "data") if folder.is_dir()]
    within = [child for folder in folders for child in folder.iterdir() if child.is_dir() and split_named(child.name)]
    files = [file.relative_to(path) for folder in (*folders, *within) for file in folder.glob("*.parquet")]
    return {split: [path / file for file in found] for split, found in sort_into_splits(files).items()}


def split_named(folder: str) -> str | None:
    """The split ("train", "test", "validation") that a folder of this name holds; None for any other folder."""
    return _SPLITS.get(folder.lower())


def sort_into_splits(files: Iterable[PurePath]) -> dict[str, list[PurePath]]:
    """Split ("train", "test", "validation") to its Parquet files in order, from their paths below the set's folder.

    They lie there or in ``data``, or in a folder named like a split in one of the two. Files whose names begin with no split are the
    train split where no file is of any. A file whose name only begins like a split ("train_small-00000-of-00001.parquet") belongs to none.
    """
    known = sorted(set(files))
    others: list[PurePath] = []
    for place in (PurePath(), PurePath("data")):
        found: dict[str, list[PurePath]] = {}
        unnamed: list[PurePath] = []
        for file in (file for file in known if file.parent == place):
            match = _FILE.match(file.name)
            split = _SPLITS.get(match["split"].lower()) if match else None
            (found.setdefault(split, []) if split else unnamed).append(file)
        for file in (file for file in known if file.parent != place and file.parent.parent == place):
            if split := split_named(file.parent.name):
                found.setdefault(split, []).append(file)
        if found:
            return found
        others = others or unnamed
    if others and not any(_LIKE_A_SPLIT.match(file.name) for file in others):
        return {"train": others}
    return {}


def unused_files(path: Path, files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Parquet files where ``find_files`` looks that are in none of the splits it found."""
    if path.is_file():
        return []
    used = {file for split in files.values() for file in split}
    return [file for folder in (path, path / "data") for file in sorted(folder.glob("*.parquet")) if file not in used]


class ParquetReader:
    """Images of one split, streamed row group by row group."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.files = list(files)
        self._parts = []
        for file in self.files:
            try:
                self._parts.append(pq.ParquetFile(file, memory_map=True))
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{file} cannot be read as Parquet: {error}") from None
        _check_complete(self.files)
        self._schemas = [part.schema_arrow for part in self._parts]
        self.schema = self._schemas[0]
        for file, schema in zip(self.files, self._schemas, strict=True):
            if schema.names != self.schema.names:
                raise DataError(f"{file} has the columns {', '.join(schema.names)}, {self.files[0].name} has {', '.join(self.schema.names)}")
        self._groups: list[tuple[int, int, int]] = []  # first row, part, row group
        rows = 0
        for number, part in enumerate(self._parts):
            for group in range(part.num_row_groups):
                self._groups.append((rows, number, group))
                rows += part.metadata.row_group(group).num_rows
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def image_column(self) -> str:
        """Name of the column that holds the images. Raises DataError when there is none."""
        import pyarrow as pa

        named = [name for name, feature in self._features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"]
        for name in (*named, *_IMAGE_COLUMNS):
            if name in self.schema.names:
                kind = self.schema.field(name).type
                if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                    kind = kind.field("bytes").type
                if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                    self._check_alike(name)
                    return str(name)
        raise DataError(
            f"{self.files[0]} has no image column (`image`: bytes, or a struct with `bytes`); its columns: "
            f"{', '.join(self.schema.names)}"
        )

    @cached_property
    def _features(self) -> dict[str, Any]:
        """What the metadata says of the columns: the first file's, that is where it says anything."""
        return next((found for schema in self._schemas if (found := _features_of(schema))), {})

    def _check_alike(self, column: str) -> None:
        """Refuse files that mean different things by one column, such as another class by the same number; those without metadata say nothing."""
        first = self.schema.field(column).type
        said: dict[Path, tuple[str, list[str]]] = {}
        for file, schema in zip(self.files, self._schemas, strict=True):
            kind = schema.field(column).type
            if _kind(kind) != _kind(first):
                raise DataError(f"column {column!r} holds {first} in {self.files[0]} and {kind} in {file}; it must be alike in all files of a split")
            feature = _features_of(schema).get(column)
            if isinstance(feature, dict):
                said[file] = str(feature.get("_type")), [str(name) for name in feature.get("names") or ()]
        for file, (kind, names) in said.items():
            reference, (usual, expected) = next(iter(said.items()))
            if (kind, names) != (usual, expected):
                example = next((f": label {at} is {b!r} here, {a!r} there" for at, (a, b) in enumerate(zip(expected, names, strict=False)) if a != b), "")
                example = example or f": {kind} of {len(names)} classes here, {usual} of {len(expected)} there"
                raise DataError(f"{file} and {reference} describe column {column!r} differently{example}; files of one split must agree")

    @cached_property
    def _label_column(self) -> str | None:
        named = [name for name, feature in self._features.items() if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"]
        return next((name for name in (*_LABEL_COLUMNS, *named) if name in self.schema.names), None)

    @property
    def text_labels(self) -> bool:
        """Whether labels are names, numbered by those that this split happens to have, and not numbers of a fixed list."""
        import pyarrow as pa

        kind = None if self._label_column is None else self.schema.field(self._label_column).type
        return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """int64 [N] (-1 where a row has none) and the class names; None without a label column."""
        column = self._label_column
        if column is None:
            return None
        import pyarrow as pa

        self._check_alike(column)
        values = self.column(column)
        names = self._features.get(column, {}).get("names") if isinstance(self._features.get(column), dict) else None
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            numbers = values.cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
            numbers = np.where(numbers < 0, -1, numbers)
            highest = int(numbers.max(initial=-1))
            if names is not None and highest >= len(names):
                raise DataError(f"{self.files[0]}: label {highest} has no class name; the metadata names {len(names)} classes")
            return numbers, tuple(map(str, names)) if names is not None else tuple(str(n) for n in range(highest + 1))
        if self.text_labels:
            words = [None if value is None else str(value) for value in values.to_pylist()]
            known = tuple(sorted({word for word in words if word is not None}))
            number = {word: at for at, word in enumerate(known)}
            return np.array([-1 if word is None else number[word] for word in words], np.int64), known
        raise DataError(f"{self.files[0]}: column {column!r} holds {values.type}, not labels (integers or text)")

    def column(self, name: str) -> Any:
        """One whole column as a pyarrow array; files may store it in different widths. Raises DataError when the files have none of that name."""
        import pyarrow as pa

        if name not in self.schema.names:
            raise DataError(f"{self.files[0]} has no column {name!r}; its columns: {', '.join(self.schema.names)}")
        chunks = [chunk for part in self._parts for chunk in part.read([name]).column(0).chunks]
        kind = self.schema.field(name).type
        if any(schema.field(name).type != kind for schema in self._schemas):
            self._check_alike(name)
            kind = pa.int64() if pa.types.is_integer(kind) else pa.large_string() if _kind(kind) == "text" else kind
            chunks = [chunk.cast(kind) for chunk in chunks]
        return pa.chunked_array(chunks, kind).combine_chunks()

    def content(self, cache: Path, progress: Progress) -> str:
        """Over the Parquet files and the image files that rows without bytes name, and over which of those are missing."""
        own = content_of(self.files, cache, progress, self.files[0].parent.name)
        if not self._links:
            return own
        there = [link.is_file() for link in self._links]
        linked = content_of([link for link, found in zip(self._links, there, strict=True) if found], cache, progress, "linked image files")
        return hashlib.sha256(f"{own} {linked} ".encode() + bytes(there)).hexdigest()

    @cached_property
    def _links(self) -> list[Path]:
        """The image files that are named instead of stored, in the order of their rows."""
        import pyarrow as pa

        kind = self.schema.field(self.image_column).type
        if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return []
        found: list[Path] = []
        for _, part, group in self._groups:
            if _all_stored(self._parts[part].metadata.row_group(group), f"{self.image_column}.bytes"):
                continue  # spares reading every image once more
            for batch in self._parts[part].iter_batches(256, row_groups=[group], columns=[self.image_column]):
                values = batch.column(0)
                bare = values.filter(values.field("bytes").is_null())
                found.extend(self.files[part].parent / path for path in bare.field("path").to_pylist() if path)
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
            for batch in self._parts[part].iter_batches(256, row_groups=[group], columns=[self.image_column]):
                stop = at + len(batch)
                while current is not None and current[0] < stop:
                    low, high = max(current[0], at), min(current[1], stop)
                    found.extend(_stored(batch.column(0).slice(low - at, high - low), self.files[part].parent))
                    if current[1] > stop:
                        break
                    yield found
                    found, current = [], next(waiting, None)
                at = stop
                if current is None or current[0] >= end:
                    break

    def where(self, position: int) -> str:
        first, part, group = self._groups[int(np.searchsorted([first for first, _, _ in self._groups], position, "right")) - 1]
        table = self._parts[part].read_row_group(group, columns=[self.image_column])
        value = table.column(0)[position - first].as_py()
        path = value.get("path") if isinstance(value, dict) else None
        row = position - next(f for f, p, _ in self._groups if p == part)
        return f"{self.files[part]} row {row}" + (f" ({path})" if path else "")


def _features_of(schema: Any) -> dict[str, Any]:
    """Column to its description in the metadata of one file; empty where there is none."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def _kind(kind: Any) -> str:
    """Types of one kind can be read together, whatever width or encoding each file chose."""
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "integers"
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_struct(kind):
        return f"struct of {sorted(kind.field(at).name for at in range(kind.num_fields))}"
    return str(kind)


def _stored(values: Any, folder: Path) -> list[Stored]:
    found: list[Stored] = []
    for value in values.to_pylist():
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
            if value is None and path and (folder / path).is_file():
                value = folder / path
        found.append(value if value is not None else b"")
    return found


def _all_stored(group: Any, column: str) -> bool:
    """Whether the file's own statistics say that no row of a row group lacks ``column``."""
    for at in range(group.num_columns):
        chunk = group.column(at)
        if chunk.path_in_schema == column:
            statistics = chunk.statistics
            return statistics is not None and statistics.has_null_count and statistics.null_count == 0
    return False


def _check_complete(files: Sequence[Path]) -> None:
    """The hub numbers a split's files "-00001-of-00004"; one that is missing would silently make the set smaller."""
    numbered = [match for file in files if (match := re.search(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet$", file.name))]
    for total in {int(match[2]) for match in numbered}:
        have = {int(match[1]) for match in numbered if int(match[2]) == total}
        if len(missing := sorted(set(range(total)) - have)):
            raise DataError(
                f"{files[0].parent}: {len(missing)} of {total} Parquet files are missing, the first is number "
                f"{missing[0]:05d}-of-{total:05d}"
            )
