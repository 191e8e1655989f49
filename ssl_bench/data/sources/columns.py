"""Which column of a table holds the images, the labels and the split, where nobody has said so; the same for Parquet
and csv."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_bench.data.sources.labels import look_like_ids, same_partition
from ssl_bench.errors import DataError, did_you_mean

# In the order of preference; the hub's names first, then those of webdataset, whose columns are file extensions.
IMAGES = (
    "image",
    "img",
    "images",
    "pixel_values",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "picture",
    "photo",
    "image_bytes",
    "img_bytes",
    "image_data",
    "bytes",
)
LABELS = (
    "label",
    "labels",
    "fine_label",
    "target",
    "class",
    "cls",
    "category",
    "class_label",
    "class_name",
    "classname",
    "label_name",
    "category_name",
    "class_id",
    "label_id",
    "category_id",
    "y",
)
FILES = (
    "file",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "path",
    "image",
    "image_path",
    "image_file",
    "image_name",
    "img",
    "img_path",
    "img_name",
    "filename_path",
    "name",
    "image_id",
    "id",
)
SPLITS = ("split", "subset", "partition", "set")
_DERIVED = frozenset(
    (  # of pictures about a picture
        "mask",
        "masks",
        "segmentation",
        "seg",
        "segm",
        "segmap",
        "semantic",
        "instance",
        "panoptic",
        "depth",
        "disparity",
        "normal",
        "normals",
        "thumbnail",
        "thumb",
        "preview",
        "annotation",
        "annotations",
        "edge",
        "edges",
        "canny",
        "conditioning",
        "condition",
        "trimap",
        "matte",
        "alpha",
        "saliency",
        "heatmap",
        "flow",
        "overlay",
        "gt",
        "truth",
        "groundtruth",
        "label",
        "labels",
        "sketch",
        "contour",
        "skeleton",
        "cam",
        "attention",
        "icon",
    )
)
_OWN = re.compile(r"|__\w+__|Unnamed: \d+")  # webdataset's __key__ and __url__, and an index that pandas wrote
_SHOWN = 20


class NotLabels(DataError):
    """A column that holds something else than one label a row."""


@dataclass(frozen=True)
class LabelColumn:
    """A column that may hold labels.

    Attributes
    ----------
    name : of the column.
    declared : whether the file itself calls its values classes (the hub's ClassLabel).
    codes : labels int64 [N], -1 for none, as far as they tell images apart; raises NotLabels where the values are none.
    """

    name: str
    declared: bool
    codes: Callable[[], np.ndarray]


def rank(name: str, names: Sequence[str]) -> int | None:
    """Place of a column's name in an order of preference, whatever its letter case; webdataset may put a word before
    ("left.jpg"). None: not in it."""
    plain = name.strip().lower()
    if plain in names:
        return 2 * names.index(plain)
    last = plain.rpartition(".")[2]
    return 2 * names.index(last) + 1 if last in names else None


def is_derived(name: str) -> bool:
    """Whether a column's name says that its images are masks, depths, thumbnails or the like of other images."""
    if name.strip().lower() in IMAGES:
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return bool(_DERIVED & {re.sub(r"\d+$", "", word) for word in words})


def choose_images(where: str, candidates: Mapping[str, bool]) -> str:
    """The column of images among ``candidates``, which map each name to whether the file itself declares that it holds
    images.

    Declared ones come before others, and masks, depths and thumbnails only where there is nothing else; then
    conventional names decide. Raises DataError where several remain and none has a conventional name.
    """
    plain = [name for name in candidates if not is_derived(name)] or list(candidates)
    left = [name for name in plain if candidates[name]] or plain
    ranked = sorted((place, name) for name in left if (place := rank(name, IMAGES)) is not None)
    if len(left) > 1 and (not ranked or len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        raise DataError(
            f"{where} has several columns of images, {_quoted_names(left)}; say which, as `image: {left[0]}`"
        )
    return ranked[0][1] if ranked else left[0]


def choose_labels(where: str, columns: Sequence[LabelColumn]) -> tuple[str | None, str]:
    """The column of labels among ``columns``, and why there is none where one might be expected ("" where there is
    nothing to say).

    Columns that the file declares to be classes come first, then those of conventional names. Where several of them
    tell different images apart, nothing decides between them.
    """
    declared = [column for column in columns if column.declared]
    named = [column for column in (declared or columns) if rank(column.name, LABELS) is not None]
    usable: dict[str, np.ndarray] = {}
    reasons: list[str] = []
    for column in sorted(named or declared, key=lambda column: rank(column.name, LABELS) or 0):
        try:
            codes = column.codes()
        except NotLabels as error:
            reasons.append(str(error))
            continue
        if not column.declared and look_like_ids(codes):
            count = len(np.unique(codes[codes >= 0]))
            reasons.append(
                f"column {column.name!r} has {count:,} different values in {len(codes):,} rows, which are no classes"
            )
        else:
            usable[column.name] = codes
    if len(usable) > 1:  # a column of one value says nothing where another one says something
        usable = {name: codes for name, codes in usable.items() if len(np.unique(codes)) > 1} or usable
    first = next(iter(usable), None)
    if first is None:
        return None, "; ".join(reasons)
    apart = [name for name, codes in usable.items() if not same_partition(codes, usable[first])]
    if apart:
        return (
            None,
            f"{where} has several columns of labels, {_quoted_names([first, *apart])}, which differ; say which, "
            f"as `target: {first}`",
        )
    return first, ""


def check_named(where: str, setting: str, name: str, columns: Sequence[str]) -> None:
    """Refuse (DataError) a column that was asked for and is not there."""
    if name not in columns:
        raise DataError(f"{where} has no column {name!r} ({setting}: {name}); {did_you_mean(name, columns)}")


def told(
    where: str,
    images: str,
    labels: str | None,
    used: Sequence[str | None],
    columns: Sequence[str],
    setting: str = "images",
) -> list[str]:
    """What was taken, where a table holds more than that."""
    rest = [name for name in columns if name not in (images, labels, *used) and not _OWN.fullmatch(name)]
    if not rest:
        return []
    taken = f"{setting} from column {images!r}" + (f", labels from {labels!r}" if labels is not None else ", no labels")
    return [f"{where}: {taken}; not used: {_quoted_names(rest)} (`image:` and `target:` name other columns)"]


def split_column(columns: Sequence[str], says_splits: Callable[[str], bool]) -> str | None:
    """The column that says which split a row belongs to, by its name or else by its values; None where there is none,
    or more than one.

    ``says_splits`` : whether all values of a column are words for splits. Columns that are called like labels are not
    asked.
    """
    named = [name for name in columns if name.strip().lower() in SPLITS]
    exact = [name for name in named if name.strip().lower() == SPLITS[0]]
    if not named:
        named = [name for name in columns if rank(name, LABELS) is None and says_splits(name)]
    return exact[0] if len(exact) == 1 else named[0] if len(named) == 1 else None


def are_splits(values: Iterable[Any], known: Callable[[str], str | None]) -> bool:
    """Whether all values are words for splits, among them train and another one."""
    said = {None if value is None else known(str(value).strip()) for value in set(values)}
    return None not in said and {"train"} < said


def rows_by_split(
    where: str,
    column: str,
    values: Sequence[Any],
    known: Callable[[str], str | None],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Positions int64 of each split ("train", "test", "validation") by a column's values, and what a user should know.

    Nothing where the column names no train split: then its values are of another kind, or all rows are of one split.
    ``known`` : a value to its split.
    """
    words = ["" if value is None else str(value).strip() for value in values]
    of_word = {word: known(word) for word in set(words)}
    if "train" not in of_word.values():
        shown = ", ".join(repr(word) for word in sorted(of_word)[:_SHOWN])
        return {}, [f"{where}: column {column!r} names no train split ({shown}), so all rows are read as one split"]
    rows = np.array([of_word[word] or "" for word in words])
    rows_of = {
        split: np.flatnonzero(rows == split) for split in ("train", "test", "validation") if (rows == split).any()
    }
    if len(rows_of) == 1 and len(rows_of["train"]) == len(rows):
        return {}, []
    notes = [
        f"{where}: column {column!r} gives the splits: "
        f"{', '.join(f'{split} {len(at):,}' for split, at in rows_of.items())} rows"
    ]
    if others := sorted(word for word, split in of_word.items() if split is None):
        counts = ", ".join(f"{word!r} {words.count(word):,}" for word in others[:_SHOWN])
        notes.append(f"{where}: rows of other values in column {column!r} are not used: {counts}")
    return rows_of, notes


def _quoted_names(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    )
