"""Which Parquet files of a set are of which split, by the names that they have on the Hugging Face hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from ssl_bench.data.sources.split_names import role_of
from ssl_bench.errors import DataError

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
# train.parquet, train_0.parquet, train.0.parquet, train-00000-of-00002.parquet,
# train-00000-of-00002-0123456789abcdef.parquet
_FILE = re.compile(r"^(?P<split>[A-Za-z]+)(?:[-_.]\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?)?\.parquet$", re.IGNORECASE)
_TAIL = re.compile(r"-\d+-of-\d+(?:-[0-9a-f]+)?$")
_SHOWN = 20
_ENDING = ".parquet"
_GOES_WITH = re.compile(
    r"(?:readme|licen[cs]e|citation|dataset_infos?\.|dataset_dict\.|state\.json)|.*\.(?:md|py|gitattributes)$",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d+)-of-(\d+)(?:-[0-9a-f]+)?\.parquet$", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^|[-_.])(\d+)$")
_LIKE_A_SPLIT = re.compile(rf"^(?:{'|'.join(_SPLITS)})(?![A-Za-z])", re.IGNORECASE)


def find_files(path: Path) -> dict[str, list[Path]]:
    """The splits of a single Parquet file (train) or of a folder's Parquet files, as ``sort_into_splits`` has it."""
    if path.is_file():
        return {"train": [path]}
    folders = [folder for folder in (path, path / "data") if folder.is_dir()]
    within = [child for folder in folders for child in folder.iterdir() if child.is_dir() and split_named(child.name)]
    files = [
        file.relative_to(path)
        for folder in (*folders, *within)
        for file in folder.iterdir()
        if _is_parquet(file) and not file.name.startswith(".")
    ]
    return {split: [path / file for file in members] for split, members in sort_into_splits(files).items()}


def split_named(folder: str) -> str | None:
    """The split ("train", "test", "validation") that a folder of this name holds; None for any other folder."""
    return _SPLITS.get(folder.lower())


def sort_into_splits(files: Iterable[PurePath]) -> dict[str, list[PurePath]]:
    """Split ("train", "test", "validation") to its Parquet files in order, from their paths below the set's folder.

    They lie there or in ``data``, or in a folder named like a split in one of the two. Files whose names begin with no
    split are the train split where no file is of any. A file whose name only begins like a split
    ("train_small-00000-of-00001.parquet") belongs to none.
    """
    known = sorted(set(files))
    others: list[PurePath] = []
    for place in (PurePath(), PurePath("data")):
        splits: dict[str, list[PurePath]] = {}
        unnamed: list[PurePath] = []
        for file in (file for file in known if file.parent == place):
            match = _FILE.match(file.name)
            split = _SPLITS.get(match["split"].lower()) if match else None
            (splits.setdefault(split, []) if split else unnamed).append(file)
        for file in (file for file in known if file.parent != place and file.parent.parent == place):
            if split := split_named(file.parent.name):
                splits.setdefault(split, []).append(file)
        if splits:
            return splits
        others = others or unnamed
    # "flowers_train" and "flowers_test" are not read as one set
    if others and not any(_LIKE_A_SPLIT.match(file.name) or said_split(file) not in (None, "train") for file in others):
        return {"train": others}
    return {}


def said_split(file: PurePath) -> str | None:
    """The split that a file's name or its folder's says in whatever words ("flowers_test.parquet"); None where it says
    none."""
    role = role_of(_TAIL.sub("", file.stem))
    return split_named(file.parent.name) or (None if role is None else role.split)


def unused_files(path: Path, files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Parquet files of a folder, and below it, that are in none of the splits that ``find_files`` found."""
    if path.is_file():
        return []
    used = {file for split in files.values() for file in split}
    return [
        file
        for file in sorted(path.rglob("*"))
        if _is_parquet(file) and file not in used and _is_seen(file.relative_to(path))
    ]


def other_files(path: Path) -> dict[str, int]:
    """How many files of each other ending lie where ``find_files`` looks; hidden ones and those that go with a set of
    the hub do not count."""
    if path.is_file():
        return {}
    names = [
        file.name
        for folder in (path, path / "data")
        if folder.is_dir()
        for file in folder.iterdir()
        if file.is_file() and _is_seen(PurePath(file.name))
    ]
    counts = Counter(
        PurePath(name).suffix.lower() or name
        for name in names
        if not name.lower().endswith(_ENDING) and not _GOES_WITH.match(name)
    )
    return dict(counts.most_common())


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == _ENDING


def _is_seen(file: PurePath) -> bool:
    return not any(part.startswith(".") for part in file.parts)


def check_complete(files: Sequence[Path]) -> list[str]:
    """Whether the files of one split are whole, and each there once; notes on gaps that may be meant.

    The hub numbers them "-00001-of-00004": one that is missing would silently make the set smaller, and one of another
    export would be read beside the same images. Files that are only numbered may have been chosen.

    Raises
    ------
    DataError : files of an export are missing, or files of several exports lie together.
    """
    numbered = [match for file in files if (match := _PART.search(file.name))]
    totals = sorted({int(match[2]) for match in numbered})
    for total in totals:
        have = Counter(int(match[1]) for match in numbered if int(match[2]) == total)
        if len(missing := sorted(set(range(total)) - set(have))):
            raise DataError(
                f"{files[0].parent}: {len(missing)} of {total} Parquet files are missing, the first is number "
                f"{missing[0]:05d}-of-{total:05d}"
            )
        if twice := [number for number, count in have.items() if count > 1]:
            same = ", ".join(match.string for match in numbered if (int(match[1]), int(match[2])) == (twice[0], total))
            raise DataError(
                f"{files[0].parent}: part {twice[0]} of {total} is there more than once ({same}); leave the files of "
                "one export"
            )
    if len(totals) > 1 or (totals and len(numbered) < len(files)):
        shown = ", ".join(file.name for file in files[:_SHOWN])
        raise DataError(
            f"{files[0].parent}: files of several exports of one split lie together ({shown}); leave those of one, or "
            "name one as parquet:FILE"
        )
    plain = [int(match[1]) for file in files if (match := _NUMBER.search(file.stem))] if not totals else []
    if len(plain) < 2 or not (gaps := sorted(set(range(min(plain), max(plain))) - set(plain))):
        return []
    return [
        f"{files[0].parent}: of the Parquet files numbered {min(plain)} to {max(plain)}, {len(gaps):,} are not there, "
        f"the first is {gaps[0]}"
    ]
