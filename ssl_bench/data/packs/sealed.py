"""What makes finished packs trustworthy: a digest over what is known of the images, and a hash of each, held against it
when it is first read.

pixels.npy     the images, memory-mapped
hashes.npy     uint8 [N, 16], one per image, over its pixels
meta.json      written last: without it the pack is unfinished; has the digest of hashes.npy, and one of itself
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from ssl_bench.data.packs.content import workers
from ssl_bench.errors import DataError
from ssl_bench.system import digests
from ssl_bench.system.disk import write_bytes

HASH_BYTES = 16
_SPOT_CHECKS = 16
_JOB_BYTES = 4 << 20  # of images that one thread hashes at a time


class DamagedPack(Exception):
    """Files of a finished pack are not what they were when it was finished."""


@dataclass(frozen=True)
class Opened:
    """A finished pack's files: what is known of it, the mapped pixels, hashes uint8 [N, 16], and position to reason of
    unreadable images."""

    meta: Mapping[str, Any]
    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str]


def seal_pack(folder: Path, hashes: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Make a pack of the finished pixels.part: what was decoded, by which versions; meta.json last, because it says
    that all is there."""
    os.replace(folder / "pixels.part", folder / "pixels.npy")
    stream = io.BytesIO()
    np.save(stream, hashes)
    write_bytes(folder / "hashes.npy", stream.getvalue())
    meta = json.loads(
        json.dumps({**facts, "decoders": decoder_versions(), "hashes": digests.digest_of(stream.getvalue())})
    )
    write_bytes(folder / "meta.json", json.dumps(meta | {digests.KEY: digests.digest_of_json(meta)}).encode())


def open_sealed(folder: Path, shape: tuple[int, ...], starts: np.ndarray) -> Opened | None:
    """The finished pack in ``folder``; None where there is none, or where another version of the decoders may read what
    its could not.

    Parameters
    ----------
    shape : of the pixels.
    starts : int64 [N + 1], where each image begins in the flat pixels, and the end.

    Raises
    ------
    DamagedPack : its files are not what they were. Of the images a few are looked at; all of them when they are first
        read, see ``Checked``.
    """
    if not os.path.lexists(folder / "meta.json"):
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        stored = (folder / "hashes.npy").read_bytes()
        digest, of_hashes = meta.pop(digests.KEY, None), meta.get("hashes")
        if (digest is not None or of_hashes is not None) and (
            digest != digests.digest_of_json(meta) or of_hashes != digests.digest_of(stored)
        ):
            raise DamagedPack("its digest tells")
        hashes = np.load(io.BytesIO(stored), allow_pickle=False)
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        unreadable = {int(position): str(reason) for position, reason in meta["unreadable"].items()}
    except PermissionError:
        return None  # whoever wants to write it is told
    except DamagedPack:
        raise
    except Exception as error:  # damage makes numpy and json raise nearly anything, EOFError included
        told = (
            f"{Path(str(error.filename)).name}: {error.strerror}"
            if isinstance(error, OSError) and error.filename
            else str(error)
        )
        raise DamagedPack(told or type(error).__name__) from None
    count = len(starts) - 1
    if (
        pixels.shape != shape
        or pixels.dtype != np.uint8
        or not pixels.flags.c_contiguous
        or hashes.shape != (count, HASH_BYTES)
        or hashes.dtype != np.uint8
    ):
        raise DamagedPack("its arrays have other shapes")
    if unreadable and meta.get("decoders") != decoder_versions():
        return None
    flat = pixels.reshape(-1)
    for spot in np.unique(np.linspace(0, count - 1, _SPOT_CHECKS).astype(int)):
        if spot not in unreadable and hash_image(flat[starts[spot] : starts[spot + 1]]) != hashes[spot].tobytes():
            raise DamagedPack("pixels are not what they were")
    if digest is None:
        digests.not_checked(folder / "meta.json")
    return Opened(meta, pixels, hashes, unreadable)


def clear(folder: Path, damage: DamagedPack | None, what: str) -> None:
    """Make way for packing ``what`` in ``folder``; tells what a damaged pack there is, and that it is made again."""
    if damage is not None:
        digests.notice(f"the packed images of {what} in {folder} are damaged ({damage}); they are decoded again")
    for name in ("meta.json", "hashes.npy", "pixels.npy", "pixels.part", "journal.part"):
        path = folder / name
        if path.is_dir() and not path.is_symlink():  # nothing of ours, in a folder that is ours alone
            shutil.rmtree(path)
    (folder / "meta.json").unlink(missing_ok=True)


class Checked:
    """Holds the images of a pack against their hashes, each when this process first reads it; a damaged one is decoded
    again, in place.

    Parameters
    ----------
    folder : of the pack.
    what : how messages call the images.
    starts : as for ``open_sealed``.
    decode_again : position to pixels, from the source; raises whatever it likes.
    """

    def __init__(
        self, folder: Path, what: str, opened: Opened, starts: np.ndarray, decode_again: Callable[[int], np.ndarray]
    ) -> None:
        self.folder, self.what, self.starts, self._decode = folder, what, starts, decode_again
        self._hashes, self._offset = opened.hashes, int(getattr(opened.pixels, "offset", 0))
        self._seen = np.zeros(len(starts) - 1, bool)
        self._seen[list(opened.unreadable)] = True  # zeros, that nobody is shown
        self._mending = threading.Lock()

    def hold(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Hold images [B, ...], a copy of those at ``rows`` (int64 [B]), against their hashes; damaged ones are put
        right, in the copy too.

        Raises DataError for one that cannot be put right.
        """
        new = np.flatnonzero(~self._seen[rows])
        if len(new) == 0:
            return
        for at in new[self._differ(rows[new], [images[at] for at in new])]:
            images[at] = self._mended(int(rows[at])).reshape(images[at].shape)
        self._seen[rows[new]] = True

    def hold_at(self, start: int, image: np.ndarray) -> np.ndarray:
        """The same for one image that begins at ``start`` of the flat pixels; returns it, put right where it was
        damaged."""
        row = int(np.searchsorted(self.starts, start, side="right")) - 1
        if not self._seen[row]:
            if self._differ(np.array([row]), [image])[0]:
                image = self._mended(row).reshape(image.shape)
            self._seen[row] = True
        return image

    def _differ(self, rows: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
        """bool [B], which images have other hashes. blake2b lets other threads work meanwhile."""
        each = max(1, _JOB_BYTES // max(1, images[0].nbytes))
        jobs = [images[start : start + each] for start in range(0, len(images), each)]
        if len(jobs) == 1:
            digests_of = [hash_image(image) for image in images]
        else:
            with ThreadPoolExecutor(workers()) as pool:
                answers = pool.map(lambda job: [hash_image(image) for image in job], jobs)
                digests_of = [digest for answer in answers for digest in answer]
        return (np.frombuffer(b"".join(digests_of), np.uint8).reshape(-1, HASH_BYTES) != self._hashes[rows]).any(1)

    def _mended(self, row: int) -> np.ndarray:
        why = f"image {row} of {self.what} in {self.folder / 'pixels.npy'} is damaged"
        with self._mending:
            try:
                again = np.ascontiguousarray(self._decode(row))
            except Exception as error:
                raise DataError(
                    f"{why}, and its source cannot be read any more ({error}); remove {self.folder} and run again"
                ) from None
            if hash_image(again) != self._hashes[row].tobytes():
                raise DataError(f"{why}, and its source gives other pixels now; remove {self.folder} and run again")
            # what may not be written is right in memory
            with suppress(OSError), open(self.folder / "pixels.npy", "r+b") as stream:
                stream.seek(self._offset + int(self.starts[row]))
                stream.write(again.tobytes())
        digests.notice(f"{why}; it was decoded again")
        return again


def hash_image(pixels: np.ndarray) -> bytes:
    """Over the bytes of one image."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=HASH_BYTES).digest()


def hash_images(pixels: np.ndarray, unreadable: Sequence[bool]) -> np.ndarray:
    """uint8 [N, 16] over each image's pixels; zeros for an unreadable one."""
    none = bytes(HASH_BYTES)
    digests_of = [none if bad else hash_image(image) for image, bad in zip(pixels, unreadable, strict=True)]
    return np.frombuffer(b"".join(digests_of), np.uint8).reshape(-1, HASH_BYTES)


def decoder_versions() -> str:
    """What decides which images are readable: PIL's version and the formats that it and its plugins open."""
    extensions = sorted(Image.registered_extensions())  # this also loads PIL's own plugins, which fill OPEN
    return hashlib.sha256(json.dumps([PIL.__version__, extensions, sorted(Image.OPEN)]).encode()).hexdigest()[:32]
