"""Images decoded once, in parallel, into one memory-mapped array that every later run opens.

    CACHE/packs/KEY/pixels.npy     uint8 [N, S, S, 3]; see ``sealed`` for it and for what stands beside it
    CACHE/packs/KEY/pixels.part    an unfinished pack, with journal.part saying which stretches are done

KEY is a hash over the images' content, size and fit, so a moved or copied set is found again and an edited one is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np

from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.packs.content import NotRemembered, writing_to_cache
from ssl_bench.data.packs.decode import Fit, decode
from ssl_bench.data.packs.facts import Facts
from ssl_bench.data.packs.sealed import HASH_BYTES, Checked, DamagedPack, Opened, clear, open_sealed
from ssl_bench.data.packs.stand_ins import no_hashes, square_noise
from ssl_bench.data.packs.writing import write_pack
from ssl_bench.data.places import Places, Progress
from ssl_bench.data.readers import Reader
from ssl_bench.errors import DataError

VERSION = 1


@dataclass(frozen=True)
class Pack:
    """Decoded images of one split.

    Attributes
    ----------
    pixels : uint8 [N, S, S, 3], memory-mapped; a row of zeros where an image is unreadable.
    hashes : uint8 [N, 16], of each image's pixels.
    unreadable : position to reason.
    resampled : images whose stored size was not S x S.
    facts : what decoding left out or chose; nothing in packs of versions that did not count it.
    checked : holds images against their hashes when they are first read; None where the pixels only stand in for what
        is not packed yet.
    """

    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str]
    resampled: int
    facts: Facts = field(default_factory=Facts)
    checked: Checked | None = None


def is_packed(reader: Reader, size: int, fit: Fit, places: Places) -> bool:
    """Whether ``pack`` would only have to open its result; False where that is not known without reading, and
    ``places`` forbids it."""
    return _existing_pack(reader, size, fit, places) is not None


def _existing_pack(reader: Reader, size: int, fit: Fit, places: Places) -> Pack | None:
    try:
        folder, shape = _pack_folder(reader, size, fit, places), (len(reader), size, size, 3)
        opened = _open(folder, shape)
    except (NotRemembered, DamagedPack):
        return None
    return None if opened is None else _pack_from(opened, reader, folder, shape, fit, "images")


def still_needed(reader: Reader, size: int, fit: Fit, places: Places) -> int:
    """Bytes of disk that ``pack`` would take now; where ``places`` forbids reading, what it may take at most."""
    needed = len(reader) * size * size * 3
    if not places.reads:
        return 0 if is_packed(reader, size, fit, places) else needed
    folder = _pack_folder(reader, size, fit, places)
    part = folder / "pixels.part"  # begun, its space reserved
    return (
        0
        if _can_be_opened(folder, (len(reader), size, size, 3))
        else max(0, needed - (part.stat().st_size if part.is_file() else 0))
    )


def _pack_folder(reader: Reader, size: int, fit: Fit, places: Places) -> Path:
    key = json.dumps([VERSION, decoding.VERSION, reader.content(places), len(reader), size, fit])
    return places.cache / "packs" / hashlib.sha256(key.encode()).hexdigest()[:32]


def pack(
    reader: Reader,
    size: int,
    fit: Fit,
    places: Places,
    *,
    what: str = "images",
    uniform: bool = False,
) -> Pack:
    """The decoded images of ``reader``, from the cache or decoded now; a killed packing goes on where it was.

    Parameters
    ----------
    places : where packs are kept; where its ``unpacked`` collects, nothing is decoded, and noise stands in for what is
        not packed.
    what : how messages call the images.
    uniform : stop at the first image whose stored size is not ``size`` x ``size``.

    Raises
    ------
    DataError : not enough disk, a cache that cannot be written, an image of another size when ``uniform``.
    """
    shape = (len(reader), size, size, 3)
    if places.unpacked is not None:
        known = _existing_pack(reader, size, fit, places)
        if known is None:
            places.count_unpacked(what, int(np.prod(shape, dtype=np.int64)))
            return Pack(square_noise(shape), no_hashes(what, shape[0], HASH_BYTES), {}, 0)
        return known
    folder = _pack_folder(reader, size, fit, places)
    opened = sealed_or_written(
        folder,
        places,
        what,
        lambda: _open(folder, shape),
        lambda: write_pack(reader, folder, shape, fit, what, uniform, places.progress),
    )
    packed = _pack_from(opened, reader, folder, shape, fit, what)
    if uniform and packed.resampled:
        raise DataError(
            f"{packed.resampled:,} of the {len(reader):,} images of {what} are not {size}x{size}; give `size`"
        )
    return packed


def sealed_or_written(
    folder: Path,
    places: Places,
    what: str,
    opening: Callable[[], Opened | None],
    writing: Callable[[], None],
) -> Opened:
    """The pack in ``folder``, opened, or else written by one process while others wait; a damaged one is told and
    written anew."""
    with contextlib.suppress(DamagedPack):
        if (opened := opening()) is not None:
            return opened
    with writing_to_cache(places.cache):
        if os.path.lexists(folder) and not folder.is_dir():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", what, places.progress):
            damage = None
            try:
                if (opened := opening()) is not None:
                    return opened
            except DamagedPack as error:
                damage = error
            clear(folder, damage, what)
            writing()
            with contextlib.suppress(DamagedPack):
                if (opened := opening()) is not None:
                    return opened
    raise DataError(f"the packed images in {folder} changed while they were opened; remove that folder and run again")


@contextlib.contextmanager
def locked(path: Path, what: str, progress: Progress, verb: str = "packs") -> Iterator[None]:
    """Meanwhile no other process holds ``path``; ``progress`` tells that one ``verb`` (packs, downloads) ``what`` while
    it is waited for."""
    lock = filelock.FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            progress(f"waiting for another process that {verb} {what}", 0, 0)
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, shape: tuple[int, ...]) -> Opened | None:
    """The finished pack in ``folder``; None where there is none.

    Raises DamagedPack where its files are not what they were when it was finished.
    """
    opened = open_sealed(folder, shape, _starts(shape))
    try:
        if opened is not None:
            int(opened.meta["resampled"])
    except (KeyError, TypeError, ValueError):
        raise DamagedPack("it does not say how many images were resampled") from None
    return opened


def _starts(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(shape[0] + 1, dtype=np.int64) * int(np.prod(shape[1:], dtype=np.int64))


def _can_be_opened(folder: Path, shape: tuple[int, ...]) -> bool:
    try:
        return _open(folder, shape) is not None
    except DamagedPack:
        return False


def _pack_from(opened: Opened, reader: Reader, folder: Path, shape: tuple[int, ...], fit: Fit, what: str) -> Pack:
    def decode_again(position: int) -> np.ndarray:
        (item,) = next(iter(reader.items([(position, position + 1)])))
        return decode(item, shape[1], fit)[0]

    checked = Checked(folder, what, opened, _starts(shape), decode_again)
    return Pack(
        opened.pixels,
        opened.hashes,
        opened.unreadable,
        int(opened.meta["resampled"]),
        Facts.read(opened.meta.get("facts")),
        checked,
    )
