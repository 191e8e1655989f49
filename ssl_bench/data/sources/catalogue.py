"""From a source's name to images that are not decoded yet: where they are, their labels, their splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssl_bench.data.packs.content import writing_to
from ssl_bench.data.packs.decode import open_image, upright_size
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSplit, Source
from ssl_bench.data.sources import folders, huggingface, torchvision_sets
from ssl_bench.data.sources.hub import find_files
from ssl_bench.data.sources.labels import joined_spellings, near_equal
from ssl_bench.data.sources.listed import read_csv
from ssl_bench.data.sources.listing import shown
from ssl_bench.data.sources.parquet_source import open_parquet, read_parquet
from ssl_bench.data.sources.shapes_source import open_shapes
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.spec.matrix import SourceSpec

_LOSSLESS = frozenset(
    ["cifar10", "cifar100", "mnist", "fashionmnist", "kmnist", "qmnist", "svhn", "stl10", "usps", "semeion", "pcam"]
)
_CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "imagenet": 1000,
    "imagenette": 10,
    "mnist": 10,
    "svhn": 10,
    "stl10": 10,
    "fashionmnist": 10,
}
_PROBES = 256
_SHOWN = 20


def list_sources() -> list[tuple[str, str]]:
    """Every source name with one line about it."""
    return [
        ("shapes", "10,000 + 4,000 images rendered from a seed, any size from 32 px, nothing to download"),
        (
            "folder:PATH",
            "train/ and test/ with class folders, plain class folders, any tree without labels, or files listed in a csv",
        ),
        ("parquet:PATH", "Parquet files as on the Hugging Face hub: image, label, class names in the metadata"),
        (
            "hf:OWNER/NAME",
            "a set of the Hugging Face hub in such files, downloaded; hf:OWNER/NAME@REVISION pins it, hf:OWNER/NAME:CONFIG takes one of many",
        ),
        *((name, f"{title}: {line}") for name, (_, title, line) in torchvision_sets.SETS.items()),
    ]


def check_source(spec: SourceSpec, places: Places) -> None:
    """Refuse (DataError) a name that means nothing, settings that it cannot have, a path that does not exist. Nothing is opened or downloaded."""
    kind, _, rest = spec.source.partition(":")
    if spec.labels is not None and kind != "folder":
        raise DataError(f"labels: {spec.labels!r} is a csv for folder:PATH, and the source is {spec.source!r}")
    if spec.group is not None and not (kind in ("parquet", "hf") or kind == "folder" and spec.labels is not None):
        raise DataError(
            f"group: {spec.group!r} names a column of a csv (folder:PATH with labels:), of parquet:PATH or of hf:OWNER/NAME; "
            f"{spec.source!r} has none"
        )
    if spec.layout != "auto" and (kind != "folder" or spec.labels is not None):
        whose = "a folder whose files `labels` lists" if kind == "folder" else repr(spec.source)
        raise DataError(
            f"layout: {spec.layout!r} says how folder:PATH is read from its folders, and not {whose}; leave it out"
        )
    for setting, column in (("image", spec.image), ("target", spec.target)):
        if column is not None and not (kind in ("parquet", "hf") or kind == "folder" and spec.labels is not None):
            raise DataError(
                f"{setting}: {column!r} names a column of parquet:PATH, of hf:OWNER/NAME or of a csv (folder:PATH with labels:); {spec.source!r} has none"
            )
    if kind in ("folder", "parquet") and rest:
        resolve(rest, places, kind)
    elif not (kind == "hf" and rest or kind == "shapes" and not rest or kind in torchvision_sets.SETS):
        known = ["shapes", "folder:PATH", "parquet:PATH", huggingface.SYNTAX, *torchvision_sets.SETS]
        written = {"folder": "folder:PATH", "parquet": "parquet:PATH", "hf": huggingface.SYNTAX}
        hint = f"write {written[kind]}" if kind in written else did_you_mean(kind, known)
        raise DataError(f"unknown source {spec.source!r}; {hint}")


def open_source(spec: SourceSpec, places: Places) -> Source:
    """Find a source; nothing is decoded but a few headers when no size is given.

    Raises
    ------
    DataError : an unknown name (with the nearest ones), nothing there (with where it was looked for), labels that cannot be used.
    """
    check_source(spec, places)
    kind, _, rest = spec.source.partition(":")
    if kind == "shapes":
        with writing_to(places.cache):
            return open_shapes(places)
    if kind == "folder":
        source = _folder(rest, spec, places)
    elif kind == "parquet":
        source = open_parquet(resolve(rest, places, "parquet"), spec, Path(rest).name)
    elif kind == "hf":
        found = huggingface.fetch(rest, places, spec)
        source = read_parquet(found.name, found.files, spec, found.name, found.notes)
    else:
        source = _named(kind, rest, places)
    source = replace(source, notes=(*source.notes, *_slips(source)))
    return source if places.size is not None else _probed(source)


def _slips(source: Source) -> list[str]:
    """What the class names of all splits together may have gone wrong in."""
    counts = sum(
        np.bincount(one.labels[one.labels >= 0], minlength=len(source.classes))
        for one in source.splits.values()
        if one.labels is not None
    )
    return near_equal(source.name, source.classes, counts.tolist()) if isinstance(counts, np.ndarray) else []


def resolve(path: str, places: Places, kind: str) -> Path:
    """An existing path: as written (against the working folder), else below the data root."""
    given = Path(path).expanduser()
    tried = [given.absolute()] + ([places.root / given] if places.root is not None and not given.is_absolute() else [])
    for candidate in tried:
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        # no permission, a link in a circle, a name that is too long or holds a zero byte
        except (OSError, ValueError) as error:
            raise DataError(
                f"{kind}:{shown(path)} cannot be opened: {getattr(error, 'strerror', None) or error}"
            ) from None
        return candidate
    hint = (
        ""
        if places.root is not None or given.is_absolute()
        else "; no data root is set (--data-root or SSL_BENCH_DATA)"
    )
    raise DataError(f"{kind}:{path} does not exist; looked for {' and '.join(map(str, tried))}{hint}")


def _folder(path: str, spec: SourceSpec, places: Places, title: str | None = None) -> Source:
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
    known = {
        group: at
        for at, group in enumerate(sorted({group for split in splits.values() for group in split.groups or ()}))
    }
    raw = {}
    for name, split in splits.items():
        groups = None if split.groups is None else np.array([known[group] for group in split.groups], np.int64)
        raw[name] = RawSplit(
            folders.FileReader(split.files), labels[name], groups, unlabelled=split.unlabelled, doubt=split.doubt
        )
    return Source(
        title or shown(folder.resolve().name),
        classes,
        raw,
        notes=tuple(notes),
        unreadable=tuple(unreadable),
        group_names=tuple(known),
    )


def _named(name: str, extra_split: str, places: Places) -> Source:
    """A torchvision set: its own layout or a copy below the data root, an earlier download, a new download; in this order."""
    title = torchvision_sets.SETS[name][1]
    downloads = places.cache / "downloads"
    reasons: list[str] = []
    if places.root is not None:
        found, reasons = torchvision_sets.open_sets(name, [places.root, places.root / name], None, extra_split)
        if found:
            return _torchvision(title, found)
        if not extra_split and (copy := _copy(name, title, places)) is not None:
            return copy
    if places.root is None:
        reasons.append("no data root is set (--data-root or SSL_BENCH_DATA)")
    places.progress(f"looking for {title}, downloading it to {downloads} if it is not there", 0, 0)
    found, more = torchvision_sets.open_sets(name, [downloads], downloads, extra_split)
    if not found:
        listed = "\n  ".join([*reasons, *more])
        raise DataError(
            f"{title} was not found and could not be downloaded; put torchvision's files or the hub's (a folder {name!r} with "
            f"train-*.parquet) below a data root:\n  {listed}"
        )
    return _torchvision(title, found)


def _torchvision(title: str, readers: Mapping[str, torchvision_sets.TorchvisionReader]) -> Source:
    labelled = {split: reader.labels() for split, reader in readers.items()}
    classes = max((names for _, names in labelled.values()), key=len)
    splits = {
        split: RawSplit(reader, labelled[split][0] if (labelled[split][0] >= 0).any() else None)
        for split, reader in readers.items()
    }
    return Source(title, classes if any(split.labels is not None for split in splits.values()) else (), splits)


def _copy(name: str, title: str, places: Places) -> Source | None:
    """A hub or class-folder copy below the data root, in a folder whose name begins with the set's: "cifar10-jpeg", not "cifar100"."""
    assert places.root is not None
    pattern = re.compile("[-_ ]?".join(map(re.escape, name)) + r"(?![0-9a-z])", re.IGNORECASE)
    found: list[tuple[Path, Source]] = []
    for folder in sorted(child for child in places.root.iterdir() if child.is_dir() and pattern.match(child.name)):
        if find_files(folder):
            source = open_parquet(folder, SourceSpec(source=f"parquet:{folder}"), title)
        elif (folder / "train").is_dir():
            source = _folder(str(folder), SourceSpec(source=f"folder:{folder}"), places, title)
        else:
            continue
        if len(source.classes) == _CLASSES.get(name, len(source.classes)):
            found.append((folder, source))
    exact = [pair for pair in found if pair[0].name.lower() == name]
    if len(found) > 1 and not exact:
        raise DataError(
            f"{name!r} could be {' or '.join(str(folder) for folder, _ in found)}; name one as parquet:PATH or folder:PATH"
        )
    if not found:
        return None
    folder, source = (exact or found)[0]
    jpeg = name in _LOSSLESS and _format(source) == "JPEG"
    called = (
        f"{title} (JPEG copy)" if jpeg else title if folder.name.lower() == name else f"{title} (copy {folder.name})"
    )
    return replace(
        source, name=called, notes=(*source.notes, f"{called} is read from {folder.name}, below the data root")
    )


def _format(source: Source) -> str | None:
    reader = source.splits["train"].reader
    for item in next(reader.items([(0, min(8, len(reader)))])):
        try:
            return open_image(item).format
        except Exception:  # an unreadable image is packing's business
            continue
    return None


def _probed(source: Source) -> Source:
    """The source with the size its images have, from a sample of headers."""
    seen: Counter[tuple[int, int]] = Counter()
    for split in source.splits.values():
        count = len(split)
        starts = sorted({int(at) for at in np.linspace(0, count - 1, min(8, count))})
        each = max(1, _PROBES // len(starts))
        stretches = [(start, min(start + each, stop)) for start, stop in zip(starts, [*starts[1:], count], strict=True)]
        for items in split.reader.items(stretches):
            for item in items:
                try:
                    seen[upright_size(open_image(item))] += 1
                except Exception:  # listed with its path when it is packed
                    continue
    common = seen.most_common(1)[0][0] if seen else None
    return replace(source, native=common if len(seen) == 1 else None, common=common)


def data_root(given: Path | str | None) -> Path | None:
    """The folder searched before anything is downloaded: the argument, else SSL_BENCH_DATA. Raises DataError when it does not exist."""
    text = given if given is not None else os.environ.get("SSL_BENCH_DATA") or None
    if text is None:
        return None
    root = Path(text).expanduser()
    if not root.is_dir():
        raise DataError(
            f"the data root {str(text)!r} is not a folder; set --data-root or SSL_BENCH_DATA to one that exists"
        )
    return root.absolute()


def cache_folder(given: Path | str | None) -> Path:
    """Where packed images and downloads go: the argument, else XDG_CACHE_HOME or ~/.cache, there "ssl_bench"."""
    if given is not None:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ssl_bench"
