"""From a source's name to images that are not decoded yet: which sources there are, and what may be asked of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from ssl_bench.data.packs.decode import open_image, upright_size
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.base import Source
from ssl_bench.data.sources.labels import near_equal
from ssl_bench.data.sources.returned import called, guarded, refuse_unusable_set
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.plugins.registry import SOURCES
from ssl_bench.spec.data import SourceSpec

Kind = Literal["images", "boxes"]

_PROBES = 256
_COLUMNS = "names a column of parquet:PATH, of hf:OWNER/NAME or of a csv (folder:PATH with labels:)"


def _giving(kind: Kind) -> Iterator[type[Source]]:
    """The sources that give images, or images with boxes."""
    return (source for name in SOURCES.names() if getattr(source := SOURCES.get(name), kind))


def _written(source: type[Source]) -> str:
    """How a source is written: "shapes", "folder:PATH"; what may be left out at the end is."""
    required = source.argument.partition("[")[0]
    return f"{source.name}:{required}" if required else source.name


def list_sources(kind: Kind = "images") -> list[tuple[str, str]]:
    """Every source of images, or of images with boxes, as it is written, with one line about it."""
    return [(_written(source), getattr(source, kind)) for source in _giving(kind)]


def find_source(written: str, kind: Kind) -> Source:
    """The source that ``written`` names.

    Raises DataError for one that is unknown, or that lacks what stands after its colon.
    """
    name, colon, argument = written.partition(":")
    what = "source" if kind == "images" else "detection source"
    source = SOURCES.get(name) if name in SOURCES else None
    if source is None or not getattr(source, kind):
        known = [f"{other.name}:{other.argument}" if ":" in _written(other) else other.name for other in _giving(kind)]
        raise DataError(f"unknown {what} {written!r}; {did_you_mean(name if kind == 'images' else written, known)}")
    if not argument and ":" in _written(source):
        raise DataError(f"unknown {what} {written!r}; write {name}:{source.argument}")
    if colon and not source.argument:
        raise DataError(f"unknown {what} {written!r}; write just {name!r}")
    return called(source.name, source)


def check_source(spec: SourceSpec, places: Places) -> Source:
    """The source of ``spec``.

    Refuses (DataError) a name that means nothing, settings that it cannot have, a path that does not exist.

    Nothing is opened or downloaded.
    """
    source = find_source(spec.source, "images")
    allowed = called(source.name, lambda: frozenset(source.settings(spec)))
    if spec.labels is not None and "labels" not in allowed:
        raise DataError(f"labels: {spec.labels!r} is a csv for folder:PATH, and the source is {spec.source!r}")
    if spec.group is not None and "group" not in allowed:
        raise DataError(
            f"group: {spec.group!r} names a column of a csv (folder:PATH with labels:), of parquet:PATH or of "
            f"hf:OWNER/NAME; {spec.source!r} has none"
        )
    if spec.layout != "auto" and "layout" not in allowed:
        whose = repr(spec.source) if spec.labels is None else "a folder whose files `labels` lists"
        raise DataError(
            f"layout: {spec.layout!r} says how folder:PATH is read from its folders, and not {whose}; leave it out"
        )
    for setting, column in (("image", spec.image), ("target", spec.target)):
        if column is not None and setting not in allowed:
            raise DataError(f"{setting}: {column!r} {_COLUMNS}; {spec.source!r} has none")
    called(source.name, source.check, spec, places)
    return source


def open_source(spec: SourceSpec, places: Places) -> RawSet:
    """The images of a source; nothing is decoded but a few headers when no size is given.

    Raises
    ------
    DataError : an unknown name (with the nearest ones), nothing there (with where it was looked for), labels that
        cannot be used, a plugin that gives something else.
    """
    source = check_source(spec, places)
    raw = called(source.name, source.open, spec, places)
    if not SOURCES.is_builtin(source.name):
        called(source.name, refuse_unusable_set, source.name, raw)
        raw = guarded(source.name, raw)
    raw = replace(raw, notes=(*raw.notes, *_slips(raw)))
    return raw if places.size is not None or raw.native is not None else _probed(raw)


def _slips(raw: RawSet) -> list[str]:
    """What the class names of all splits together may have gone wrong in."""
    counts = sum(
        np.bincount(split.labels[split.labels >= 0], minlength=len(raw.classes))
        for split in raw.splits.values()
        if split.labels is not None
    )
    return near_equal(raw.name, raw.classes, counts.tolist()) if isinstance(counts, np.ndarray) else []


def _probed(raw: RawSet) -> RawSet:
    """The set with the size its images have, from a sample of headers."""
    seen: Counter[tuple[int, int]] = Counter()
    for split in raw.splits.values():
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
    return replace(raw, native=common if len(seen) == 1 else None, common=common)
