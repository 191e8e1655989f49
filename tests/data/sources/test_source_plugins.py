"""A source of one's own is one file: images, images with boxes, listed, refused in words where it is wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_bench.data import list_sources, load
from ssl_bench.data.boxes.loading import load_detection
from ssl_bench.errors import DataError, SpecError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import SOURCES, Registry
from ssl_bench.spec.data import DataSpec

ROOT = Path(__file__).parents[3]
STRIPES = (ROOT / "tests" / "plugins" / "stripes.py").read_text()

DOTS = '''
"""Dots: files NAME.png with NAME.txt beside them, an object a line: its name, x1 y1 x2 y2."""
import numpy as np
from pathlib import Path
from PIL import Image
from ssl_bench import BoxedImage, RawBoxes, Source
from ssl_bench.errors import DataError


class Dots(Source):
    """Pictures with a text file of boxes beside each."""

    name = "dots"
    argument = "PATH"
    boxes = "a folder of pictures, each with a text file of its boxes"

    def check(self, spec, places):
        folder = Path(spec.source.partition(":")[2])
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of dots")

    def open_boxes(self, spec, places):
        folder = Path(spec.source.partition(":")[2])
        images = [self.read(file) for file in sorted(folder.glob("*.png"))]
        return RawBoxes.of_files("dots", {"train": images[4:], "test": images[:4]}, spec, places)

    def read(self, file):
        lines = [line.split() for line in file.with_suffix(".txt").read_text().splitlines()]
        boxes = np.array([[float(edge) for edge in line[1:]] for line in lines]).reshape(-1, 4)
        with Image.open(file) as image:
            width, height = image.size
        names = tuple(line[0] for line in lines)
        return BoxedImage(file, width, height, boxes, names, np.zeros(len(lines), bool))
'''


@pytest.fixture(autouse=True)
def _nothing_is_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(SOURCES, "_added", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SSL_BENCH_DATA", raising=False)


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def dots(tmp_path: Path, images_of: Any, encode: Any) -> Path:
    folder = tmp_path / "dots"
    folder.mkdir()
    for at, pixels in enumerate(images_of(24, 12)):
        (folder / f"{at:02d}.png").write_bytes(encode(pixels))
        (folder / f"{at:02d}.txt").write_text(f"cat {at % 5} 2 {at % 5 + 4} 7\ndog 1 1 3 12\n")
    return folder


def test_a_source_of_images_is_one_file(tmp_path: Path) -> None:
    assert load_plugin(write(tmp_path, STRIPES)) == ["stripes"]
    assert dict(list_sources())["stripes"].startswith("600 + 200 images of stripes")
    data = load(DataSpec.model_validate("stripes"))
    (judged,) = data.evaluate
    assert (data.size, judged.name, judged.test.classes) == (16, "stripes", ("lying", "standing"))
    assert [len(part) for part in (judged.train, judged.validation, judged.test)] == [540, 60, 200]
    images, labels = judged.test.read(np.arange(200)), judged.test.labels
    assert labels is not None and labels.tolist() == [0, 1] * 100
    rows_alike = (images == images[:, :1]).all((1, 2, 3))
    assert rows_alike.tolist() == [label == 1 for label in labels], "each image goes with its own label"


def test_a_matrix_is_prepared_on_a_source_of_a_plugin_and_its_id_is_that_of_the_pixels(tmp_path: Path) -> None:
    matrix = {
        "name": "mine", "data": {"source": "stripes", "size": 16},
        "backbone": {"name": "resnet10t", "width": 0.125, "stem_stride": 2},
        "pretrain": {"images": 64, "batch_size": 16}, "tasks": ["rotation"], "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip
    with pytest.raises(DataError, match=r"unknown source 'stripes'"):
        prepare(matrix, tmp_path / "out")
    file = write(tmp_path, STRIPES)
    planned = prepare(matrix, tmp_path / "out", plugins=(file,), pack=False)
    assert set(planned.unpacked) == {"stripes train", "stripes test"}

    def ids() -> list[str]:
        return [cell.id for cell in prepare(matrix, tmp_path / "out", plugins=(file,)).cells()]

    before = ids()
    file.write_text(STRIPES.replace("lie or stand", "run in one of two ways").replace("bars", "drawn"))
    assert ids() == before, "other code, the same pixels"
    file.write_text(STRIPES.replace("default_rng(0)", "default_rng(1)"))
    assert set(ids()).isdisjoint(before)


def test_a_source_of_boxes_is_one_file(tmp_path: Path, dots: Path) -> None:
    load_plugin(write(tmp_path, DOTS))
    assert dict(list_sources("boxes"))["dots:PATH"] == "a folder of pictures, each with a text file of its boxes"
    assert "dots:PATH" not in dict(list_sources())
    data = load_detection(f"dots:{dots}")
    assert data.test.classes == ("cat", "dog")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 4]
    for at in range(4):
        assert data.test.boxes[at].tolist() == [[at % 5, 2, at % 5 + 4, 7], [1, 1, 3, 12]]
        assert data.test.labels[at].tolist() == [0, 1] and data.test.image(at).shape == (12, 12, 3)
    assert len(load_detection(f"dots:{dots}", validation="test").validation) == 4
    assert len(load_detection(f"dots:{dots}", validation=0.5).validation) == 10
    with pytest.raises(DataError, match=r"dots has no images in a list 'val' \(validation\); its lists: train, test"):
        load_detection(f"dots:{dots}", validation="val")
    (dots / "07.txt").write_text("cat 3 2 13 7\n")
    with pytest.raises(DataError, match=r"07\.png has a box that is empty or leads out of its 12x12 pixels"):
        load_detection(f"dots:{dots}")


def test_unknown_and_incomplete_names_are_told(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, STRIPES))
    load_plugin(write(tmp_path, DOTS, "dots.py"))
    for source, message in (
        ("strpes", "unknown source 'strpes'; did you mean 'stripes'"),
        ("stripes:more", "unknown source 'stripes:more'; write just 'stripes'"),
        ("dots:x", "unknown source 'dots:x'"),  # it gives boxes, and no images without them
    ):
        with pytest.raises(DataError, match=message):
            load(DataSpec.model_validate(source))
    for source, message in (
        ("dots", "unknown detection source 'dots'; write dots:PATH"),
        ("stripes", "unknown detection source 'stripes'"),
        (f"dots:{tmp_path / 'gone'}", "gone is no folder of dots"),
    ):
        with pytest.raises(DataError, match=message):
            load_detection(source)
    with pytest.raises(DataError, match=r"group: 'x' names a column .* 'stripes' has none"):
        load(DataSpec.model_validate({"source": "stripes", "group": "x"}))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "stripes"', 'name = "cifar10"', "a source named 'cifar10' exists already"),
        ('name = "stripes"', 'name = "stripes:"', "a colon ends it where a matrix writes it"),
        ('name = "stripes"', "title = 3", "has no class attribute `name`"),
        (
            '    images = "600 + 200',
            '    about = "600 + 200',
            "has open and no `images`: say in one line what it gives",
        ),
        ("def open(self, spec, places)", "def show(self, spec, places)", r"has no method open\(self, spec, places\)"),
        ("def open(self, spec, places)", "def open(self, spec)", r"is called as open\(self, spec, places\)"),
        ('images = "600', 'argument = 3\n    images = "600', "has argument = 3, and it must be one line of text"),
    ],
)
def test_a_source_that_lacks_something_is_refused_when_it_is_loaded(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in STRIPES
    with pytest.raises(SpecError, match=message):
        load_plugin(write(tmp_path, STRIPES.replace(before, after)))
    assert "stripes" not in SOURCES
    assert load_plugin(write(tmp_path, STRIPES)) == ["stripes"], "mended, it loads"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('return RawSet("stripes", ("lying", "standing"), splits)', "return splits", "returned a dict from open"),
        ('("lying", "standing"), splits)', '("lying", "lying"), splits)', "must be a tuple of different names"),
        ('("lying", "standing"), splits)', '("lying",), splits)', r"labels from 0 to 1, and there are 1"),
        (
            '(("train", 600), ("test", 200))', '(("learn", 600),)',
            "gives the splits learn, and they must be a dict with train",
        ),
        (
            ", labels)\n", ", labels.astype(float))\n",
            r"labels of float64 \[600\], and they must be an int64 array \[600\]",
        ),
        (", labels)\n", ", labels[1:])\n", r"labels of int64 \[599\], and they must be an int64 array \[600\]"),
        ("ArrayReader(images, f\"stripes {split}\")", "images", "has a reader .ndarray. without content, items, where"),
        ("ArrayReader(images,", "ArrayReader(images / 255.0,", "must give a list of one image"),
        ("random = ", "random = 1 / 0 or ", r"its code raised ZeroDivisionError: .*mine\.py, line \d+"),
    ],
)  # fmt: skip
def test_a_source_that_gives_the_wrong_thing_is_refused_when_it_is_opened(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in STRIPES
    load_plugin(write(tmp_path, STRIPES.replace(before, after)))
    with pytest.raises(DataError, match=f"source 'stripes'.*{message}"):
        load(DataSpec.model_validate("stripes"))


READER = """

class Slow(ArrayReader):
    def content(self, places):
        {content}

    def items(self, stretches):
        {items}
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"content": "return 1 / 0"}, r"its code raised ZeroDivisionError: .*mine\.py, line \d+"),
        ({"content": "return None"}, r"content\(places\) gives None, and it must give a hash"),
        (
            {"items": "yield [next(super().items(stretches))[0]]"},
            r"items gives 1 for images 0 to \d+, and it must give a list",
        ),
        (
            {"items": "yield from ([0 / (stop - start - 1)] for start, stop in stretches)"},
            "must give a list of one image|ZeroDivision",
        ),
    ],
)  # fmt: skip
def test_a_reader_that_gives_the_wrong_thing_later_is_told_as_the_plugin_s(
    tmp_path: Path, lines: dict[str, str], message: str
) -> None:
    usual = {"content": "return super().content(places)", "items": "yield from super().items(stretches)"}
    reader = READER.format(**{**usual, **lines})
    load_plugin(write(tmp_path, STRIPES.replace("ArrayReader(images", "Slow(images") + reader))
    with pytest.raises(DataError, match=f"source 'stripes'.*(?:{message})"):
        load(DataSpec.model_validate("stripes"))


def test_a_source_of_boxes_that_gives_the_wrong_thing_is_refused(tmp_path: Path, dots: Path) -> None:
    load_plugin(write(tmp_path, DOTS.replace('return RawBoxes.of_files("dots", ', "return (")))
    with pytest.raises(DataError, match=r"source 'dots' returned a tuple from open_boxes\(spec, places\)"):
        load_detection(f"dots:{dots}")


def test_installed_sources_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "striped_package", raising=False)
    write(tmp_path, STRIPES, "striped_package.py")
    info = tmp_path / "striped_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: striped_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ssl_bench.sources]\nstripes = striped_package:Stripes\n")
    importlib.invalidate_caches()
    registry: Registry[Any] = Registry("source", SOURCES._base, SOURCES.group, SOURCES._builtin)
    assert registry.get("stripes").__module__ == "striped_package" and "stripes" in registry.names()


def test_every_source_of_ours_keeps_the_contract_of_plugins() -> None:
    from ssl_bench.data.sources.base import Source
    from ssl_bench.plugins.contracts import contract_problem

    told = {name: contract_problem(SOURCES.get(name), Source, "source") for name in SOURCES.names()}
    assert not any(told.values()), told
    assert all(name == SOURCES.get(name).name for name in told)


def test_the_documents_print_the_source_as_it_is_tested() -> None:
    assert STRIPES.strip() in (ROOT / "docs" / "images.md").read_text()
