"""Small image sets on disk, of every kind that a source may be."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def images_of(count: int, size: int = 12, seed: int = 0) -> np.ndarray:
    """uint8 [count, size, size, 3], all different."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(name="images_of")
def _images_of() -> Callable[..., np.ndarray]:
    return images_of


@pytest.fixture(name="encode")
def _encode() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def class_folders() -> Callable[..., Path]:
    """Writes ``root/CLASS/NNN.png`` for ``per_class`` images of each class; returns root."""

    def write(root: Path, classes: Mapping[str, int], size: int = 12, seed: int = 0) -> Path:
        pixels = iter(images_of(sum(classes.values()), size, seed))
        for name, count in classes.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (root / name / f"{number:03d}.png").write_bytes(encode(next(pixels)))
        return root

    return write


@pytest.fixture
def hub() -> Callable[..., Path]:
    """Writes one split in the hub's layout over ``parts`` files; returns the folder."""

    def write(
        folder: Path,
        split: str,
        pixels: np.ndarray,
        labels: Any = None,
        names: list[str] | None = None,
        parts: int = 1,
        kind: str = "PNG",
        plain: bool = False,
        rows_a_group: int = 7,
        extra: Mapping[str, list[Any]] | None = None,
    ) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder.mkdir(parents=True, exist_ok=True)
        content = [encode(image, kind) for image in pixels]
        columns: dict[str, Any] = {
            "image": content if plain else [{"bytes": data, "path": f"{at}.png"} for at, data in enumerate(content)]
        }
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        if labels is not None:
            columns["label"] = list(labels)
        if names is not None:
            features["label"] = {"names": names, "_type": "ClassLabel"}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table({**columns, **(extra or {})}).replace_schema_metadata(metadata)
        bounds = np.linspace(0, len(pixels), parts + 1).astype(int)
        for part in range(parts):
            rows = table.slice(bounds[part], bounds[part + 1] - bounds[part])
            pq.write_table(rows, folder / f"{split}-{part:05d}-of-{parts:05d}.parquet", row_group_size=rows_a_group)
        return folder

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real image sets; tests that need it are skipped where there is none."""
    for candidate in (os.environ.get("SSL_BENCH_DATA"), Path(__file__).resolve().parents[2].parent / "shared" / "data"):
        if candidate and (Path(candidate) / "cifar10-jpeg").is_dir():
            return Path(candidate)
    pytest.skip("the shared image sets are not here (SSL_BENCH_DATA)")
