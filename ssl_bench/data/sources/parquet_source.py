"""From Parquet files to a source: its splits, its columns, its classes, and what a user should know of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, RawSplit, Reader, Subset
from ssl_bench.data.sources import columns
from ssl_bench.data.sources.arrow import Labels
from ssl_bench.data.sources.base import Source, after_colon
from ssl_bench.data.sources.hub import find_files, other_files, said_split, split_named, unused_files
from ssl_bench.data.sources.labels import is_missing, joined_spellings
from ssl_bench.data.sources.parquet import ParquetReader
from ssl_bench.data.sources.paths import resolve
from ssl_bench.errors import DataError
from ssl_bench.spec.matrix import SourceSpec

_ORDER = ("train", "test", "validation")
_SHOWN = 20


class ParquetSource(Source):
    """Parquet files as on the Hugging Face hub."""

    name = "parquet"
    argument = "PATH"
    images = "Parquet files as on the Hugging Face hub: image, label, class names in the metadata"

    def settings(self, spec: Any) -> Collection[str]:
        return ("image", "target", "group")

    def check(self, spec: Any, places: Places) -> None:
        resolve(after_colon(spec.source), places, self.name)

    def open(self, spec: Any, places: Places) -> RawSet:
        path = after_colon(spec.source)
        return open_parquet(resolve(path, places, self.name), spec, Path(path).name)


def open_parquet(path: Path, spec: SourceSpec, title: str) -> RawSet:
    """A Parquet file, or a folder of them in the hub's layout.

    Raises
    ------
    DataError : no Parquet files or no train split; files that are damaged, missing or contradict each other; columns that cannot be used.
    """
    files = find_files(path)
    unused = [str(file.relative_to(path)) for file in unused_files(path, files)]
    if not files and unused:
        raise DataError(
            f"{path}: it is not clear which split its Parquet files are; the names must be like train.parquet, train_0.parquet or "
            f"train-00000-of-00001.parquet, and they are {_listed(unused)}; rename one, or name one file as parquet:FILE"
        )
    if not files:
        raise DataError(
            f"{path} holds no Parquet files; looked for train-*.parquet, test-*.parquet, validation-*.parquet, also in {path / 'data'}"
        )
    if "train" not in files:
        raise DataError(
            f"{path} has no train split; its Parquet files: {_listed(sorted(file.name for found in files.values() for file in found))}"
        )
    notes = (
        [f"{path}: {len(unused):,} Parquet files of no known split are not used: {_listed(unused)}"] if unused else []
    )
    read = files["train"]
    if path.is_dir() and len({re.sub(r"\d+", "", file.name) for file in read}) > 1 and not any(map(said_split, read)):
        notes.append(
            f"{path}: {len(read):,} Parquet files whose names say no split are read as one set: {_listed([file.name for file in read])}"
        )
    if others := other_files(path):
        notes.append(
            f"{path}: other files beside the Parquet files are not read: {', '.join(f'{ending} {count:,}' for ending, count in others.items())}"
        )
    return read_parquet(str(path), files, spec, title, notes)


def read_parquet(
    where: str, files: Mapping[str, Sequence[Path]], spec: SourceSpec, title: str, notes: Sequence[str]
) -> RawSet:
    """The source that the files of its splits are; ``notes`` are of how they were found. Raises DataError as ``open_parquet`` does."""
    readers = readers_of(files, spec)
    train, notes = readers["train"], list(notes)
    images, target = train.image_column, train.label_column
    empty = [split for split, reader in readers.items() if not len(reader)]
    if empty:
        raise DataError(f"{where}: the {empty[0]} split has no rows")
    for reader in readers.values():
        notes += reader.notes
        if reader.empty_files:
            notes.append(
                f"{title}: {len(reader.empty_files):,} files have no rows: {_listed([file.name for file in reader.empty_files])}"
            )
    found = {split: reader.labels_read for split, reader in readers.items()}
    labels, classes = _with_one_list(where, found)
    notes += joined_spellings(title, [word for one in found.values() if one is not None for word in one.words])
    groups: dict[str, np.ndarray | None] = dict.fromkeys(readers)
    known: dict[str, int] = {}
    if spec.group is not None:
        values = {
            split: [str(value) for value in reader.column(spec.group).to_pylist()] for split, reader in readers.items()
        }
        bare = sum(value == "None" or is_missing(value) for own in values.values() for value in own)
        if bare:
            notes.append(
                f"{title}: {bare:,} rows have no value in column {spec.group!r} (group), and are held to be one group"
            )
        known = {value: at for at, value in enumerate(sorted({value for own in values.values() for value in own}))}
        groups = {split: np.array([known[value] for value in own], np.int64) for split, own in values.items()}
    splits = {split: RawSplit(reader, labels[split], groups[split]) for split, reader in readers.items()}
    column = _split_column(train, (images, target, spec.group))
    if column is not None:
        splits, more = _by_column(title, column, readers, splits)
        notes += more
    notes += columns.told(title, images, target, (spec.group, column), train.schema.names)
    why = (
        ""
        if target is not None
        else train.why_unlabelled or f"its columns: {_listed(train.schema.names)}; `target:` names the one with labels"
    )
    splits = {split: raw if raw.labels is not None else replace(raw, unlabelled=why) for split, raw in splits.items()}
    return RawSet(title, classes, splits, notes=tuple(notes), group_names=tuple(known))


def readers_of(files: Mapping[str, Sequence[Path]], spec: SourceSpec) -> dict[str, ParquetReader]:
    """A reader of every split, all of them reading the columns that the train split's file made the choice of."""
    kept = [spec.group] if spec.group is not None else []
    train = ParquetReader(files["train"], spec.image, spec.target, kept)
    if (column := _split_column(train, (spec.image, spec.target, spec.group))) is not None:
        train = ParquetReader(files["train"], spec.image, spec.target, [*kept, column])
    return {split: train if split == "train" else train.alike(own) for split, own in files.items()}


def _split_column(reader: ParquetReader, taken: Sequence[str | None]) -> str | None:
    def says_splits(name: str) -> bool:
        return all(split_named(word) for word in reader.first_words(name) or [""]) and columns.are_splits(
            reader.words(name), split_named
        )

    return columns.split_column([name for name in reader.schema.names if name not in taken], says_splits)


def _by_column(
    title: str,
    column: str,
    readers: Mapping[str, ParquetReader],
    splits: Mapping[str, RawSplit],
) -> tuple[dict[str, RawSplit], list[str]]:
    """The splits that a column tells apart in the one that files are of; of files that are of several splits, only that the column agrees."""
    if len(splits) > 1:
        for split, reader in readers.items():
            said = (
                {split_named(str(word).strip()) for word in reader.words(column)}
                if column in reader.schema.names
                else set()
            )
            if (other := next((one for one in said if one not in (None, split)), None)) is not None:
                raise DataError(
                    f"{title}: files of the {split} split have rows whose column {column!r} says {other}; mend one of the two"
                )
        return dict(splits), []
    whole = splits["train"]
    found, notes = columns.rows_by_split(title, column, readers["train"].words(column), split_named)
    return {split: _part_of(whole, at) for split, at in found.items()} or dict(splits), notes


def _part_of(split: RawSplit, positions: np.ndarray) -> RawSplit:
    """Some positions (sorted, int64) of a split as a split of their own."""
    reader: Reader = Subset(split.reader, positions)
    labels = None if split.labels is None else split.labels[positions]
    return RawSplit(reader, labels, None if split.groups is None else split.groups[positions])


def _with_one_list(
    where: str, found: Mapping[str, Labels | None]
) -> tuple[dict[str, np.ndarray | None], tuple[str, ...]]:
    """Labels of every split, numbered by one list of classes.

    Where the train split's file lists its classes, that list counts: others must have the same one or its beginning, and names that another
    split has as text are looked up in it. Without lists, the names that occur in any split are numbered together.
    """
    listing = next((split for split in _ORDER if (one := found.get(split)) is not None and one.listed), None)
    if listing is not None and (reference := found[listing]) is not None:
        classes = reference.names
        for split, own in found.items():
            if own is None:
                continue
            if (
                not set(own.names) <= set(classes)
                or not (own.words and not own.listed)
                and classes[: len(own.names)] != own.names
            ):
                raise DataError(
                    f"{where}: the class lists of {listing} ({len(classes)}) and {split} ({len(own.names)}) differ, e.g. {_difference(classes, own.names)}"
                )
    else:
        names = {name for one in found.values() if one is not None for name in one.names}
        whole = all(not one.words for one in found.values() if one is not None) and all(
            name.isdecimal() for name in names
        )
        classes = tuple(sorted(names, key=int if whole else str))
    number = {name: at for at, name in enumerate(classes)}
    labels: dict[str, np.ndarray | None] = {}
    for split, one in found.items():  # the last entry of the table is what -1 looks up
        labels[split] = (
            None if one is None else np.array([*(number[name] for name in one.names), -1], np.int64)[one.numbers]
        )
    return labels, classes


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    apart = sorted(set(one) ^ set(other))
    return repr(apart[0]) if apart else "their order"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
