"""The embedded shapes as a source: drawn once a size, then read from the cache like any other set."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.data.packs.decode import Stored
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet, RawSplit
from ssl_bench.errors import DataError
from ssl_bench.records.schema import write_bytes
from ssl_bench.system.digests import read_sealed, seal


class _ShapesReader:
    """Rendered when it is packed, and only then."""

    def __init__(self, split: str, size: int, key: str, count: int, drawn: np.ndarray | None) -> None:
        self.split, self.size, self.key, self.count, self._drawn = split, size, key, count, drawn

    def __len__(self) -> int:
        return self.count

    def content(self, places: Places) -> str:
        return self.key

    def items(self, stretches: Sequence[tuple[int, int]]) -> Iterator[list[Stored]]:
        from ssl_bench.data.sources.shapes import render

        images, self._drawn = (
            render(self.split, self.size, self.count).images if self._drawn is None else self._drawn,
            None,
        )
        for start, stop in stretches:
            yield list(images[start:stop])

    def where(self, position: int) -> str:
        return f"shapes {self.split} image {position}"


def open_shapes(places: Places, counts: Mapping[str, int] | None = None) -> RawSet:
    """The source "shapes" at ``places.size``, or its own. Raises DataError below the smallest size.

    Parameters
    ----------
    counts : how many images of "train" and "test", the first ones; None: all that it has.
    """
    from ssl_bench.data.sources import _shapes_render, shapes

    size = places.size or shapes.NATIVE_SIZE
    if size < shapes.MIN_SIZE:
        raise DataError(f"shapes cannot be drawn at {size} px; the smallest `size` is {shapes.MIN_SIZE}")
    drawing = (_shapes_render.__file__, shapes.__file__)
    code = b"".join(Path(file).read_bytes() for file in drawing)
    splits: dict[str, RawSplit] = {}
    classes: tuple[str, ...] = ()
    for split in ("train", "test"):
        count = None if counts is None else counts[split]
        key = hashlib.sha256(
            json.dumps(["shapes", shapes.VERSION, split, size, *([count] if count else [])]).encode() + code
        ).hexdigest()
        facts = places.cache / "shapes" / f"{key[:32]}.npz"
        known, images = _load_facts(facts), None
        if known is None:
            places.progress(f"drawing shapes ({split})", 0, 0)
            drawn = shapes.render(split, size, count)
            images = drawn.images
            stream = io.BytesIO()
            facts_of: dict[str, Any] = {f"column.{name}": column for name, column in drawn.columns.items()}
            np.savez(stream, labels=drawn.labels, classes=np.array(drawn.classes), **facts_of)
            write_bytes(facts, seal(stream.getvalue()))
            known = _load_facts(facts)
            assert known is not None
        classes = tuple(map(str, known["classes"]))
        columns = {name.removeprefix("column."): values for name, values in known.items() if name.startswith("column.")}
        splits[split] = RawSplit(
            _ShapesReader(split, size, key, len(known["labels"]), images), known["labels"], columns=columns
        )
    return RawSet("shapes", classes, splits, (size, size), (size, size))


def _load_facts(path: Path) -> dict[str, np.ndarray] | None:
    stored = read_sealed(path, "what is known of drawn shapes in")
    if stored is None:
        return None
    with np.load(io.BytesIO(stored), allow_pickle=False) as facts:
        return {name: facts[name] for name in facts.files}
