"""Stripes: which way do they run?"""

import numpy as np
from ssl_bench import RawSet, RawSplit, Source
from ssl_bench.data import ArrayReader


class Stripes(Source):
    """Stripes that lie or stand."""

    name = "stripes"
    images = "600 + 200 images of stripes in two directions, drawn from a seed, 16 px"

    def open(self, spec, places):
        random = np.random.default_rng(0)
        splits = {}
        for split, count in (("train", 600), ("test", 200)):
            labels = np.arange(count) % 2
            bars = np.repeat(random.integers(0, 256, (count, 1, 16, 3), np.uint8), 16, axis=1)
            images = np.where(labels[:, None, None, None] == 0, bars.swapaxes(1, 2), bars)
            splits[split] = RawSplit(ArrayReader(images, f"stripes {split}"), labels)
        return RawSet("stripes", ("lying", "standing"), splits)
