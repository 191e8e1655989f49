"""The data cache: flipped bits, empty and half-written files, folders in their place,
parts of killed writers; two processes at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data import loading
from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.data.images import ImageSet
from ssl_bench.data.packs import content, writing
from ssl_bench.data.packs.content import content_of
from ssl_bench.data.packs.decode import decode
from ssl_bench.data.packs.packing import Pack, pack
from ssl_bench.data.places import Places
from ssl_bench.data.sources.folders import FileReader
from ssl_bench.data.sources.shapes_source import open_shapes
from ssl_bench.errors import DataError, Notice
from ssl_bench.runner import prechecks
from ssl_bench.spec.data import DataSpec
from ssl_bench.system.digests import seal, unseal
from ssl_bench.system.disk import write_bytes
from voc_trees import write_tree

COUNT, SIZE = 40, 12


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{number:03d}.png" for number in range(COUNT)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 1)  # 16 images a chunk


def packed(files: list[Path], cache: Path) -> Pack:
    return pack(FileReader(files), SIZE, "crop", Places(cache), what="toys")


def expected(files: list[Path]) -> np.ndarray:
    return np.stack([decode(path, SIZE)[0] for path in files])


def image_set(found: Pack) -> ImageSet:
    return ImageSet(found.pixels, np.arange(COUNT), None, (), "toys", "print", checked=found.checked)


def flip(path: Path, at: int, bit: int = 0) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << bit]))


@pytest.mark.filterwarnings("ignore::ssl_bench.errors.Notice")
@pytest.mark.parametrize("name", ["meta.json", "hashes.npy", "pixels.npy"])
def test_flips_in_a_pack(files: list[Path], cache: Path, name: str) -> None:
    """Wherever a bit flips, what is read is what the files hold: the image is decoded again, or the pack."""
    whole, before = expected(files), packed(files, cache).hashes
    (path,) = cache.glob(f"packs/*/{name}")
    rng, size = np.random.default_rng(0), path.stat().st_size
    header = [*range(0, min(size, 128), 6 if name == "pixels.npy" else 12), size - 1]
    for at in [*header, *(int(at) for at in rng.integers(0, size, 12))]:
        flip(path, at, int(rng.integers(8)))
        found = packed(files, cache)
        assert (
            np.array_equal(image_set(found).read(), whole)
            and np.array_equal(found.hashes, before)
            and not found.unreadable
        )
        assert np.array_equal(image_set(packed(files, cache)).read(), whole)


def test_a_damaged_image_is_told_when_it_is_first_read_and_once(files: list[Path], cache: Path) -> None:
    packed(files, cache)
    (path,) = cache.glob("packs/*/pixels.npy")
    flip(path, 128 + 17 * SIZE * SIZE * 3 + 5)  # of image 17, none of those that are looked at when it is opened
    images = image_set(packed(files, cache))
    assert np.array_equal(images.read(np.array([3, 4])), expected(files)[[3, 4]])
    with pytest.warns(Notice, match=r"image 17 of toys in .*pixels\.npy is damaged; it was decoded again") as told:
        assert np.array_equal(images.take(np.array([16, 17])).read(np.array([1, 0])), expected(files)[[17, 16]])
        assert np.array_equal(images.read(), expected(files))
    assert len(told) == 1 and np.array_equal(np.load(path), expected(files)), "put right on disk, too"
    flip(path, 128 + 19 * SIZE * SIZE * 3)
    assert np.array_equal(images.read(np.array([5])), expected(files)[[5]]), (
        "what was read already is not read for it again"
    )


def test_an_image_that_cannot_be_decoded_again_is_refused(files: list[Path], cache: Path) -> None:
    packed(files, cache)
    (path,) = cache.glob("packs/*/pixels.npy")
    flip(path, 128 + 17 * SIZE * SIZE * 3)
    images = image_set(packed(files, cache))
    files[17].write_bytes(files[16].read_bytes())
    with pytest.raises(
        DataError,
        match=r"image 17 of toys in .* is damaged, and its source gives other pixels now; remove .* and run again",
    ):
        images.read()
    files[17].unlink()
    with pytest.raises(DataError, match="its source cannot be read any more"):
        images.read()


@pytest.mark.parametrize("how", ["empty", "cut", "folder", "absent"])
@pytest.mark.parametrize("name", ["meta.json", "hashes.npy", "pixels.npy"])
def test_files_of_a_pack_that_are_no_files_of_a_pack(files: list[Path], cache: Path, name: str, how: str) -> None:
    packed(files, cache)
    (path,) = cache.glob(f"packs/*/{name}")
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "absent":
        path.write_bytes(b"" if how == "empty" else content[: len(content) // 2])
    if (name, how) == ("meta.json", "absent"):
        found = packed(files, cache)  # a pack without it is not finished, which is no damage
    else:
        with pytest.warns(Notice, match="packed images of toys in .* are damaged .*; they are decoded again"):
            found = packed(files, cache)
    assert np.array_equal(image_set(found).read(), expected(files)) and path.is_file()


def test_a_file_where_a_pack_belongs_and_empty_parts(files: list[Path], cache: Path) -> None:
    packed(files, cache)
    (folder,) = cache.glob("packs/*")
    shutil.rmtree(folder)
    folder.write_bytes(b"")
    assert np.array_equal(packed(files, cache).pixels, expected(files))
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("pixels.part", "journal.part"):
        (folder / name).touch()
    assert np.array_equal(packed(files, cache).pixels, expected(files))


def test_flips_in_the_journal_of_a_killed_packing(files: list[Path], cache: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 32 and what.startswith("packing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(FileReader(files), SIZE, "crop", Places(cache, progress=stop))
    (folder,) = cache.glob("packs/*")
    begun = cache.with_name("begun")
    shutil.copytree(folder, begun)
    size, rng = (folder / "journal.part").stat().st_size, np.random.default_rng(0)
    for at in rng.integers(0, size, 25):
        shutil.rmtree(folder)
        shutil.copytree(begun, folder)
        flip(folder / "journal.part", int(at), int(rng.integers(8)))
        found = packed(files, cache)
        assert np.array_equal(found.pixels, expected(files)) and not found.unreadable and found.resampled == 0


def test_packs_of_earlier_versions_are_used_and_their_images_checked(files: list[Path], cache: Path) -> None:
    packed(files, cache)
    (meta,) = cache.glob("packs/*/meta.json")
    old = {key: value for key, value in json.loads(meta.read_text()).items() if key not in ("digest", "hashes")}
    meta.write_text(json.dumps(old))
    flip(meta.with_name("pixels.npy"), 128 + 17 * SIZE * SIZE * 3)
    images = image_set(packed(files, cache))
    assert json.loads(meta.read_text()) == old
    with pytest.warns(Notice, match="image 17 of toys"):
        assert np.array_equal(images.read(), expected(files))


def test_images_with_boxes_are_checked_too(tmp_path: Path, cache: Path) -> None:
    thing = ("cat", 2, 2, 20, 15, 0)
    folder = write_tree(
        tmp_path / "voc",
        {split: {f"{split}{at}": [thing] for at in range(n)} for split, n in (("train", 40), ("val", 4), ("test", 4))},
    )
    whole = load_detection(f"voc:{folder}", cache=cache).train
    pixels = [np.array(whole.image(at)) for at in range(len(whole))]
    (path,) = [path for path in cache.glob("packs/*/pixels.npy") if path.stat().st_size == 128 + whole.pixels.size]
    flip(path, 128 + int(whole.offsets[1]) + 7)
    again = load_detection(f"voc:{folder}", cache=cache).train.take(np.arange(40)[::-1])
    assert np.array_equal(again.image(0), pixels[39])
    with pytest.warns(Notice, match="image 1 of .* is damaged; it was decoded again"):
        assert all(np.array_equal(again.image(39 - at), image) for at, image in enumerate(pixels))


@pytest.mark.filterwarnings("ignore::ssl_bench.errors.Notice")
def test_small_files_of_the_cache(files: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))  # as if the files had been there for long
    known = content_of(files, Places(cache))
    places = Places(cache, size=32)
    labels = {split: open_shapes(places, {"train": 12, "test": 8}).splits[split].labels for split in ("train", "test")}
    rng = np.random.default_rng(0)
    for path in [*cache.glob("content/*"), *cache.glob("shapes/*")]:
        stored = path.read_bytes()
        damaged = [
            bytes([*stored[:at], stored[at] ^ 1 << int(rng.integers(8)), *stored[at + 1 :]])
            for at in [0, 8, 20, 82, *rng.integers(0, len(stored), 8)]
        ]
        for broken in [b"", stored[:64], stored[:-1], bytes(len(stored)), *damaged]:
            path.write_bytes(broken)
            assert content_of(files, Places(cache)) == known
            again = open_shapes(places, {"train": 12, "test": 8}).splits
            assert all(np.array_equal(again[split].labels, labels[split]) for split in labels)
            assert path.read_bytes() == stored, "made again"
        path.unlink()
        path.mkdir()
        with pytest.raises(DataError, match=f"{path.name} is a folder .* remove it"):
            content_of(files, Places(cache))
            open_shapes(places, {"train": 12, "test": 8})
        path.rmdir()


@pytest.mark.parametrize("place", ["/proc/cache", "file", "file/cache"])
@pytest.mark.parametrize("source", ["shapes", "folder"])
def test_a_cache_that_cannot_be_made(tmp_path: Path, place: str, source: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for at in range(8):
            Image.new("RGB", (16, 16), (at, 9 * len(name), 0)).save(tmp_path / "photos" / name / f"{at}.png")
    spec = DataSpec.model_validate(
        {"source": "shapes" if source == "shapes" else f"folder:{tmp_path / 'photos'}", "size": 32, "test": 0.5}
    )
    with pytest.raises(
        DataError, match=r"the cache .* cannot be written \(.*\); set the environment variable XDG_CACHE_HOME"
    ):
        loading.load(spec, cache=tmp_path / place)


def test_what_a_sealed_file_is() -> None:
    content = seal(b"payload")
    assert unseal(content) == b"payload" and unseal(seal(b"")) == b"" and unseal(b"") is None
    for at in range(len(content)):
        for bit in range(8):
            assert unseal(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]) is None
        assert unseal(content[:at]) is None
    assert unseal(content + b"!") is None


KILLED = """
import os, signal, sys
from pathlib import Path
import ssl_bench.system.disk as disk
disk.os.replace = lambda part, path: ({what})
disk.write_bytes(Path({path!r}), b"new")
"""


def start(code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_parts_of_killed_writers_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    write_bytes(cache / "content" / "known", b"old")
    killed = start(KILLED.format(path=str(cache / "content" / "known"), what="os.kill(os.getpid(), signal.SIGKILL)"))
    living = start(
        KILLED.format(path=str(cache / "packs" / "known"), what="(print('writing', flush=True), sys.stdin.read())")
    )
    try:
        assert (
            living.stdout is not None
            and living.stdout.readline() == "writing\n"
            and killed.wait(timeout=60) == -signal.SIGKILL
        )
        assert (cache / "content" / "known").read_bytes() == b"old" and len(list(cache.rglob(".known.*.part"))) == 2
        (cache / prechecks.FOLDER).mkdir()
        (cache / prechecks.FOLDER / f".known.{'0' * 16}.part").touch()
        loading.load(DataSpec(source="shapes", size=32, limit={"train": 40, "test": 20}), cache=cache)  # type: ignore[arg-type]
        assert [path.parent.name for path in cache.rglob(".known.*.part")] == ["packs"]
    finally:
        living.kill()
        living.wait()
        for process in (killed, living):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()


@pytest.mark.long
def test_kills_while_packing_leave_what_the_next_run_goes_on_from(files: list[Path], cache: Path) -> None:
    code = (
        "from pathlib import Path; from ssl_bench.data.packs import packing, writing; "
        "from ssl_bench.data.sources.folders import FileReader; writing._CHUNK_BYTES = 1; print('go', flush=True); "
        f"packing.pack(FileReader(sorted(Path({str(files[0].parent)!r}).iterdir())), {SIZE}, 'crop', "
        f"packing.Places(Path({str(cache)!r})))"
    )
    rng = np.random.default_rng(0)
    for _ in range(25):
        process = start(code)
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        time.sleep(float(rng.uniform(0, 0.15)))
        process.kill()
        process.communicate()
        if rng.random() < 0.3:
            assert np.array_equal(packed(files, cache).pixels, expected(files))
            shutil.rmtree(cache)
    assert np.array_equal(packed(files, cache).pixels, expected(files))
