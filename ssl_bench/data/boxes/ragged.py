"""Images of different shapes, decoded once into one flat memory-mapped array; see ``packing`` for images of one
shape."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.packs.content import NotRemembered, workers
from ssl_bench.data.packs.decode import UnreadableImage, in_parallel, open_image
from ssl_bench.data.packs.packing import sealed_or_written
from ssl_bench.data.packs.room import MORE_ROOM, SPARE_DISK, npy_header, reserve_disk
from ssl_bench.data.packs.sealed import HASH_BYTES, Checked, DamagedPack, Opened, hash_images, open_sealed, seal_pack
from ssl_bench.data.packs.stand_ins import no_hashes
from ssl_bench.data.places import Places, Progress
from ssl_bench.data.sources.folders import FileReader
from ssl_bench.errors import DataError
from ssl_bench.system.amounts import bytes_text

VERSION = 1  # raise it when the same files would give other pixels


@dataclass(frozen=True)
class BoxedImage:
    """An image file and the boxes of its objects; no pixel decoded.

    Attributes
    ----------
    file : the image.
    width, height : of the pixels that the boxes refer to.
    boxes : float64 [n, 4], x1 y1 x2 y2, edges of the box in pixels from the image's own left and top edge, inside the
        image.
    names : class names of the n objects.
    difficult : bool [n]; such objects are neither counted nor penalised.
    turned : whether the boxes refer to the pixels after the camera's orientation (EXIF) is applied, not to the stored
        ones.
    """

    file: Path
    width: int
    height: int
    boxes: np.ndarray
    names: tuple[str, ...]
    difficult: np.ndarray
    turned: bool = False

    def scaled(self, size: int | None) -> tuple[int, int]:
        """(width, height) once the short side is at most ``size``."""
        side = min(self.width, self.height)
        if size is None or side <= size:
            return self.width, self.height
        return max(1, round(self.width * size / side)), max(1, round(self.height * size / side))


@dataclass(frozen=True)
class RaggedPack:
    """Decoded images of different shapes.

    Attributes
    ----------
    pixels : uint8 [sum of H x W x 3], memory-mapped, one image after another; zeros where an image is unreadable.
    offsets : int64 [N], where each image begins.
    hashes : uint8 [N, 16], of each image's pixels.
    unreadable : position to reason.
    checked : holds images against their hashes when they are first read; None where the pixels only stand in for what
        is not packed yet.
    """

    pixels: np.ndarray
    offsets: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str]
    checked: Checked | None = None


def pack_ragged(
    images: Sequence[BoxedImage],
    size: int | None,
    places: Places,
    *,
    what: str = "images",
) -> RaggedPack:
    """The decoded images, from the cache or decoded now; a killed packing leaves nothing that is taken for whole.

    Where the ``unpacked`` of ``places`` collects, nothing is decoded, and grey stands in for what is not packed.

    Raises DataError for too little disk or a cache that cannot be written.
    """
    shapes = [image.scaled(size)[::-1] for image in images]
    lengths = [height * width * 3 for height, width in shapes]
    offsets = np.cumsum([0, *lengths])
    if places.unpacked is not None:
        try:
            folder = _ragged_pack_folder(images, shapes, places)
            known = open_sealed(folder, (int(offsets[-1]),), offsets)
        except (NotRemembered, DamagedPack):
            known = None
        if known is None:
            places.count_unpacked(what, int(offsets[-1]))
            grey = np.broadcast_to(np.uint8(127), (int(offsets[-1]),))
            return RaggedPack(grey, offsets[:-1].astype(np.int64), no_hashes(what, len(images), HASH_BYTES), {})
        return _ragged_pack(known, images, shapes, offsets, folder, what)
    folder = _ragged_pack_folder(images, shapes, places)
    opened = sealed_or_written(
        folder,
        places,
        what,
        lambda: open_sealed(folder, (int(offsets[-1]),), offsets),
        lambda: _write_ragged_pack(images, shapes, folder, int(offsets[-1]), what, places.progress),
    )
    return _ragged_pack(opened, images, shapes, offsets, folder, what)


def _ragged_pack(
    opened: Opened,
    images: Sequence[BoxedImage],
    shapes: Sequence[tuple[int, int]],
    offsets: np.ndarray,
    folder: Path,
    what: str,
) -> RaggedPack:
    def decode_again(position: int) -> np.ndarray:
        pixels = _decode(images[position], shapes[position])
        if isinstance(pixels, str):
            raise UnreadableImage(pixels)
        return pixels

    checked = Checked(folder, what, opened, offsets, decode_again)
    return RaggedPack(opened.pixels, offsets[:-1].astype(np.int64), opened.hashes, opened.unreadable, checked)


def _ragged_pack_folder(images: Sequence[BoxedImage], shapes: Sequence[tuple[int, int]], places: Places) -> Path:
    content = FileReader([image.file for image in images]).content(places)
    turned = [at for at, image in enumerate(images) if image.turned]
    key = json.dumps(["ragged", VERSION, decoding.VERSION, content, shapes, turned])
    return places.cache / "packs" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _write_ragged_pack(
    images: Sequence[BoxedImage],
    shapes: Sequence[tuple[int, int]],
    folder: Path,
    total: int,
    what: str,
    progress: Progress,
) -> None:
    free = shutil.disk_usage(folder).free
    if free < total + SPARE_DISK:
        raise DataError(
            f"packing {len(images):,} images of {what} takes {bytes_text(total)} in {folder}, where "
            f"{bytes_text(free)} are free; "
            f"{MORE_ROOM}"
        )
    label = f"packing {what}: {len(images):,} images, {bytes_text(total)} in {folder}"
    hashes = np.zeros((len(images), HASH_BYTES), np.uint8)
    unreadable: dict[int, str] = {}
    with open(folder / "pixels.part", "wb") as part:
        header = npy_header((total,))
        try:
            reserve_disk(part, len(header) + total)  # a disk that fills up later must not end in half a pack
        except OSError as error:
            (folder / "pixels.part").unlink()
            raise DataError(
                f"{bytes_text(total)} for packed images cannot be reserved in {folder}: {error.strerror}"
            ) from None
        part.write(header)
        with in_parallel(_decode, zip(images, shapes, strict=True), ahead=4 * workers()) as images_decoded:
            for at, decoded in enumerate(images_decoded):
                if isinstance(decoded, str):
                    unreadable[at] = decoded
                    part.write(bytes(shapes[at][0] * shapes[at][1] * 3))
                else:
                    hashes[at] = hash_pixels(decoded)
                    part.write(decoded.tobytes())
                if (at + 1) % 64 == 0 or at + 1 == len(images):
                    progress(label, at + 1, len(images))
        part.flush()
        os.fsync(part.fileno())
    seal_pack(folder, hashes, {"what": what, "unreadable": unreadable})


def hash_pixels(pixels: np.ndarray, unreadable: bool = False) -> np.ndarray:
    """uint8 [16] over the bytes of one image, as in ``packing``."""
    return hash_images(pixels[None], [unreadable]).reshape(-1)


def _decode(boxed: BoxedImage, shape: tuple[int, int]) -> np.ndarray | str:
    """As ``decode.decode``, with the image's own aspect and the orientation that its boxes were drawn in."""
    height, width = shape
    try:
        image = open_image(boxed.file)
        if image.format == "JPEG" and min(image.size) >= 4 * min(shape):
            image.draft(None, (2 * min(shape), 2 * min(shape)))
        rgb = decoding.as_rgb(ImageOps.exif_transpose(image) if boxed.turned else image)
        return np.asarray(rgb if rgb.size == (width, height) else rgb.resize((width, height), Image.Resampling.BICUBIC))
    except MemoryError:  # says nothing about the image
        raise
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{boxed.file} cannot be read: {error.strerror or error}") from None
        return decoding.reason_of(error)
    except Exception as error:  # decoders of damaged files raise nearly anything
        return decoding.reason_of(error)
