"""Images decoded once, in parallel, into one memory-mapped array that every later run opens.

    CACHE/packs/KEY/pixels.npy     uint8 [N, S, S, 3]; see ``sealed`` for it and for what stands beside it
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np

from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.packs.content import NotRemembered, workers, writing_to
from ssl_bench.data.packs.decode import Fit, Stored, UnreadableImage, decode, in_parallel
from ssl_bench.data.packs.facts import Facts
from ssl_bench.data.packs.sealed import (
    HASH_BYTES,
    Checked,
    DamagedPack,
    Opened,
    clear,
    decoder_versions,
    hash_images,
    open_sealed,
    seal,
)
from ssl_bench.data.packs.stand_ins import no_hashes, square_noise
from ssl_bench.data.places import Places, Progress
from ssl_bench.data.readers import Reader
from ssl_bench.errors import DataError
from ssl_bench.system import digests
from ssl_bench.system.amounts import bytes_text

VERSION = 1
_CHUNK_BYTES = 8 << 20
SPARE_DISK = 64 << 20
LINE_DIGEST = "line"  # of a line of the journal, over the rest of it
MORE_ROOM = (
    "make room, set the environment variable XDG_CACHE_HOME to a folder on a larger disk, or give a smaller `size`"
)


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
    checked : holds images against their hashes when they are first read; None where the pixels only stand in for what is not packed yet.
    """

    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str]
    resampled: int
    facts: Facts = field(default_factory=Facts)
    checked: Checked | None = None


@dataclass
class _Chunk:
    start: int
    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    resampled: int = 0
    facts: Facts = field(default_factory=Facts)


def is_packed(reader: Reader, size: int, fit: Fit, places: Places) -> bool:
    """Whether ``pack`` would only have to open its result; False where that is not known without reading, and ``places`` forbids it."""
    return _known(reader, size, fit, places) is not None


def _known(reader: Reader, size: int, fit: Fit, places: Places) -> Pack | None:
    try:
        folder, shape = _folder(reader, size, fit, places), (len(reader), size, size, 3)
        opened = _open(folder, shape)
    except (NotRemembered, DamagedPack):
        return None
    return None if opened is None else _pack_of(opened, reader, folder, shape, fit, "images")


def still_needed(reader: Reader, size: int, fit: Fit, places: Places) -> int:
    """Bytes of disk that ``pack`` would take now; where ``places`` forbids reading, what it may take at most."""
    needed = len(reader) * size * size * 3
    if not places.reads:
        return 0 if is_packed(reader, size, fit, places) else needed
    folder = _folder(reader, size, fit, places)
    part = folder / "pixels.part"  # begun, its space reserved
    return (
        0
        if _is_open(folder, (len(reader), size, size, 3))
        else max(0, needed - (part.stat().st_size if part.is_file() else 0))
    )


def _folder(reader: Reader, size: int, fit: Fit, places: Places) -> Path:
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
    places : where packs are kept; where its ``unpacked`` collects, nothing is decoded, and noise stands in for what is not packed.
    what : how messages call the images.
    uniform : stop at the first image whose stored size is not ``size`` x ``size``.

    Raises
    ------
    DataError : not enough disk, a cache that cannot be written, an image of another size when ``uniform``.
    """
    shape = (len(reader), size, size, 3)
    if places.unpacked is not None:
        known = _known(reader, size, fit, places)
        if known is None:
            places.count_unpacked(what, int(np.prod(shape, dtype=np.int64)))
            return Pack(square_noise(shape), no_hashes(what, shape[0], HASH_BYTES), {}, 0)
        return known
    folder = _folder(reader, size, fit, places)
    opened = sealed_or_written(
        folder,
        places,
        what,
        lambda: _open(folder, shape),
        lambda: _write(reader, folder, shape, fit, what, uniform, places.progress),
    )
    packed = _pack_of(opened, reader, folder, shape, fit, what)
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
    """The pack in ``folder``, opened, or else written by one process while others wait; a damaged one is told and written anew."""
    with contextlib.suppress(DamagedPack):
        if (opened := opening()) is not None:
            return opened
    with writing_to(places.cache):
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
    """Meanwhile no other process holds ``path``; ``progress`` tells that one ``verb`` (packs, downloads) ``what`` while it is waited for."""
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
    """The finished pack in ``folder``; None where there is none. Raises DamagedPack where its files are not what they were when it was finished."""
    opened = open_sealed(folder, shape, _starts(shape))
    try:
        if opened is not None:
            int(opened.meta["resampled"])
    except (KeyError, TypeError, ValueError):
        raise DamagedPack("it does not say how many images were resampled") from None
    return opened


def _starts(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(shape[0] + 1, dtype=np.int64) * int(np.prod(shape[1:], dtype=np.int64))


def _is_open(folder: Path, shape: tuple[int, ...]) -> bool:
    try:
        return _open(folder, shape) is not None
    except DamagedPack:
        return False


def _pack_of(opened: Opened, reader: Reader, folder: Path, shape: tuple[int, ...], fit: Fit, what: str) -> Pack:
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


def _write(
    reader: Reader, folder: Path, shape: tuple[int, ...], fit: Fit, what: str, uniform: bool, progress: Progress
) -> None:
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
            note = {
                "start": chunk.start,
                "digest": _digest(chunk.hashes),
                "unreadable": chunk.unreadable,
                "resampled": chunk.resampled,
            }
            note |= {"decoders": decoder_versions(), "facts": asdict(chunk.facts)}
            notes[chunk.start] = note
            plain = json.loads(json.dumps(note))
            journal.write(json.dumps(plain | {LINE_DIGEST: digests.digest_of_json(plain)}).encode() + b"\n")
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
        raise DataError(
            f"{bytes_text(needed)} for packed images cannot be reserved in {folder}: {error.strerror or error}"
        ) from None
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
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    return stream.getvalue()


def _journalled(journal: BinaryIO) -> Iterator[dict[str, Any]]:
    journal.seek(0)
    content = journal.read()
    if not content.endswith(b"\n"):
        journal.write(b"\n")  # a kill cut the last line short; what follows starts on a line of its own
    for line in content.splitlines():
        try:
            note = json.loads(line)
            if note.pop(LINE_DIGEST) != digests.digest_of_json(note):
                continue
            unreadable = {int(position): str(reason) for position, reason in note["unreadable"].items()}
            start, digest, resampled = int(note["start"]), str(note["digest"]), int(note["resampled"])
            if unreadable and note.get("decoders") != decoder_versions():
                continue
            yield {
                "start": start,
                "digest": digest,
                "resampled": resampled,
                "unreadable": unreadable,
                "facts": note.get("facts"),
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _reread(
    part: BinaryIO,
    offset: int,
    shape: tuple[int, ...],
    note: dict[str, Any],
    stretches: Sequence[tuple[int, int]],
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
    chunk.hashes = hash_images(
        chunk.pixels, [position in chunk.unreadable for position in range(start, start + len(items))]
    )
    return chunk


def _digest(hashes: np.ndarray) -> str:
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:32]
