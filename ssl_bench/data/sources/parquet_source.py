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
from ssl_bench.data.sources.listing import some
from ssl_bench.data.sources.parquet import ParquetReader
from ssl_bench.data.sources.paths import resolve
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec

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
    DataError : no Parquet files or no train split; files that are damaged, missing or contradict each other; columns
        that cannot be used.
    """
    files = find_files(path)
    unused = [str(file.relative_to(path)) for file in unused_files(path, files)]
    if not files and unused:
        raise DataError(
            f"{path}: it is not clear which split its Parquet files are; the names must be like train.parquet, "
            "train_0.parquet or "
            f"train-00000-of-00001.parquet, and they are {some(unused, _SHOWN)}; rename one, or name one file as "
            "parquet:FILE"
        )
    if not files:
        raise DataError(
            f"{path} holds no Parquet files; looked for train-*.parquet, test-*.parquet, validation-*.parquet, also "
            f"in {path / 'data'}"
        )
    if "train" not in files:
        raise DataError(
            f"{path} has no train split; its Parquet files: "
            f"{some(sorted(file.name for members in files.values() for file in members), _SHOWN)}"
        )
    notes = (
        [f"{path}: {len(unused):,} Parquet files of no known split are not used: {some(unused, _SHOWN)}"]
        if unused
        else []
    )
    read = files["train"]
    if path.is_dir() and len({re.sub(r"\d+", "", file.name) for file in read}) > 1 and not any(map(said_split, read)):
        notes.append(
            f"{path}: {len(read):,} Parquet files whose names say no split are read as one set: "
            f"{some([file.name for file in read], _SHOWN)}"
        )
    if others := other_files(path):
        notes.append(
            f"{path}: other files beside the Parquet files are not read: "
            f"{', '.join(f'{ending} {count:,}' for ending, count in others.items())}"
        )
    return read_parquet(str(path), files, spec, title, notes)


def read_parquet(
    where: str, files: Mapping[str, Sequence[Path]], spec: SourceSpec, title: str, notes: Sequence[str]
) -> RawSet:
    """The source that the files of its splits are; ``notes`` are of how they were found.

    Raises DataError as ``open_parquet`` does.
    """
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
                f"{title}: {len(reader.empty_files):,} files have no rows: "
                f"{some([file.name for file in reader.empty_files], _SHOWN)}"
            )
    read = {split: reader.labels_read for split, reader in readers.items()}
    labels, classes = _with_one_list(where, read)
    notes += joined_spellings(title, [word for its in read.values() if its is not None for word in its.words])
    groups: dict[str, np.ndarray | None] = dict.fromkeys(readers)
    known: dict[str, int] = {}
    if spec.group is not None:
        values = {
            split: [str(value) for value in reader.column(spec.group).to_pylist()] for split, reader in readers.items()
        }
        bare = sum(value == "None" or is_missing(value) for column in values.values() for value in column)
        if bare:
            notes.append(
                f"{title}: {bare:,} rows have no value in column {spec.group!r} (group), and are treated as one group"
            )
        known = {
            value: at for at, value in enumerate(sorted({value for column in values.values() for value in column}))
        }
        groups = {split: np.array([known[value] for value in column], np.int64) for split, column in values.items()}
    splits = {split: RawSplit(reader, labels[split], groups[split]) for split, reader in readers.items()}
    column = _split_column(train, (images, target, spec.group))
    if column is not None:
        splits, more = _by_column(title, column, readers, splits)
        notes += more
    notes += columns.told(title, images, target, (spec.group, column), train.schema.names)
    why = (
        ""
        if target is not None
        else train.why_unlabelled
        or f"its columns: {some(train.schema.names, _SHOWN)}; `target:` names the one with labels"
    )
    splits = {split: raw if raw.labels is not None else replace(raw, unlabelled=why) for split, raw in splits.items()}
    return RawSet(title, classes, splits, notes=tuple(notes), group_names=tuple(known))


def readers_of(files: Mapping[str, Sequence[Path]], spec: SourceSpec) -> dict[str, ParquetReader]:
    """A reader of every split, all of them reading the columns that the train split's file made the choice of."""
    kept = [spec.group] if spec.group is not None else []
    train = ParquetReader(files["train"], spec.image, spec.target, kept)
    if (column := _split_column(train, (spec.image, spec.target, spec.group))) is not None:
        train = ParquetReader(files["train"], spec.image, spec.target, [*kept, column])
    return {split: train if split == "train" else train.alike(members) for split, members in files.items()}


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
    """The splits that a column tells apart in the one that files are of; of files that are of several splits, only that
    the column agrees."""
    if len(splits) > 1:
        for split, reader in readers.items():
            said = (
                {split_named(str(word).strip()) for word in reader.words(column)}
                if column in reader.schema.names
                else set()
            )
            if (other := next((word for word in said if word not in (None, split)), None)) is not None:
                raise DataError(
                    f"{title}: files of the {split} split have rows whose column {column!r} says {other}; mend one of "
                    "the two"
                )
        return dict(splits), []
    whole = splits["train"]
    rows_of, notes = columns.rows_by_split(title, column, readers["train"].words(column), split_named)
    return {split: _subset_of_split(whole, at) for split, at in rows_of.items()} or dict(splits), notes


def _subset_of_split(split: RawSplit, positions: np.ndarray) -> RawSplit:
    """Some positions (sorted, int64) of a split as a split of their own."""
    reader: Reader = Subset(split.reader, positions)
    labels = None if split.labels is None else split.labels[positions]
    return RawSplit(reader, labels, None if split.groups is None else split.groups[positions])


def _with_one_list(
    where: str, read: Mapping[str, Labels | None]
) -> tuple[dict[str, np.ndarray | None], tuple[str, ...]]:
    """Labels of every split, numbered by one list of classes.

    Where the train split's file lists its classes, that list counts: others must have the same one or its beginning,
    and names that another split has as text are looked up in it. Without lists, the names that occur in any split are
    numbered together.
    """
    labelled = {split: labels for split, labels in read.items() if labels is not None}
    listing = next((split for split in _ORDER if split in labelled and labelled[split].listed), None)
    if listing is not None:
        classes = labelled[listing].names
        for split, labels in labelled.items():
            if (
                not set(labels.names) <= set(classes)
                or not (labels.words and not labels.listed)
                and classes[: len(labels.names)] != labels.names
            ):
                raise DataError(
                    f"{where}: the class lists of {listing} ({len(classes)}) and {split} ({len(labels.names)}) differ, "
                    f"e.g. {_differing_class(classes, labels.names)}"
                )
    else:
        names = {name for labels in labelled.values() for name in labels.names}
        whole = not any(labels.words for labels in labelled.values()) and all(name.isdecimal() for name in names)
        classes = tuple(sorted(names, key=int if whole else str))
    number = {name: at for at, name in enumerate(classes)}
    numbered: dict[str, np.ndarray | None] = dict.fromkeys(read)
    for split, labels in labelled.items():  # the last entry of the table is what -1 looks up
        table = np.array([*(number[name] for name in labels.names), -1], np.int64)
        numbered[split] = table[labels.numbers]
    return numbered, classes


def _differing_class(classes: Sequence[str], other: Sequence[str]) -> str:
    apart = sorted(set(classes) ^ set(other))
    return repr(apart[0]) if apart else "their order"
