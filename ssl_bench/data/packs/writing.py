"""Decoding into an unfinished pack, stretch by stretch, with a journal of those that are done: a killed packing goes on
where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ssl_bench.data.packs.content import workers
from ssl_bench.data.packs.decode import Fit, Stored, UnreadableImage, decode, in_parallel
from ssl_bench.data.packs.facts import Facts
from ssl_bench.data.packs.room import MORE_ROOM, SPARE_DISK, npy_header, reserve_disk
from ssl_bench.data.packs.sealed import HASH_BYTES, decoder_versions, hash_images, seal_pack
from ssl_bench.data.places import Progress
from ssl_bench.data.readers import Reader
from ssl_bench.errors import DataError
from ssl_bench.system import digests
from ssl_bench.system.amounts import bytes_text

_CHUNK_BYTES = 8 << 20
LINE_DIGEST = "line"  # of a line of the journal, over the rest of it


@dataclass
class _Chunk:
    start: int
    pixels: np.ndarray
    hashes: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    resampled: int = 0
    facts: Facts = field(default_factory=Facts)


def write_pack(
    reader: Reader, folder: Path, shape: tuple[int, ...], fit: Fit, what: str, uniform: bool, progress: Progress
) -> None:
    """Decode the images of ``reader`` into ``folder`` and seal it. Errors are those of ``pack``."""
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
        with in_parallel(_decode_chunk, jobs, ahead=2 * workers()) as chunks:
            for chunk in chunks:
                if uniform and chunk.resampled:
                    raise DataError(
                        f"images of {what} differ in size ({chunk.resampled:,} of {len(chunk.pixels):,} are not "
                        f"{size}x{size}); give "
                        "`size`"
                    )
                part.seek(offset + chunk.start * size * size * 3)
                part.write(chunk.pixels.tobytes())
                part.flush()  # before its journal line, so that a line never speaks of bytes that a kill took away
                hashes[chunk.start : chunk.start + len(chunk.hashes)] = chunk.hashes
                note = {
                    "start": chunk.start,
                    "digest": _hashes_digest(chunk.hashes),
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
    seal_pack(folder, hashes, {"what": what, "unreadable": unreadable, "resampled": resampled, "facts": asdict(facts)})
    (folder / "journal.part").unlink()


def _part_file(folder: Path, shape: tuple[int, ...]) -> Path:
    """The unfinished array, with its disk space reserved: a disk that fills up later must not end in SIGBUS or half a
    pack."""
    part, needed = folder / "pixels.part", int(np.prod(shape, dtype=np.int64))
    header = npy_header(shape)
    if part.is_file() and part.stat().st_size == len(header) + needed:
        return part
    (folder / "journal.part").unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_DISK:
        raise DataError(
            f"packing {shape[0]:,} images at {shape[1]} px takes {bytes_text(needed)} in {folder}, where "
            f"{bytes_text(free)} are free; {MORE_ROOM} or `limit`"
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
    hashes = hash_images(pixels, [position in note["unreadable"] for position in range(note["start"], stop)])
    return _Chunk(note["start"], pixels, hashes) if _hashes_digest(hashes) == note["digest"] else None


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


def _hashes_digest(hashes: np.ndarray) -> str:
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:32]
