"""Packing: the right pixels once, whatever is killed, truncated, shared or full on the way."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.data.packs import content, writing
from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import decode
from ssl_bench.data.packs.packing import is_packed, pack
from ssl_bench.data.places import Places, cache_folder
from ssl_bench.data.readers import Subset
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.data.sources.folders import FileReader
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec


@pytest.fixture
def files(tmp_path: Path, images_of: Any, encode: Any) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{number:03d}.png" for number in range(90)]
    for path, pixels in zip(paths, images_of(90), strict=True):
        path.write_bytes(encode(pixels))
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def expected(files: list[Path], size: int) -> np.ndarray:
    return np.stack([decode(path, size)[0] for path in files])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of the chunks that were decoded, not read from the cache."""
    starts: list[int] = []
    real = writing._decode_chunk

    def counted(start: int, *rest: Any) -> Any:
        starts.append(start)
        return real(start, *rest)

    monkeypatch.setattr(writing, "_decode_chunk", counted)
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 1)  # 16 images a chunk
    return starts


def test_where_nothing_is_to_be_packed_nothing_is_read_or_written_and_what_is_missing_is_counted(
    files: list[Path], cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))  # as if the files had been there for long
    unpacked: dict[str, int] = {}
    planned = pack(FileReader(files), 12, "crop", Places(cache, unpacked=unpacked), what="toys")
    assert planned.pixels.shape == (90, 12, 12, 3) and unpacked == {"toys": 90 * 12 * 12 * 3}
    assert not cache.exists() and not decoded
    assert len(np.unique(planned.hashes, axis=0)) == 90
    whole = pack(FileReader(files), 12, "crop", Places(cache), what="toys")
    assert not {bytes(row) for row in planned.hashes} & {bytes(row) for row in whole.hashes}
    pack(FileReader(files), 9, "crop", Places(cache, unpacked=unpacked), what="toys")
    assert sorted(unpacked.values()) == [90 * 9 * 9 * 3, 90 * 12 * 12 * 3], "another size is another pack"
    unpacked.clear()
    again = pack(FileReader(files), 12, "crop", Places(cache, unpacked=unpacked), what="toys")
    assert np.array_equal(again.pixels, whole.pixels) and not unpacked


def test_pixels_are_those_of_the_files_in_order(files: list[Path], cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = pack(
        FileReader(files), 12, "crop", Places(cache, progress=lambda *told_now: told.append(told_now)), what="toys"
    )
    assert isinstance(found.pixels, np.memmap) and found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, expected(files, 12))
    assert len(np.unique(found.hashes, axis=0)) == 90 and not found.unreadable and found.resampled == 0
    packed = [entry for entry in told if entry[0].startswith("packing toys: 90 images at 12 px, 39 KB in ")]
    steps = [done for _, done, _ in packed]
    assert steps == sorted(steps) and packed[0][1:] == (0, 90) and packed[-1][1:] == (90, 90)


def test_a_second_time_nothing_is_decoded(files: list[Path], cache: Path, decoded: list[int]) -> None:
    first = pack(FileReader(files), 8, "crop", Places(cache))
    assert first.resampled == 90 and len(decoded) == 6
    decoded.clear()
    assert np.array_equal(pack(FileReader(files), 8, "crop", Places(cache)).pixels, first.pixels) and not decoded
    assert is_packed(FileReader(files), 8, "crop", Places(cache)) and not is_packed(
        FileReader(files), 8, "pad", Places(cache)
    )
    pack(FileReader(files), 8, "squash", Places(cache))
    pack(FileReader(files), 9, "crop", Places(cache))
    assert len(decoded) == 12


def test_copied_images_are_found_again_and_edited_ones_are_not(
    files: list[Path],
    cache: Path,
    decoded: list[int],
    tmp_path: Path,
) -> None:
    pack(FileReader(files), 12, "crop", Places(cache))
    decoded.clear()
    shutil.copytree(files[0].parent, tmp_path / "copy")
    copies = [tmp_path / "copy" / path.name for path in files]
    pack(FileReader(copies), 12, "crop", Places(cache))
    assert not decoded
    before = files[3].stat()
    content = bytearray(files[3].read_bytes())
    donor = files[4].read_bytes()
    content[: len(donor)] = donor[: len(content)]  # another image, same size in bytes, same modification time
    files[3].write_bytes(bytes(content))
    os.utime(files[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files[3].stat().st_size == before.st_size and files[3].stat().st_mtime_ns == before.st_mtime_ns
    pack(FileReader(files), 12, "crop", Places(cache))
    assert len(decoded) == 6


def test_settled_files_are_read_once(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl_bench.data.packs.content as content

    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))  # as if the files had been there for long
    first = content_of(files, Places(cache))
    monkeypatch.setattr(content, "_hash_file", lambda file: pytest.fail("read again"))
    assert content_of(files, Places(cache)) == first
    monkeypatch.undo()
    os.utime(files[0], (1, 1))
    assert content_of(files, Places(cache)) == first, "touched, not changed"
    assert content_of(files[::-1], Places(cache)) != first, "the order decides which row is which image"
    with pytest.raises(DataError, match=r"none\.png cannot be read"):
        content_of([*files, files[0].with_name("none.png")], Places(cache))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from ssl_bench.data.packs import packing, writing
from ssl_bench.data.sources.folders import FileReader
writing._CHUNK_BYTES = 1
def progress(what, done, total):
    if what.startswith("packing"):
        print(done, flush=True)
        if done >= {after}:
            time.sleep(60)
places = packing.Places(Path({cache!r}), progress=progress)
packing.pack(FileReader(sorted(Path({folder!r}).iterdir())), 12, "crop", places)
"""


def start(code: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_packing_goes_on_where_it_was(files: list[Path], cache: Path, decoded: list[int]) -> None:
    process = start(KILLED.format(folder=str(files[0].parent), cache=str(cache), after=48))
    assert process.stdout is not None
    while int(process.stdout.readline()) < 48:
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    (journal,) = cache.glob("packs/*/journal.part")
    with open(journal, "ab") as stream:
        stream.write(b'{"start": 64, "dig')  # a line that the kill cut short
    assert not list(cache.glob("packs/*/meta.json"))
    found = pack(FileReader(files), 12, "crop", Places(cache))
    assert decoded == [48, 64, 80], "only what was missing"
    assert np.array_equal(found.pixels, expected(files, 12))
    assert not list(cache.glob("packs/*/*.part"))
    whole = pack(FileReader(files), 12, "crop", Places(cache.with_name("fresh")))
    assert np.array_equal(found.hashes, whole.hashes)


def test_bytes_that_a_power_cut_took_are_decoded_again(files: list[Path], cache: Path, decoded: list[int]) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 48 and what.startswith("packing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(FileReader(files), 12, "crop", Places(cache, progress=stop))
    decoded.clear()
    (part,) = cache.glob("packs/*/pixels.part")
    with open(part, "r+b") as stream:  # the journal reached the disk, these pixels did not
        stream.seek(128 + 20 * 12 * 12 * 3)
        stream.write(bytes(100))
    found = pack(FileReader(files), 12, "crop", Places(cache))
    assert decoded == [16, 48, 64, 80]
    assert np.array_equal(found.pixels, expected(files, 12))


SLOW = """
import sys, time
from pathlib import Path
from ssl_bench.data.packs import packing, writing
from ssl_bench.data.sources.folders import FileReader
writing._CHUNK_BYTES = 1
real, count = writing._decode_chunk, 0
def slow(*arguments):
    global count
    count += 1
    time.sleep(0.1)
    return real(*arguments)
writing._decode_chunk = slow
found = packing.pack(FileReader(sorted(Path({folder!r}).iterdir())), 12, "crop", packing.Places(Path({cache!r})))
print(count, int(found.pixels.astype("int64").sum()))
"""


def test_two_processes_pack_once(files: list[Path], cache: Path) -> None:
    code = SLOW.format(folder=str(files[0].parent), cache=str(cache))
    processes = [start(code) for _ in range(2)]
    answers = sorted(process.communicate(timeout=60)[0].split() for process in processes)
    total = str(int(expected(files, 12).astype(np.int64).sum()))
    assert answers == [["0", total], ["6", total]]


@pytest.mark.parametrize("damage", ["cut", "zeroed", "hashes", "meta"])
def test_a_damaged_cache_is_noticed_and_made_again(
    files: list[Path], cache: Path, decoded: list[int], damage: str
) -> None:
    pack(FileReader(files), 12, "crop", Places(cache))
    decoded.clear()
    (pixels,) = cache.glob("packs/*/pixels.npy")
    if damage == "cut":
        os.truncate(pixels, pixels.stat().st_size - 1000)
    elif damage == "zeroed":
        content = pixels.read_bytes()
        pixels.write_bytes(content[:128] + bytes(len(content) - 128))
    elif damage == "hashes":
        pixels.with_name("hashes.npy").unlink()
    else:
        pixels.with_name("meta.json").write_text("{")
    found = pack(FileReader(files), 12, "crop", Places(cache))
    assert len(decoded) == 6 and np.array_equal(found.pixels, expected(files, 12))


def test_a_full_disk_is_refused_before_anything_is_decoded(
    files: list[Path],
    cache: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = type("usage", (), {"free": 50_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        DataError, match=r"packing 90 images at 900 px takes 219 MB in .*, where 50 MB are free; make room"
    ):
        pack(FileReader(files), 900, "crop", Places(cache))
    assert not decoded and not list(cache.glob("packs/*/pixels.part"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve disk space")
def test_a_disk_that_cannot_reserve_is_refused_and_left_clean(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="cannot be reserved.*No space left"):
        pack(FileReader(files), 12, "crop", Places(cache))
    assert not list(cache.glob("packs/*/pixels.part"))


def test_unreadable_images_are_named_not_replaced(files: list[Path], cache: Path) -> None:
    files[7].write_bytes(b"")
    files[40].write_bytes(files[40].read_bytes()[:100])
    for _ in range(2):
        found = pack(FileReader(files), 12, "crop", Places(cache))
        assert sorted(found.unreadable) == [7, 40] and found.unreadable[7] == "empty file"
        assert not found.pixels[7].any() and not found.hashes[7].any() and found.hashes[8].any()


def test_images_that_pillow_could_not_read_are_tried_again_by_another_version(
    files: list[Path],
    cache: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files[7].write_bytes(b"")
    pack(FileReader(files), 12, "crop", Places(cache))
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "99.0")
    pack(FileReader(files), 12, "crop", Places(cache))
    assert len(decoded) == 6


def test_images_that_no_decoder_could_read_are_tried_again_with_another_decoder(
    files: list[Path],
    cache: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    def stop(what: str, done: int, total: int) -> None:
        if done >= 32 and what.startswith("packing"):
            raise RuntimeError("stop")

    files[7].write_bytes(b"an image of a kind to come")
    with pytest.raises(RuntimeError, match="stop"):
        pack(FileReader(files), 12, "crop", Places(cache, progress=stop))
    decoded.clear()
    monkeypatch.setitem(Image.EXTENSION, ".new", "PNG")
    assert sorted(pack(FileReader(files), 12, "crop", Places(cache)).unreadable) == [7]
    assert 0 in decoded and 16 not in decoded, "of what was done, only what has an unreadable image is done again"
    decoded.clear()
    pack(FileReader(files), 12, "crop", Places(cache))
    assert not decoded
    monkeypatch.setitem(Image.EXTENSION, ".newer", "PNG")
    pack(FileReader(files), 12, "crop", Places(cache))
    assert len(decoded) == 6


def test_a_lack_of_memory_is_not_an_unreadable_image(
    files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("ssl_bench.data.packs.decode._square", full)
        with pytest.raises(MemoryError):
            pack(FileReader(files), 12, "crop", Places(cache))
    assert not pack(FileReader(files), 12, "crop", Places(cache)).unreadable


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_a_permission_is_not_an_unreadable_image(files: list[Path], cache: Path) -> None:
    content_of(files, Places(cache))
    files[3].chmod(0)
    with pytest.raises(DataError, match="Permission"):
        pack(FileReader(files), 12, "crop", Places(cache))


@pytest.mark.parametrize(("number", "told"), [(errno.EACCES, True), (errno.EROFS, True), (errno.ENOSPC, False)])
def test_a_cache_that_cannot_be_written_says_what_to_set(
    files: list[Path],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    told: bool,
) -> None:
    def closed(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))
    monkeypatch.setattr(Path, "mkdir", closed)
    for make in (
        lambda: pack(FileReader(files), 12, "crop", Places(cache)),
        lambda: open_source(SourceSpec(source="shapes"), Places(cache, None, 32)),
    ):
        with pytest.raises(
            DataError if told else OSError,
            match="cannot be written .*; set the environment variable XDG_CACHE_HOME" if told else None,
        ):
            make()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "roomy"))
    assert cache_folder(None).parent == tmp_path / "roomy", "what the message says works"


def test_images_of_another_size_stop_a_uniform_set(files: list[Path], cache: Path, images_of: Any, encode: Any) -> None:
    files[60].write_bytes(encode(images_of(1, 14)[0]))
    with pytest.raises(DataError, match="differ in size.*give `size`"):
        pack(FileReader(files), 12, "crop", Places(cache), uniform=True)
    assert pack(FileReader(files), 12, "crop", Places(cache)).resampled == 1
    with pytest.raises(DataError, match="1 of the 90 images .* not 12x12"):
        pack(FileReader(files), 12, "crop", Places(cache), uniform=True)


def test_a_subset_holds_its_positions(files: list[Path], cache: Path) -> None:
    positions = np.array([0, 5, 6, 7, 44, 89])
    reader = Subset(FileReader(files), positions)
    found = pack(reader, 12, "crop", Places(cache))
    assert np.array_equal(found.pixels, expected(files, 12)[positions])
    (folder,) = cache.glob("packs/*")
    pack(FileReader([files[at] for at in positions]), 12, "crop", Places(cache))
    assert list(cache.glob("packs/*")) == [folder], "known by its own files alone"
    assert reader.where(4) == str(files[44])
    other = Subset(FileReader(files), np.array([0, 5, 6, 7, 44, 88]))
    assert reader.content(Places(cache)) != other.content(Places(cache))


def test_a_switch_that_accepts_truncated_images_is_off_while_packing(
    files: list[Path], cache: Path, images_of: Any, encode: Any
) -> None:
    from PIL import ImageFile

    content = encode(images_of(1, 64)[0], "JPEG")
    files[5].write_bytes(content[: len(content) // 2])
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        assert sorted(pack(FileReader(files), 12, "crop", Places(cache)).unreadable) == [5]
        assert ImageFile.LOAD_TRUNCATED_IMAGES
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_threads_end_with_the_packing(files: list[Path], cache: Path) -> None:
    import threading

    def stop(what: str, done: int, total: int) -> None:
        if done and what.startswith("packing"):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pack(FileReader(files), 12, "crop", Places(cache, progress=stop))
    deadline = time.time() + 5
    while any(thread.name.startswith("decode") for thread in threading.enumerate()):
        assert time.time() < deadline
    with pytest.raises(RuntimeError, match="stop"):  # and the lock is free for the next try
        pack(FileReader(files), 12, "crop", Places(cache, progress=stop))
