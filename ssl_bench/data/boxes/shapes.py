"""The embedded shapes as a source: images, and images with the boxes of their objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_bench.data.boxes.raw import SHARE, ListedImages, RawBoxes
from ssl_bench.data.boxes.sets import DetectionSet
from ssl_bench.data.packs.content import writing_to_cache
from ssl_bench.data.packs.packing import pack
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.base import Source
from ssl_bench.data.sources.shapes_source import open_shapes
from ssl_bench.errors import DataError

SHAPES_IMAGES = {"train": 2_000, "test": 500}  # of the embedded set; more would only take longer to draw, being large


class Shapes(Source):
    """Images that are drawn from a seed."""

    name = "shapes"
    images = "10,000 + 4,000 images rendered from a seed, any size from 32 px, nothing to download"
    boxes = "2,000 + 500 of the embedded images with the boxes of their objects"

    def open(self, spec: Any, places: Places) -> RawSet:
        with writing_to_cache(places.cache):
            return open_shapes(places)

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        """Packed as for classification; boxes lie inside the image and no object is difficult."""
        from ssl_bench.data.sources._shapes_render import SHAPES

        asked = {"train": spec.train, "validation": spec.validation, "test": spec.test}
        named = [
            f"{role} {given!r}"
            for role, given in asked.items()
            if given is not None and (role != "validation" or isinstance(given, str))
        ]
        if named:
            raise DataError(
                f"shapes has its own train and test; {', '.join(named)} cannot be chosen "
                "(validation may be a share of train)"
            )
        share = SHARE if spec.validation is None else float(spec.validation)
        with writing_to_cache(places.cache):
            raw = open_shapes(places, SHAPES_IMAGES)
        lists = {split: _listed_split(raw, split, places) for split in ("train", "test")}
        chosen: dict[str, str | float] = {"train": "train", "test": "test", "validation": share}
        notes = (f"shapes: {share:.3g} of train is held out as validation",)
        return RawBoxes("shapes", SHAPES, lists, chosen, notes, shows="shapes")


def _listed_split(raw: RawSet, split: str, places: Places) -> ListedImages:
    from ssl_bench.data.sources._shapes_render import SHAPES, TEXTURES

    assert raw.native is not None
    size, images = raw.native[0], raw.splits[split]
    shown = images.columns["box_labels"] >= 0
    labels = [numbers[use] // len(TEXTURES) for numbers, use in zip(images.columns["box_labels"], shown, strict=True)]
    boxes = [edges[use] for edges, use in zip(images.columns["boxes"], shown, strict=True)]

    def load() -> tuple[DetectionSet, dict[int, str]]:
        packed = pack(images.reader, size, "crop", places, what=f"shapes {split}")
        sides = np.full(len(images), size, np.int64)
        flat = packed.pixels.flags.c_contiguous  # not where it only stands in for what is not packed yet
        decoded = DetectionSet(
            "shapes",
            split,
            packed.pixels.reshape(-1) if flat else np.broadcast_to(np.uint8(127), (packed.pixels.size,)),
            np.arange(len(images), dtype=np.int64) * size * size * 3,
            sides,
            sides,
            boxes,
            labels,
            [np.zeros(len(edges), bool) for edges in boxes],
            SHAPES,
            packed.hashes,
            checked=packed.checked,
        )
        return decoded, {}

    return ListedImages(labels, load)
