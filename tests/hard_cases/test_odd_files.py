"""What lies among images and is none, or cannot be read: told, never waited for, and never a class fewer in silence."""

from __future__ import annotations

import inspect
import io
import os
import shutil
import socket
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data import Data, load
from ssl_bench.data.packs import decode as decoding
from ssl_bench.data.sources.listing import extensions, list_folder
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse


def picture(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that every user may enter, with two classes of 20 images."""
    folder = Path(tempfile.mkdtemp(prefix="odd_", dir="/tmp"))
    folder.chmod(0o755)
    for label in ("cat", "dog"):
        (folder / "set" / label).mkdir(parents=True)
        for number in range(20):
            (folder / "set" / label / f"{number}.png").write_bytes(picture(number + 100 * (label == "dog")))
    yield folder / "set"
    shutil.rmtree(folder)


@pytest.fixture
def get(root: Path) -> Callable[..., Data]:
    def get(**more: Any) -> Data:
        return load(
            parse(DataSpec, {"source": f"folder:{root}", "test": 0.2, **more}, "data"), cache=root.parent / "cache"
        )

    return get


def images(data: Data) -> int:
    (labelled,) = data.evaluate
    return len(labelled.train) + len(labelled.validation) + len(labelled.test)


def told(data: Data, *words: str) -> bool:
    return any(all(word in note for word in words) for note in data.notes)


def test_pipes_sockets_and_devices_are_told_and_never_waited_for(root: Path, get: Any) -> None:
    os.mkfifo(root / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "dog" / "s.jpg"))
        (root / "dog" / "null.png").symlink_to("/dev/null")
        data = get()
        assert images(data) == 40
        assert told(
            data,
            "3 entries that are no files",
            "cat/pipe.png is a named pipe",
            "dog/s.jpg is a socket",
            "dog/null.png is a device",
        )
        shutil.rmtree(root / "cat")
        (root / "cat").mkdir()
        os.mkfifo(root / "cat" / "pipe.png")
        with pytest.raises(
            DataError, match=r"1 folders hold files but no image.*class would vanish: cat/ \(a named pipe \(1\)\)"
        ):
            get()


def test_broken_links_are_listed_or_left_out(root: Path, get: Any) -> None:
    (root / "cat" / "lost.png").symlink_to("nowhere.png")
    (root / "cat" / "round.png").symlink_to("round.png")
    (root / "bird").symlink_to("/nowhere/bird")
    with pytest.raises(DataError, match="(?s)3 of 43 images cannot be read") as caught:
        get()
    for line in (
        "bird: a link that points nowhere",
        "cat/lost.png: a link that points nowhere",
        "cat/round.png: a link in a circle",
    ):
        assert f"{root}/{line}" in str(caught.value)
    data = get(skip_unreadable=True)
    assert images(data) == 40 and told(data, "3 entries that cannot be read", "bird: a link that points nowhere")
    (root / "fish").mkdir()
    (root / "fish" / "1.png").symlink_to("/nowhere/1.png")
    with pytest.raises(DataError, match=r"vanish: fish/ \(a link that points nowhere \(1\)\)"):
        get(skip_unreadable=True)


def test_links_in_a_circle_end_and_are_told(root: Path, get: Any) -> None:
    (root / "cat" / "up").symlink_to("..")
    (root / "cat" / "out").symlink_to(root.parent)
    (root / "dog" / "again").symlink_to(root / "cat")
    (root / "aaa").symlink_to("dog")  # first by name, and still the folder keeps its own
    data = get()
    assert images(data) == 40 and set(data.evaluate[0].train.classes) == {"cat", "dog"}
    assert told(data, "4 entries that are no files", "aaa/ is a link to a folder that is read already")


def test_a_link_to_a_folder_elsewhere_is_followed(root: Path, get: Any) -> None:
    shutil.move(root / "dog", root.parent / "kept")
    (root / "dog").symlink_to(root.parent / "kept")
    (root / "cat" / "0.png").rename(root.parent / "zero.png")
    (root / "cat" / "0.png").symlink_to(root.parent / "zero.png")
    assert images(get()) == 40


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_told(root: Path, get: Any) -> None:
    root.parent.chmod(0o777)
    (root / "cat" / "3.png").chmod(0)
    (root / "dog" / "secret").mkdir(mode=0)
    (root / "lost+found").mkdir(mode=0)
    with as_nobody():
        with pytest.raises(DataError, match="2 of 41 images cannot be read") as caught:
            get()
        assert all(
            f"{root}/{line}: no permission to read it" in str(caught.value) for line in ("cat/3.png", "dog/secret")
        )
        data = get(skip_unreadable=True)
        assert images(data) == 39 and told(data, "no permission to read it")
    (root / "dog").chmod(0)
    with as_nobody(), pytest.raises(DataError, match=r"vanish: dog/ \(no permission to read it \(1\)\)"):
        get(skip_unreadable=True)
    root.chmod(0)
    with as_nobody(), pytest.raises(DataError, match="cannot be listed: no permission"):
        get()
    root.parent.chmod(0)
    with as_nobody(), pytest.raises(DataError, match="cannot be opened: Permission denied"):
        get()


def test_a_file_that_vanishes_after_it_was_listed_is_named(
    root: Path, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl_bench.data.packed_roles as packed_roles

    planned = packed_roles.plan_evaluation

    def vanish(*arguments: Any) -> Any:
        (root / "cat" / "3.png").unlink(missing_ok=True)
        return planned(*arguments)

    monkeypatch.setattr(packed_roles, "plan_evaluation", vanish)
    with pytest.raises(DataError, match=r"cat/3\.png cannot be read: No such file.*run again"):
        get()
    assert images(get()) == 39


def test_empty_and_truncated_files_are_listed_with_their_reason(root: Path, get: Any) -> None:
    (root / "cat" / "0.png").write_bytes(b"")
    (root / "cat" / "1.png").write_bytes(picture(1, "JPEG")[:300])
    (root / "dog" / "2.png").write_bytes(b"<html>404</html>")
    with pytest.raises(
        DataError, match="(?s)3 of 40 images cannot be read.*0.png: empty file.*1.png: .*runcated.*2.png: not an image"
    ):
        get()
    assert images(get(skip_unreadable=True)) == 37


def test_an_image_of_too_many_pixels_is_told_in_plain_words(root: Path, get: Any) -> None:
    header = picture(0)
    at = header.index(b"IHDR") + 4
    fields = struct.pack(">II", 40_000, 40_000) + header[at + 8 : at + 13]
    content = header[:at] + fields + struct.pack(">I", zlib.crc32(b"IHDR" + fields)) + header[at + 17 :]
    (root / "cat" / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.png: too many pixels \(.*1600000000.*\)"):
        get()


def test_names_of_any_bytes_and_length(root: Path, get: Any) -> None:
    strange = os.fsdecode(b"\xff\xfe b\xe9")
    (root / "cat").rename(root / strange)
    (root / "dog" / "0.png").rename(root / "dog" / ("n" * 251 + ".png"))
    (root / strange / "1.png").rename(root / strange / os.fsdecode(b"\x80.png"))
    data = get()
    assert images(data) == 40 and data.evaluate[0].train.classes == (r"\xff\xfe b\xe9", "dog")
    "\n".join(data.notes).encode()
    (root / strange / os.fsdecode(b"\x80.png")).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        get()
    str(caught.value).encode()
    assert r"\xff\xfe b\xe9/\x80.png: empty file" in str(caught.value)


def test_a_path_that_cannot_be_is_refused_without_a_traceback(tmp_path: Path) -> None:
    for path, why in ((f"/{'x' * 300}", "File name too long"), (str(tmp_path / "loop"), "symbolic links")):
        if why == "symbolic links":
            Path(path).symlink_to(path)
        with pytest.raises(DataError, match=why):
            load(parse(DataSpec, f"folder:{path}", "data"), cache=tmp_path / "cache")


# ---- by their names
# ------------------------------------------------------------------------------------------------------------------


def test_files_left_out_are_counted_by_extension(root: Path, get: Any) -> None:
    for number in range(12):
        (root / "cat" / f"{number}.HEIC").write_bytes(b"....ftypheic")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", ".hidden.png"):
        (root / "dog" / name).write_bytes(b"x")
    for folder in ("__MACOSX", "@eaDir", "$RECYCLE.BIN"):
        (root / folder / "dog").mkdir(parents=True)
        (root / folder / "dog" / "0.png").write_bytes(picture(5))
    (root / "dog" / "readme.txt").write_text("x")
    (root / "cat" / "LOUD.PNG").write_bytes(picture(999))
    (root / "cat" / "misnamed.jpg").write_bytes(picture(998))
    (root / "cat" / "without").write_bytes(picture(997, "JPEG"))
    (root / "cat" / "LICENSE").write_text("x")
    data = get()
    assert images(data) == 43
    (note,) = [note for note in data.notes if "left out" in note]
    assert "left out: .heic 12, no extension 1, .txt 1; pip install pillow-heif reads it" in note


def test_a_class_that_would_vanish_for_its_extension_stops_the_run(root: Path, get: Any) -> None:
    (root / "bird").mkdir()
    for number in range(12):
        (root / "bird" / f"{number}.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"class would vanish: bird/ \(\.heic 12\); pip install pillow-heif reads it"):
        get()
    assert (
        len(
            load(
                parse(DataSpec, {"pretrain": {"source": f"folder:{root}", "layout": "flat"}, "evaluate": []}, "data"),
                cache=root.parent / "cache",
            ).pretrain
        )
        == 40
    )
    shutil.rmtree(root / "bird")
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("x")
    (root / "nothing").mkdir()
    assert told(get(), "2 folders without an image are not used", "notes/ (.txt 1)", "nothing/ (nothing)")


def test_formats_of_installed_decoders_are_read(
    root: Path, get: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the package of that name, which registers a decoder as that one does."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "class Opened(PngImagePlugin.PngImageFile):\n    format = 'HEIF'\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Opened, lambda prefix: prefix[:4] == b'\\x89PNG')\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    (root / "bird").mkdir()
    for number in range(20):
        (root / "bird" / f"{number}.heic").write_bytes(picture(300 + number))
    monkeypatch.syspath_prepend(str(tmp_path))
    for attribute in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, attribute, dict(getattr(Image, attribute)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    decoding.register_plugins.cache_clear()
    extensions.cache_clear()
    try:
        data = get()
        assert images(data) == 60 and set(data.evaluate[0].train.classes) == {"bird", "cat", "dog"}
    finally:
        decoding.register_plugins.cache_clear()
        extensions.cache_clear()


def test_a_deep_tree_is_listed_without_recursion(root: Path) -> None:
    (root / "/".join("d" * 300)).mkdir(parents=True)
    (root / "/".join("d" * 300) / "x.png").write_bytes(picture(0))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        tree = list_folder(root)
        assert tree.count == 41 and len(tree.files()) == 41
    finally:
        sys.setrecursionlimit(limit)
