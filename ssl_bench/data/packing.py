"""Images decoded once, in parallel, into one memory-mapped array that every later run opens.

    CACHE/packs/KEY/pixels.npy     uint8 [N, S, S, 3]
    CACHE/packs/KEY/hashes.npy     uint8 [N, 16], one per image, over its pixels
    CACHE/packs/KEY/meta.json      written last: without it the pack is unfinished
    CACHE/packs/KEY/pixels.part    an unfinished pack, with journal.part saying which stretches are done

KEY is a hash over the images' content, size and fit, so a moved or copied set is found again and an edited one is not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import PIL
from PIL import Image

from ssl_bench.data import decode as decoding
from ssl_bench.data.content import NotRemembered, Progress, silent, unread, workers, writing_to
from ssl_bench.data.decode import Fit, Stored, UnreadableImage, decode, in_parallel
from ssl_bench.data.facts import Facts
from ssl_bench.data.looking import count_missing, is_looking, no_hashes, square_noise
from ssl_bench.data.readers import Reader
from ssl_bench.disk import bytes_text as bytes_text
from ssl_bench.errors import DataError
from ssl_bench.records import write_bytes

VERSION = 1
_CHUNK_BYTES = 8 << 20
SPARE_DISK = 64 << 20
HASH_BYTES = 16
_SPOT_CHECKS = 16
MORE_ROOM = "make room, set the environment variable XDG_CACHE_HOME to a folder on a larger disk, or give a smaller `size`"


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
    """

    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str]
    resampled: int
    facts: Facts = field(default_factory=Facts)


@dataclass
class _Chunk:
    start: int
    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    resampled: int = 0
    facts: Facts = field(default_factory=Facts)


def is_packed(reader: Reader, size: int, fit: Fit, cache: Path, progress: Progress = silent, *, read: bool = True) -> bool:
    """Whether ``pack`` would only have to open its result. Without ``read``, False where all images would have to be read to know it."""
    if not read:
        return _known(reader, size, fit, cache, progress) is not None
    return _open(_folder(reader, size, fit, cache, progress), (len(reader), size, size, 3)) is not None


def _known(reader: Reader, size: int, fit: Fit, cache: Path, progress: Progress) -> Pack | None:
    try:
        with unread():
            return _open(_folder(reader, size, fit, cache, progress), (len(reader), size, size, 3))
    except NotRemembered:
        return None


def still_needed(reader: Reader, size: int, fit: Fit, cache: Path, progress: Progress = silent, *, read: bool) -> int:
    """Bytes of disk that ``pack`` would take now. Without ``read``, what it may take at most."""
    needed = len(reader) * size * size * 3
    if not read:
        return 0 if is_packed(reader, size, fit, cache, progress, read=False) else needed
    folder = _folder(reader, size, fit, cache, progress)
    part = folder / "pixels.part"  # begun, its space reserved
    found = _open(folder, (len(reader), size, size, 3))
    return 0 if found is not None else max(0, needed - (part.stat().st_size if part.is_file() else 0))


def _folder(reader: Reader, size: int, fit: Fit, cache: Path, progress: Progress) -> Path:
    key = json.dumps([VERSION, decoding.VERSION, reader.content(cache, progress), len(reader), size, fit])
    return cache / "packs" / hashlib.sha256(key.encode()).hexdigest()[:32]


def pack(
    reader: Reader, size: int, fit: Fit, cache: Path, *, what: str = "images", uniform: bool = False, progress: Progress = silent,
) -> Pack:
    """The decoded images of ``reader``, from the cache or decoded now; a killed packing goes on where it was.

    Parameters
    ----------
    what : how messages call the images.
    uniform : stop at the first image whose stored size is not ``size`` x ``size``.

    Raises
    ------
    DataError : not enough disk, a cache that cannot be written, an image of another size when ``uniform``.
    """
    shape = (len(reader), size, size, 3)
    if is_looking():
        known = _known(reader, size, fit, cache, progress)
        if known is None:
            count_missing(what, int(np.prod(shape, dtype=np.int64)))
            return Pack(square_noise(shape), no_hashes(what, shape[0], HASH_BYTES), {}, 0)
        return known
    folder = _folder(reader, size, fit, cache, progress)
    found = _open(folder, shape)
    if found is None:
        with writing_to(cache):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / "lock", what, progress):
                found = _open(folder, shape)
                if found is None:
                    _write(reader, folder, shape, fit, what, uniform, progress)
                    found = _open(folder, shape)
    if found is None:
        raise DataError(f"the packed images in {folder} changed while they were opened; remove that folder and run again")
    if uniform and found.resampled:
        raise DataError(f"{found.resampled:,} of the {len(reader):,} images of {what} are not {size}x{size}; give `size`")
    return found


@contextlib.contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    lock = filelock.FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            progress(f"waiting for another process that packs {what}", 0, 0)
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, shape: tuple[int, ...]) -> Pack | None:
    """The finished pack in ``folder``; None where there is none or its files are not what they were when it was finished."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        hashes = np.load(folder / "hashes.npy", allow_pickle=False)
        unreadable = {int(position): str(reason) for position, reason in meta["unreadable"].items()}
        resampled, decoders = int(meta["resampled"]), meta.get("decoders")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8 or hashes.shape != (shape[0], HASH_BYTES):
        return None
    if unreadable and decoders != decoder_versions():
        return None  # another version or a plugin may read them
    spots = np.unique(np.linspace(0, shape[0] - 1, _SPOT_CHECKS).astype(int))
    if not np.array_equal(hash_images(pixels[spots], [int(spot) in unreadable for spot in spots]), hashes[spots]):
        return None
    return Pack(pixels, hashes, unreadable, resampled, Facts.read(meta.get("facts")))


def decoder_versions() -> str:
    """What decides which images are readable: PIL's version and the formats that it and its plugins open."""
    extensions = sorted(Image.registered_extensions())  # this also loads PIL's own plugins, which fill OPEN
    return hashlib.sha256(json.dumps([PIL.__version__, extensions, sorted(Image.OPEN)]).encode()).hexdigest()[:32]


def _write(reader: Reader, folder: Path, shape: tuple[int, ...], fit: Fit, what: str, uniform: bool, progress: Progress) -> None:
    (folder / "meta.json").unlink(missing_ok=True)
    count, size = shape[0], shape[1]
    per_chunk = max(16, min(512, _CHUNK_BYTES // (size * size * 3)))
    stretches = [(start, min(start + per_chunk, count)) for start in range(0, count, per_chunk)]
    label = f"packing {what}: {count:,} images at {size} px, {bytes_text(count * size * size * 3)} in {folder}"
    hashes = np.zeros((count, HASH_BYTES), np.uint8)
    notes: dict[int, dict[str, Any]] = {}
    with open(_part_file(folder, shape), "r+b") as part, open(folder / "journal.part", "a+b") as journal:
        offset = part.seek(0, os.SEEK_END) - count * size * size * 3
        for done in _journalled(journal):
            chunk = _reread(part, offset, shape, done, stretches)
            if chunk is not None:
                hashes[chunk.start : chunk.start + len(chunk.hashes)] = chunk.hashes
                notes[chunk.start] = done
        missing = [stretch for stretch in stretches if stretch[0] not in notes]
        finished = count - sum(stop - start for start, stop in missing)
        progress(label, finished, count)
        jobs = ((start, items, size, fit) for (start, _), items in zip(missing, reader.items(missing), strict=True))
        for chunk in in_parallel(_decode_chunk, jobs, ahead=2 * workers()):
            if uniform and chunk.resampled:
                raise DataError(
                    f"images of {what} differ in size ({chunk.resampled:,} of {len(chunk.pixels):,} are not {size}x{size}); give "
                    "`size`"
                )
            part.seek(offset + chunk.start * size * size * 3)
            part.write(chunk.pixels.tobytes())
            part.flush()  # before its journal line, so that a line never speaks of bytes that a kill took away
            hashes[chunk.start : chunk.start + len(chunk.hashes)] = chunk.hashes
            note = {"start": chunk.start, "digest": _digest(chunk.hashes), "unreadable": chunk.unreadable, "resampled": chunk.resampled}
            note |= {"decoders": decoder_versions(), "facts": asdict(chunk.facts)}
            notes[chunk.start] = note
            journal.write(json.dumps(note).encode() + b"\n")
            journal.flush()
            finished += len(chunk.pixels)
            progress(label, finished, count)
        os.fsync(part.fileno())
    unreadable = {position: reason for note in notes.values() for position, reason in note["unreadable"].items()}
    resampled = sum(note["resampled"] for note in notes.values())
    facts = Facts()
    for note in notes.values():
        facts.add(Facts.read(note["facts"]))
    seal(folder, hashes, {"what": what, "unreadable": unreadable, "resampled": resampled, "facts": asdict(facts)})
    (folder / "journal.part").unlink()


def seal(folder: Path, hashes: np.ndarray, facts: dict[str, Any]) -> None:
    """Make a pack of the finished pixels.part: what was decoded, by which versions; meta.json last, because it says that all is there."""
    os.replace(folder / "pixels.part", folder / "pixels.npy")
    with open(folder / "hashes.npy", "wb") as stream:
        np.save(stream, hashes)
        stream.flush()
        os.fsync(stream.fileno())
    write_bytes(folder / "meta.json", json.dumps(facts | {"decoders": decoder_versions()}).encode())


def _part_file(folder: Path, shape: tuple[int, ...]) -> Path:
    """The unfinished array, with its disk space reserved: a disk that fills up later must not end in SIGBUS or half a pack."""
    part, needed = folder / "pixels.part", int(np.prod(shape, dtype=np.int64))
    header = npy_header(shape)
    if part.is_file() and part.stat().st_size == len(header) + needed:
        return part
    (folder / "journal.part").unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_DISK:
        raise DataError(
            f"packing {shape[0]:,} images at {shape[1]} px takes {bytes_text(needed)} in {folder}, where {bytes_text(free)} are free; {MORE_ROOM} or `limit`"
        )
    try:
        with open(part, "w+b") as stream:
            stream.write(header)
            reserve_disk(stream, len(header) + needed)
            stream.truncate(len(header) + needed)
    except OSError as error:
        part.unlink(missing_ok=True)
        if isinstance(error, PermissionError):
            raise
        raise DataError(f"{bytes_text(needed)} for packed images cannot be reserved in {folder}: {error.strerror or error}") from None
    return part


def reserve_disk(stream: BinaryIO, length: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream.fileno(), 0, length)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
                raise


def npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))})
    return stream.getvalue()


def _journalled(journal: BinaryIO) -> Iterator[dict[str, Any]]:
    journal.seek(0)
    content = journal.read()
    if not content.endswith(b"\n"):
        journal.write(b"\n")  # a kill cut the last line short; what follows starts on a line of its own
    for line in content.splitlines():
        try:
            note = json.loads(line)
            unreadable = {int(position): str(reason) for position, reason in note["unreadable"].items()}
            start, digest, resampled = int(note["start"]), str(note["digest"]), int(note["resampled"])
            if unreadable and note.get("decoders") != decoder_versions():
                continue
            yield {"start": start, "digest": digest, "resampled": resampled, "unreadable": unreadable, "facts": note.get("facts")}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _reread(
    part: BinaryIO, offset: int, shape: tuple[int, ...], note: dict[str, Any], stretches: Sequence[tuple[int, int]],
) -> _Chunk | None:
    """The finished chunk that a journal line speaks of, if the file holds it still (after a power cut it may not)."""
    stop = dict(stretches).get(note["start"])
    if stop is None:
        return None
    per_image = int(np.prod(shape[1:]))
    part.seek(offset + note["start"] * per_image)
    content = part.read((stop - note["start"]) * per_image)
    pixels = np.frombuffer(content, np.uint8).reshape(-1, *shape[1:])
    found = hash_images(pixels, [position in note["unreadable"] for position in range(note["start"], stop)])
    return _Chunk(note["start"], pixels, found) if _digest(found) == note["digest"] else None


def _decode_chunk(start: int, items: list[Stored], size: int, fit: Fit) -> _Chunk:
    chunk = _Chunk(start, np.zeros((len(items), size, size, 3), np.uint8), np.zeros((0, HASH_BYTES), np.uint8))
    for at, item in enumerate(items):
        try:
            chunk.pixels[at], stored = decode(item, size, fit, chunk.facts)
            chunk.resampled += stored != (size, size)
        except UnreadableImage as error:
            chunk.unreadable[start + at] = str(error)
        except OSError as error:
            raise DataError(f"{error.filename or 'an image'} cannot be read: {error.strerror or error}") from None
    chunk.hashes = hash_images(chunk.pixels, [position in chunk.unreadable for position in range(start, start + len(items))])
    return chunk


def hash_images(pixels: np.ndarray, unreadable: Sequence[bool]) -> np.ndarray:
    """uint8 [N, 16] over each image's pixels; zeros for an unreadable one."""
    none = bytes(HASH_BYTES)
    found = [
        none if bad else hashlib.blake2b(image.tobytes(), digest_size=HASH_BYTES).digest()
        for image, bad in zip(pixels, unreadable, strict=True)
    ]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, HASH_BYTES)


def _digest(hashes: np.ndarray) -> str:
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:32]
