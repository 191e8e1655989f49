"""``folder:PATH``: images in folders, or those that a csv lists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, RawSplit
from ssl_bench.data.sources import folders
from ssl_bench.data.sources.base import Source, after_colon
from ssl_bench.data.sources.labels import joined_spellings
from ssl_bench.data.sources.listed import read_csv
from ssl_bench.data.sources.listing import shown
from ssl_bench.data.sources.paths import resolve
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec


class FolderSource(Source):
    """Images in folders, or those that a csv lists."""

    name = "folder"
    argument = "PATH"
    images = (
        "train/ and test/ with class folders, plain class folders, any tree without labels, or files listed in a csv"
    )

    def settings(self, spec: Any) -> Collection[str]:
        return ("labels", "image", "target", "group") if spec.labels is not None else ("labels", "layout")

    def check(self, spec: Any, places: Places) -> None:
        resolve(after_colon(spec.source), places, self.name)

    def open(self, spec: Any, places: Places) -> RawSet:
        return read_images(after_colon(spec.source), spec, places)


def read_images(path: str, spec: SourceSpec, places: Places, title: str | None = None) -> RawSet:
    """The images of a folder, by its folders or by the csv that ``spec.labels`` names; ``title`` takes the place of the
    folder's name."""
    folder = resolve(path, places, "folder")
    if not folder.is_dir():
        raise DataError(f"folder:{path} is a file, not a folder")
    unreadable: list[str] = []
    if spec.labels is not None:
        splits, notes = read_csv(folder, spec)
    else:
        splits, notes, unreadable = folders.read_folder(folder, spec.layout)
        notes += joined_spellings(
            shown(folder.resolve().name), [label for split in splits.values() for label in split.labels or ()]
        )
    labels, classes = folders.class_numbers(splits)
    names = sorted({group for split in splits.values() for group in split.groups or ()})
    number = {group: at for at, group in enumerate(names)}
    raw = {}
    for name, split in splits.items():
        groups = None if split.groups is None else np.array([number[group] for group in split.groups], np.int64)
        raw[name] = RawSplit(
            folders.FileReader(split.files), labels[name], groups, unlabelled=split.unlabelled, doubt=split.doubt
        )
    return RawSet(
        title or shown(folder.resolve().name),
        classes,
        raw,
        notes=tuple(notes),
        unreadable=tuple(unreadable),
        group_names=tuple(names),
    )
