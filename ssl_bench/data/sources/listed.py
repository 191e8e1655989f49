"""Image files listed in a csv, with their labels, groups and splits."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ssl_bench.data.sources import columns
from ssl_bench.data.sources.csv_table import CsvTable, read_table
from ssl_bench.data.sources.hub import split_named
from ssl_bench.data.sources.labels import as_number, is_missing, joined_spellings, numbered, spelled
from ssl_bench.data.sources.layout import FolderSplit
from ssl_bench.data.sources.listed_files import ListedFiles
from ssl_bench.data.sources.listing import extensions, shown, some
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.spec.data import SourceSpec

_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"['\"]?sep=(.)['\"]?", re.IGNORECASE)
_SAMPLE = 200  # rows looked at to see which column names files
_SHOWN = 20


def read_csv(folder: Path, spec: SourceSpec) -> tuple[dict[str, FolderSplit], list[str]]:
    """Files listed in ``spec.labels``, by split (train alone, unless a column tells splits apart), and what a user
    should know.

    The column of files is the one whose values are files below ``folder`` (an ending of images may be left out), that
    of labels one with a conventional name, unless ``spec`` names them. Fields are separated by commas, semicolons, tabs
    or bars, as the first line has it.

    Raises
    ------
    DataError : no such csv or column, several that may be meant, fields that are empty or too many, files that are
        missing or have two labels.
    """
    table = read_table(_table_path(folder, str(spec.labels)))
    where, notes = str(table.path), []
    for setting, name in (("image", spec.image), ("target", spec.target), ("group", spec.group)):
        if name is not None:
            columns.check_named(where, setting, name, table.columns)
    if spec.group is not None and spec.group in (spec.image, spec.target):
        raise DataError(
            f"{where}: `group: {spec.group}` is also {'`image:`' if spec.group == spec.image else '`target:`'}; name "
            "another column"
        )
    files = ListedFiles(folder)
    of_files = spec.image or _file_column(table, files, [spec.target, spec.group])
    of_labels = spec.target or _label_column(table, [of_files, spec.group])
    _codes(table, of_labels)  # refuses what are no classes
    of_splits = columns.split_column(
        [name for name in table.columns if name not in (of_files, of_labels, spec.group)],
        lambda name: columns.are_splits(table.column(name), split_named),
    )
    words, texts = table.written(of_labels), table.column(of_files)
    groups = table.column(spec.group) if spec.group is not None else None
    blank = [
        line
        for at, line in enumerate(table.lines)
        if not texts[at] or is_missing(words[at]) or groups is not None and not groups[at]
    ]
    if not table.rows:
        raise DataError(f"{where} lists no file")
    if blank:
        raise DataError(
            f"{where}: empty fields in {len(blank):,} lines: {some(list(map(str, blank)), _SHOWN)} (no file, label or "
            "group)"
        )
    paths = files.resolve(table, texts)
    values = table.column(of_splits) if of_splits is not None else None
    facts = [
        (spelled(words[at]), *(column[at] for column in (groups, values) if column is not None))
        for at in range(len(words))
    ]
    rows, more = _once(table, paths, texts, facts)
    notes += more
    notes += joined_spellings(shown(folder.resolve().name), [words[at] for at in rows])
    unlisted = files.beside([paths[at] for at in rows])
    if unlisted:
        notes.append(f"{folder}: {unlisted:,} images that {table.path.name} does not list are not used")
    rows.sort(key=lambda at: str(paths[at]))
    parts = {"train": np.arange(len(rows))}
    if of_splits is not None and values is not None:
        rows_of, more = columns.rows_by_split(table.path.name, of_splits, [values[at] for at in rows], split_named)
        parts, notes = rows_of or parts, notes + more
    notes += columns.told(table.path.name, of_files, of_labels, (spec.group, of_splits), table.columns, "files")
    splits = {}
    for split, positions in parts.items():
        used = [rows[at] for at in positions]
        splits[split] = FolderSplit(
            [paths[at] for at in used],
            [words[at] for at in used],
            None if groups is None else [groups[at] for at in used],
        )
    return splits, notes


def _table_path(folder: Path, table: str) -> Path:
    tried = [Path(table)] if Path(table).is_absolute() else [folder / table, Path(table)]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise DataError(f"labels {table!r} does not exist; looked for {' and '.join(map(str, tried))}")


def _file_column(table: CsvTable, files: ListedFiles, taken: Sequence[str | None]) -> str:
    """The column whose values are files; where none are, the one that is called so, whose rows are then told to be
    missing."""
    left = [name for name in table.columns if name not in taken and name]
    if listed := next(
        (name for name in left if os.path.splitext(name)[1].lower() in extensions() and files.matching(name)), None
    ):
        raise DataError(
            f"{table.path} begins with a file, {listed!r}, and not with the names of its columns; write file,label as "
            "its first line"
        )
    rows = (
        np.unique(np.linspace(0, max(0, len(table.rows) - 1), _SAMPLE).astype(int)) if table.rows else np.zeros(0, int)
    )
    able = []
    for name in left:
        values = table.column(name)
        if len(rows) and 2 * sum(bool(files.matching(values[at])) for at in rows) >= len(rows):
            able.append(name)
    # the label 1 may be called like 1.png
    able = [name for name in able if columns.rank(name, columns.LABELS) is None] or able
    able = [name for name in able if not columns.is_derived(name)] or able
    ranked = sorted((place, name) for name in able or left if (place := columns.rank(name, columns.FILES)) is not None)
    if ranked and (len(ranked) == 1 or ranked[0][0] < ranked[1][0]):
        return ranked[0][1]
    if len(able) == 1:
        return able[0]
    if able:
        raise DataError(
            f"{table.path} has several columns of files, {', '.join(map(repr, able))}; say which, as `image: {able[0]}`"
        )
    raise DataError(
        f"{table.path} has no column 'file'; {did_you_mean('file', left)}; `image:` names the column of files"
    )


def _label_column(table: CsvTable, taken: Sequence[str | None]) -> str:
    left = [name for name in table.columns if name not in taken]
    able = [columns.LabelColumn(name, False, partial(_codes, table, name)) for name in left]
    chosen, why = columns.choose_labels(str(table.path), able)
    if chosen is None:
        raise DataError(
            why
            if why
            else (
                f"{table.path} has no column 'label'; {did_you_mean('label', left)}; `target:` names the column of "
                "labels"
            )
        )
    return chosen


def _codes(table: CsvTable, name: str) -> np.ndarray:
    words = table.column(name)
    numbers = {word: as_number(word) for word in words if not is_missing(word)}
    broken = next(
        (
            word
            for word, number in numbers.items()
            if number is not None and math.isfinite(number) and not number.is_integer()
        ),
        None,
    )
    if broken is not None and None not in numbers.values():
        raise columns.NotLabels(f"{table.path}: column {name!r} holds measurements such as {broken}, not classes")
    return numbered(words)[0]


def _once(
    table: CsvTable,
    paths: Sequence[Path],
    texts: Sequence[str],
    kept: Sequence[tuple[str, ...]],
) -> tuple[list[int], list[str]]:
    """The rows to use: of a file that is listed several times with the same values in ``kept`` (label, group, split),
    the first.

    Raises DataError where they differ.
    """
    rows: dict[Path, list[int]] = {}
    for at, path in enumerate(paths):
        rows.setdefault(path, []).append(at)
    twice = {path: repeats for path, repeats in rows.items() if len(repeats) > 1}
    differ = {path: repeats for path, repeats in twice.items() if len({kept[at] for at in repeats}) > 1}
    if differ:
        told = [
            f"{texts[repeats[0]]} (lines {' and '.join(str(table.lines[at]) for at in repeats)}: "
            f"{' and '.join('/'.join(kept[at]) for at in repeats)})"
            for repeats in differ.values()
        ]
        raise DataError(f"{table.path} lists {len(differ):,} files more than once: {some(told, _SHOWN)}")
    notes = (
        [
            f"{table.path.name} lists {len(twice):,} files more than once, with the same label each time; they are "
            "used once"
        ]
        if twice
        else []
    )
    return [repeats[0] for repeats in rows.values()], notes
