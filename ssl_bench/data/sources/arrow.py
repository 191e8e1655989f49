"""What Arrow columns mean as labels, and what the hub's metadata says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_bench.data.sources.columns import NotLabels
from ssl_bench.data.sources.labels import numbered, spelled
from ssl_bench.data.sources.pictures import is_list, is_text, storage_of
from ssl_bench.errors import DataError


@dataclass(frozen=True)
class Labels:
    """A column of labels: ``numbers`` int64 [N], -1 for none, the names they stand for, and the words they were, where
    they were text.

    ``listed`` : the names are a list that the file gives; otherwise they are those that happened to occur.
    """

    numbers: np.ndarray
    names: tuple[str, ...]
    listed: bool
    words: tuple[str | None, ...] = ()


def labels_of(values: Any, names: tuple[str, ...] | None, file: str, column: str) -> Labels:
    """The labels that a column's values are; ``names`` are those of the metadata, None without.

    Raises
    ------
    NotLabels : several values a row, measurements, bytes that are no text, dates and the like.
    DataError : a number without a name among ``names``.
    """
    import pyarrow as pa

    where = f"{file}: column {column!r}"
    kind = storage_of(values.type)
    if is_list(kind):
        raise NotLabels(
            f"{where} holds several labels an image ({kind}), and every image needs one; name a column with one as "
            "`target:`"
        )
    if pa.types.is_floating(kind):
        values = _as_whole(values, where)
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return _of_numbers(values, names, file, where)
    if is_text(values.type) or pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        words = tuple(_word(value, where) for value in values.to_pylist())
        return Labels(*numbered(words), listed=False, words=words)
    raise NotLabels(f"{where} holds {values.type}, not labels (integers or text)")


def _as_whole(values: Any, where: str) -> Any:
    """Floats that are whole numbers, as pandas makes of integers where some are missing, as integers.

    Raises NotLabels for others.
    """
    import pyarrow as pa

    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    gone = ~np.isfinite(numbers)
    broken = numbers[~gone & (numbers != np.floor(numbers))]
    if len(broken):
        raise NotLabels(f"{where} holds measurements such as {broken[0]:g}, not classes")
    if len(numbers) and np.abs(numbers[~gone]).max(initial=0) >= 2**53:
        raise NotLabels(f"{where} holds numbers too large to be classes")
    return pa.array(np.where(gone, -1, numbers).astype(np.int64))


def _of_numbers(values: Any, names: tuple[str, ...] | None, file: str, where: str) -> Labels:
    import pyarrow as pa

    truth = pa.types.is_boolean(values.type)
    try:
        numbers = values.cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
    except pa.ArrowInvalid:
        raise NotLabels(f"{where} holds numbers too large to be classes") from None
    # how some write two classes, not "one class or none"
    if names is None and not values.null_count and set(np.unique(numbers).tolist()) == {-1, 1}:
        return Labels((numbers > 0).astype(np.int64), ("-1", "1"), listed=False)
    numbers = np.where(numbers < 0, -1, numbers)
    if names is None:
        occurring, place = np.unique(numbers, return_inverse=True)
        missing = int((occurring < 0).sum())
        told = tuple(str(number) if not truth else str(bool(number)).lower() for number in occurring[missing:].tolist())
        return Labels(place.astype(np.int64).reshape(-1) - missing, told, listed=False)
    highest = int(numbers.max(initial=-1))
    if highest >= len(names):
        raise DataError(f"{file}: label {highest} has no class name; the metadata names {len(names)} classes")
    clean = list(dict.fromkeys(map(spelled, names)))
    if len(clean) == len(names):
        return Labels(numbers, tuple(clean), listed=True)
    # the last entry is what -1 looks up
    number = np.array([*(clean.index(spelled(name)) for name in names), -1], np.int64)
    return Labels(
        number[numbers], tuple(clean), listed=True, words=tuple(names[at] if at >= 0 else None for at in numbers)
    )


def _word(value: Any, where: str) -> str | None:
    if isinstance(value, bytes):  # webdataset keeps the file "cls" as it was
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise NotLabels(f"{where} holds bytes that are no text, and no labels") from None
    return None if value is None else str(value)


def features_of(schema: Any) -> dict[str, Any]:
    """Column to its description in the metadata of one file; empty where there is none."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def kind_of(kind: Any) -> str:
    """Types of one kind can be read together, whatever width or encoding each file chose."""
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "integers"
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_struct(kind):
        return f"struct of {sorted(kind.field(at).name for at in range(kind.num_fields))}"
    return str(kind)


def all_stored(group: Any, column: str) -> bool:
    """Whether the file's own statistics say that no row of a row group lacks ``column``."""
    for at in range(group.num_columns):
        chunk = group.column(at)
        if chunk.path_in_schema == column:
            statistics = chunk.statistics
            return statistics is not None and statistics.has_null_count and statistics.null_count == 0
    return False
