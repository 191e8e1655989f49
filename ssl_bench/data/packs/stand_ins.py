"""What stands in for images that are not packed yet, where a plan only needs their counts, labels and sizes."""

from __future__ import annotations

import hashlib

import numpy as np


def square_noise(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 of ``shape`` [N, S, S, 3] that takes the memory of a few images: each is the one before it, shifted by a
    pixel."""
    count, side = shape[0], shape[1]
    noise = np.random.default_rng(0).integers(0, 256, 3 * (side * side + count), np.uint8)
    return np.lib.stride_tricks.as_strided(noise, shape, (3, 3 * side, 3, 1), writeable=False)


def no_hashes(what: str, count: int, width: int) -> np.ndarray:
    """uint8 [count, width], all different, and no image's."""
    key = np.frombuffer(hashlib.sha256(f"not packed: {what}".encode()).digest()[: width - 8], np.uint8)
    return np.concatenate(
        [np.tile(key, (count, 1)), np.arange(count, dtype="<u8").view(np.uint8).reshape(count, 8)], axis=1
    )
