"""Looking at a matrix's data without packing it: what is not packed yet is stood in for by noise, and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_FOUND: ContextVar[dict[str, int] | None] = ContextVar("unpacked", default=None)


@contextmanager
def looking() -> Iterator[dict[str, int]]:
    """Meanwhile nothing is packed. Gives what is not packed yet: what messages call it, and the bytes that it would take.

    Sets made meanwhile have their counts, labels and sizes; pixels and fingerprints of what is not packed are nobody's.
    """
    found: dict[str, int] = {}
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


def is_looking() -> bool:
    return _FOUND.get() is not None


def count_missing(what: str, needed: int) -> None:
    """Count a pack that is not there."""
    found = _FOUND.get()
    assert found is not None
    # the same images in another size are another pack
    found[what if found.get(what, needed) == needed else f"{what} ({needed:,} bytes)"] = needed


def square_noise(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 of ``shape`` [N, S, S, 3] that takes the memory of a few images: each is the one before it, shifted by a pixel."""
    count, side = shape[0], shape[1]
    noise = np.random.default_rng(0).integers(0, 256, 3 * (side * side + count), np.uint8)
    return np.lib.stride_tricks.as_strided(noise, shape, (3, 3 * side, 3, 1), writeable=False)


def no_hashes(what: str, count: int, width: int) -> np.ndarray:
    """uint8 [count, width], all different, and no image's."""
    key = np.frombuffer(hashlib.sha256(f"not packed: {what}".encode()).digest()[: width - 8], np.uint8)
    return np.concatenate(
        [np.tile(key, (count, 1)), np.arange(count, dtype="<u8").view(np.uint8).reshape(count, 8)], axis=1
    )
