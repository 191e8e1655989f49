"""Sources by name: what is found where, how it is read, and how what is missing is told."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from ssl_bench.data.places import Places, cache_folder, data_root
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources import torchvision_sets
from ssl_bench.data.sources.catalogue import list_sources, open_source
from ssl_bench.data.sources.parquet import ParquetReader
from ssl_bench.errors import DataError
from ssl_bench.spec.data import SourceSpec


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "root").mkdir()
    return Places(tmp_path / "cache", tmp_path / "root")


def find(source: str, places: Places, **more: Any) -> RawSet:
    return open_source(SourceSpec(source=source, **more), places)


def summary(source: RawSet) -> dict[str, tuple[int, list[int] | None]]:
    return {
        name: (len(split), None if split.labels is None else split.labels.tolist())
        for name, split in source.splits.items()
    }


def pixels(source: RawSet, split: str) -> list[np.ndarray]:
    from ssl_bench.data.packs.decode import decode

    reader = source.splits[split].reader
    return [decode(item, 12)[0] for items in reader.items([(0, len(reader))]) for item in items]


# ---- names
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"), [("cifr10", "cifar10"), ("shape", "shapes"), ("stl-10", "stl10"), ("imagenete", "imagenette")]
)
def test_an_unknown_source_names_the_nearest(name: str, near: str, places: Places) -> None:
    with pytest.raises(DataError, match=f"unknown source '{name}'; did you mean .*'{near}'"):
        find(name, places)
    with pytest.raises(DataError, match="write folder:PATH"):
        find("folder", places)


def test_every_source_is_listed_with_a_line_and_in_torchvision() -> None:
    import torchvision.datasets

    from ssl_bench.data.sources.torchvision_source import TorchvisionSource
    from ssl_bench.plugins.registry import SOURCES

    listed = dict(list_sources())
    assert {"shapes", "folder:PATH", "parquet:PATH", "cifar10", "cifar100", "imagenette", "imagenet"} <= set(listed)
    assert all("\n" not in line and len(line) > 10 for line in listed.values())
    sets = [source for source in map(SOURCES.get, SOURCES.names()) if issubclass(source, TorchvisionSource)]
    assert len(sets) == 29
    for source in sets:
        assert source.dataset in torchvision.datasets.__all__ and SOURCES.get(source.dataset.lower()) is source


def test_data_root_and_cache_come_from_argument_then_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_BENCH_DATA", raising=False)
    assert data_root(None) is None and data_root(tmp_path) == tmp_path
    monkeypatch.setenv("SSL_BENCH_DATA", str(tmp_path))
    assert data_root(None) == tmp_path
    with pytest.raises(DataError, match="nowhere"):
        data_root("/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder(None) == tmp_path / "x" / "ssl_bench" and cache_folder("~/y") == Path.home() / "y"


# ---- folders
# ----------------------------------------------------------------------------------------------------------------------


def test_train_and_test_folders(places: Places, class_folders: Any) -> None:
    assert places.root is not None
    root = places.root / "photos"
    class_folders(root / "train", {"cat": 3, "dog": 2})
    class_folders(root / "val", {"dog": 1, "cat": 1})
    found = find("folder:photos", places)
    assert found.name == "photos" and found.classes == ("cat", "dog")
    assert summary(found) == {"train": (5, [0, 0, 0, 1, 1]), "validation": (2, [0, 1])}
    assert found.native == (12, 12)
    (root / "val").rename(root / "Test")
    assert set(find("folder:photos", places).splits) == {"train", "test"}


def test_class_folders_and_trees(places: Places, class_folders: Any, encode: Any, images_of: Any) -> None:
    assert places.root is not None
    root = class_folders(places.root / "a", {"10": 1, "9": 1, "deep/er": 2})
    found = find("folder:a", places)
    assert found.classes == ("10", "9", "deep") and summary(found) == {"train": (4, [0, 1, 2, 2])}
    assert "3 folders were read as classes" in found.notes[0]
    (root / "beside.PNG").write_bytes(encode(images_of(1)[0]))
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "x.png").write_bytes(b"")
    assert summary(find("folder:a", places)) == {"train": (5, None)}, "an image beside the folders: a tree, not classes"
    (root / "loop").symlink_to(root)
    assert len(find("folder:a", places).splits["train"]) == 5


def test_numbered_class_folders_are_in_the_order_of_their_numbers(places: Places, class_folders: Any) -> None:
    assert places.root is not None
    class_folders(places.root / "a", {"10": 1, "9": 1})
    assert find("folder:a", places).classes == ("9", "10")


def test_class_names_are_only_text(places: Places, class_folders: Any) -> None:
    assert places.root is not None
    strange = ["<b>&amp;", "\\textbf{x}", "\x1b[31mred", "ñ 你", "x..y"]
    class_folders(places.root / "a", dict.fromkeys(strange, 1))
    assert sorted(find("folder:a", places).classes) == sorted(strange)


def test_what_a_folder_lacks_is_said(places: Places, tmp_path: Path, class_folders: Any) -> None:
    with pytest.raises(DataError, match=r"folder:none does not exist; looked for .*/none and .*/root/none"):
        find("folder:none", places)
    with pytest.raises(DataError, match="no data root is set"):
        find("folder:none", Places(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image \(looked for .*\.jpg"):
        find(f"folder:{tmp_path / 'empty'}", places)
    class_folders(tmp_path / "half" / "train", {"a": 1, "b": 1})
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(DataError, match="the test folder holds no image"):
        find(f"folder:{tmp_path / 'half'}", places)
    with pytest.raises(DataError, match="a file, not a folder"):
        find(f"folder:{tmp_path / 'half/train/a/000.png'}", places)


@pytest.mark.parametrize("names", [["test", "val"], ["Test"], ["validation", ".git"]])
def test_held_out_folders_without_train_are_not_classes(
    tmp_path: Path, places: Places, class_folders: Any, names: list[str]
) -> None:
    for name in names:
        class_folders(tmp_path / "a" / name, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=f"a holds {names[0]}/.* but no train folder"):
        find(f"folder:{tmp_path / 'a'}", places)
    class_folders(tmp_path / "b", {"test": 2, "tree": 2})
    assert find(f"folder:{tmp_path / 'b'}", places).classes == ("test", "tree")


def test_sizes_that_differ_have_no_native_size(
    tmp_path: Path, places: Places, class_folders: Any, images_of: Any, encode: Any
) -> None:
    root = class_folders(tmp_path / "a", {"x": 40, "y": 2})
    (root / "y" / "000.png").write_bytes(encode(images_of(1, 20)[0]))
    found = find(f"folder:{root}", places)
    assert found.native is None and found.common == (12, 12)


@pytest.fixture
def listed(tmp_path: Path, images_of: Any, encode: Any) -> Path:
    root = tmp_path / "listed"
    (root / "sub").mkdir(parents=True)
    for number, image in enumerate(images_of(6)):
        (root / "sub" / f"{number}.png").write_bytes(encode(image))
    return root


def test_a_csv_gives_labels_and_groups(listed: Path, places: Places) -> None:
    (listed / "labels.csv").write_text(
        "\ufeffproduct,file,label\np2,sub/3.png,b\np1,sub/0.png,a\np1,./sub/1.png,b\n", encoding="utf-8"
    )
    found = find(f"folder:{listed}", places, labels="labels.csv", group="product", test=0.5)
    split = found.splits["train"]
    assert found.classes == ("a", "b") and summary(found) == {"train": (3, [0, 1, 1])}
    assert split.groups is not None and split.groups.tolist() == [0, 0, 1]
    assert [Path(split.reader.where(at)).name for at in range(3)] == ["0.png", "1.png", "3.png"]
    assert "3 images that labels.csv does not list are not used" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nsub/0.png,a\nsub/9.png,b\n", "names 1 files that do not exist .*sub/9.png"),
        ("file,label\nsub/0.png,a\nsub//0.png,b\n", "more than once: sub/0.png"),
        ("file,label\nsub/0.png,\nsub/1.png,b\n", "empty fields in 1 lines: 2"),
        ("foto,label\nsub/9.png,a\n", "no column 'file'"),
        ("file,lable\nsub/0.png,a\n", "no column 'label'; did you mean 'lable'"),
        ("file,label\n", "lists no file"),
        ("", "no column 'file'"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(listed: Path, places: Places, content: str, message: str) -> None:
    (listed / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        find(f"folder:{listed}", places, labels="labels.csv")


def test_labels_and_groups_need_something_to_be_in(listed: Path, places: Places) -> None:
    with pytest.raises(DataError, match=r"'none.csv' does not exist; looked for .*listed/none.csv and none.csv"):
        find(f"folder:{listed}", places, labels="none.csv")
    with pytest.raises(DataError, match="a csv for folder:PATH"):
        find("cifar10", places, labels="labels.csv")
    with pytest.raises(DataError, match="group: 'product'"):
        find(f"folder:{listed}", places, group="product")
    (listed / "labels.csv").write_bytes(b"file,label\nsub/0.png,\xff\xfe\n")
    with pytest.raises(DataError, match="not a csv in UTF-8"):
        find(f"folder:{listed}", places, labels="labels.csv")


# ---- hub
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["flat", "data", "plain"])
def test_hub_files_in_several_parts(places: Places, hub: Any, images_of: Any, layout: str) -> None:
    assert places.root is not None
    images, labels = images_of(50), [at % 3 for at in range(50)]
    folder = places.root / "set"
    inner = folder / "data" if layout == "data" else folder
    hub(inner, "train", images, labels, ["a", "b", "c"], parts=4, plain=layout == "plain")
    hub(inner, "test", images[:5], labels[:5], ["a", "b", "c"])
    found = find("parquet:set", places)
    assert found.name == "set" and found.classes == ("a", "b", "c") and found.native == (12, 12)
    assert summary(found) == {"train": (50, labels), "test": (5, labels[:5])}
    assert np.array_equal(np.stack(pixels(found, "train")), images)
    reader = found.splits["train"].reader
    if layout != "plain":
        assert reader.where(13).endswith("train-00001-of-00004.parquet row 1 (13.png)")
    for stretches in (
        [(3, 4), (11, 30), (30, 31), (49, 50)],
        [(0, 50)],
        [(at, at + 1) for at in range(50)],
        [(14, 21)],
    ):
        from ssl_bench.data.packs.decode import decode

        got = [[decode(item, 12)[0] for item in items] for items in reader.items(stretches)]
        assert all(
            np.array_equal(np.stack(some), images[start:stop])
            for some, (start, stop) in zip(got, stretches, strict=True)
        )
        assert len(got) == len(stretches)


def test_hub_labels_may_be_text_missing_or_null(tmp_path: Path, hub: Any, images_of: Any) -> None:
    images = images_of(4)
    text = ParquetReader(sorted(hub(tmp_path / "text", "train", images, ["b", "a", None, "b"]).iterdir())).labels()
    assert text is not None and text[0].tolist() == [1, 0, -1, 1] and text[1] == ("a", "b")
    assert ParquetReader(sorted(hub(tmp_path / "none", "train", images).iterdir())).labels() is None
    holes = ParquetReader(
        sorted(hub(tmp_path / "holes", "train", images, [0, None, 2, -1], ["x", "y", "z"]).iterdir())
    ).labels()
    assert holes is not None and holes[0].tolist() == [0, -1, 2, -1]
    with pytest.raises(DataError, match="label 2 has no class name"):
        ParquetReader(sorted(hub(tmp_path / "high", "train", images, [0, 1, 2, 0], ["x", "y"]).iterdir())).labels()


def test_a_single_parquet_file_and_a_group_column(tmp_path: Path, places: Places, hub: Any, images_of: Any) -> None:
    (file,) = hub(
        tmp_path / "one", "anything", images_of(4), [0, 1, 0, 1], extra={"who": ["x", "y", "x", "z"]}
    ).iterdir()
    found = find(f"parquet:{file}", places, group="who", test=0.5)
    assert found.splits["train"].groups is not None and found.splits["train"].groups.tolist() == [0, 1, 0, 2]
    with pytest.raises(DataError, match="no column 'whom'"):
        find(f"parquet:{file}", places, group="whom")


def test_what_a_hub_folder_lacks_is_said(tmp_path: Path, places: Places, hub: Any, images_of: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no Parquet files; looked for train-"):
        find(f"parquet:{tmp_path / 'empty'}", places)
    with pytest.raises(DataError, match="has no train split"):
        find(f"parquet:{hub(tmp_path / 'testing', 'test', images_of(3))}", places)
    lost = hub(tmp_path / "lost", "train", images_of(9), parts=3)
    (lost / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="1 of 3 Parquet files are missing, the first is number 00001-of-00003"):
        find(f"parquet:{lost}", places)
    (lost / "train-00002-of-00003.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        find(f"parquet:{lost}", places)
    apart = hub(tmp_path / "apart", "train", images_of(4), [0, 1, 0, 1], ["a", "b"])
    hub(apart, "test", images_of(4), [0, 1, 0, 1], ["b", "a"])
    with pytest.raises(DataError, match="class lists of train .* and test .* differ"):
        find(f"parquet:{apart}", places)

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no image column .*its columns: text"):
        find(f"parquet:{tmp_path / 'text.parquet'}", places)


def test_files_of_one_split_must_mean_the_same(tmp_path: Path, places: Places, hub: Any, images_of: Any) -> None:
    """Each file of a split may come from another program, with another list of classes or other types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def split(name: str, *changes: Any) -> Path:
        """Two files, the second one with its table and its class names changed."""
        folder = tmp_path / name
        for part, names in enumerate((["a", "b"], changes[1])):
            hub(tmp_path / f"{name} {part}", "train", images_of(4, seed=part), [0, 1, 0, 1], names)
            table = pq.read_table(tmp_path / f"{name} {part}" / "train-00000-of-00001.parquet")
            folder.mkdir(exist_ok=True)
            pq.write_table(changes[0](table) if part else table, folder / f"train-{part:05d}-of-00002.parquet")
        return folder

    def stored_as(column: str, kind: Any) -> Any:
        return lambda table: table.set_column(table.schema.get_field_index(column), column, table[column].cast(kind))

    narrow = find(f"parquet:{split('narrow', stored_as('label', pa.int32()), ['a', 'b'])}", places)
    assert summary(narrow) == {"train": (8, [0, 1, 0, 1] * 2)} and narrow.classes == ("a", "b")
    silent = find(f"parquet:{split('silent', lambda table: table.replace_schema_metadata(None), ['b', 'a'])}", places)
    assert silent.classes == ("a", "b"), "a file that says nothing contradicts nothing"
    for name, change, names, message in (
        (
            "order",
            lambda table: table,
            ["b", "a"],
            "describe column 'label' differently: label 0 is 'b' here, 'a' there",
        ),
        (
            "more",
            lambda table: table,
            ["a", "b", "c"],
            "differently: ClassLabel of 3 classes here, ClassLabel of 2 there",
        ),
        (
            "text",
            stored_as("label", pa.string()),
            ["a", "b"],
            "column 'label' holds int64 in .*00000-of-00002.parquet and string in",
        ),
        (
            "bare",
            lambda table: table.set_column(0, "image", table["image"].combine_chunks().field("bytes")),
            ["a", "b"],
            "column 'image' holds struct",
        ),
    ):
        with pytest.raises(DataError, match=message) as caught:
            find(f"parquet:{split(name, change, names)}", places)
        assert all(f"train-{part:05d}-of-00002.parquet" in str(caught.value) for part in (0, 1))


def test_images_stored_as_links_are_part_of_the_content(tmp_path: Path, images_of: Any, encode: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = images_of(6)
    rows = [{"bytes": encode(image) if at % 2 else None, "path": f"{at}.png"} for at, image in enumerate(images)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "train.parquet", row_group_size=4)
    for at in (0, 2):
        (tmp_path / f"{at}.png").write_bytes(encode(images[at]))

    def content() -> str:
        return ParquetReader([tmp_path / "train.parquet"]).content(Places(tmp_path / "cache"))

    first = content()
    assert content() == first
    (tmp_path / "4.png").write_bytes(encode(images[4]))
    restored = content()
    assert restored != first
    (tmp_path / "2.png").write_bytes(encode(images[5]))
    edited = content()
    assert edited not in (first, restored)
    (tmp_path / "1.png").write_bytes(b"its row has bytes")
    assert content() == edited
    (tmp_path / "0.png").rename(tmp_path / "away.png")
    one_lost = content()
    (tmp_path / "2.png").rename(tmp_path / "0.png")
    assert len({first, restored, edited, one_lost, content()}) == 5, "which of the files are there matters"


@pytest.mark.parametrize(
    "name",
    [
        "train.parquet",
        "train_0.parquet",
        "train.0.parquet",
        "train-00000-of-00001.parquet",
        "train-00000-of-00001-a09b74b3ef9c3b56.parquet",
    ],
)
def test_hub_files_are_of_a_split_by_its_exact_name(
    tmp_path: Path, places: Places, hub: Any, images_of: Any, name: str
) -> None:
    folder = hub(tmp_path / "set", "train", images_of(6), [0, 1] * 3)
    (folder / "train-00000-of-00001.parquet").rename(folder / name)
    for other in ("train_small", "test_corrupted", "train_2x"):
        hub(folder, other, images_of(4), [0, 1] * 2)
    hub(folder, "test", images_of(2), [0, 1])
    found = find(f"parquet:{folder}", places)
    assert {split: len(raw) for split, raw in found.splits.items()} == {"train": 6, "test": 2}
    assert "3 Parquet files of no known split are not used: test_corrupted-00000-of-00001.parquet, " in found.notes[0]
    (folder / name).unlink()
    (folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"not clear which split .*test_corrupted-00000-of-00001\.parquet, train_2x"):
        find(f"parquet:{folder}", places)


def test_text_labels_are_numbered_over_all_splits(tmp_path: Path, places: Places, hub: Any, images_of: Any) -> None:
    folder = hub(tmp_path / "text", "train", images_of(4), ["b", "a", "c", None])
    hub(folder, "test", images_of(3), ["c", "b", "c"])
    found = find(f"parquet:{folder}", places)
    assert found.classes == ("a", "b", "c")
    assert summary(found) == {"train": (4, [1, 0, 2, -1]), "test": (3, [2, 1, 2])}


# ---- torchvision sets
# --------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return gzip.decompress(
        gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())
    )


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "tv" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (("train", 60), ("t10k", 20)):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(random.integers(0, 256, (count, 28, 28), np.uint8)))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    return tmp_path / "tv"


def test_a_torchvision_set_with_train_true_and_false(mnist: Path, tmp_path: Path) -> None:
    found = find("mnist", Places(tmp_path / "cache", mnist))
    assert found.name == "MNIST" and len(found.classes) == 10 and found.native == (28, 28)
    assert summary(found)["test"] == (20, [at % 10 for at in range(20)]) and len(found.splits["train"]) == 60
    reader = found.splits["train"].reader
    first = reader.content(Places(tmp_path))
    assert first != found.splits["test"].reader.content(Places(tmp_path))
    file = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert find("mnist", Places(tmp_path / "cache", mnist)).splits["train"].reader.content(Places(tmp_path)) != first


def test_a_set_that_takes_download_through_its_base_class_is_downloaded(
    tmp_path: Path,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import urllib.request

    def offline(*arguments: Any, **options: Any) -> Any:
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"(?s)QMNIST was not found.*download to .*no network"):
        find("qmnist", places)


def test_one_process_downloads_a_set_at_a_time(tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def opened(name: str, dataset: str, title: str, folders: Any, download_to: Path | None, split: str) -> Any:
        if download_to is not None:
            try:
                with filelock.FileLock(download_to / f"{name}.lock", timeout=0):
                    held.append(False)
            except filelock.Timeout:
                held.append(True)
        return {}, []

    monkeypatch.setattr("ssl_bench.data.sources.torchvision_sets.open_sets", opened)
    for _ in range(2):  # given back, though nothing was found
        with pytest.raises(DataError, match="CIFAR-10 was not found"):
            find("cifar10", places)
    assert held == [True, True]


@pytest.fixture
def pets(tmp_path: Path, images_of: Any, encode: Any) -> Path:
    root = tmp_path / "tv" / "oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations" / "trimaps").mkdir(parents=True)
    names = [f"{breed}_{number}" for breed in ("Abyssinian", "beagle") for number in range(5)]
    for name, image in zip(names, images_of(10, 20), strict=True):
        (root / "images" / f"{name}.jpg").write_bytes(encode(image, "JPEG"))
    line = "{0} {1} 1 1\n".format
    for split, chosen in (("trainval", (0, 1, 2, 5, 6, 7)), ("test", (3, 4, 8, 9))):
        (root / "annotations" / f"{split}.txt").write_text("".join(line(names[at], 1 + at // 5) for at in chosen))
    return tmp_path / "tv"


def test_a_torchvision_set_of_files_with_split_names(pets: Path, tmp_path: Path) -> None:
    found = find("oxfordiiitpet", Places(tmp_path / "cache", pets))
    assert found.classes == ("Abyssinian", "Beagle")
    assert summary(found) == {"train": (6, [0, 0, 0, 1, 1, 1]), "test": (4, [0, 0, 1, 1])}
    reader = found.splits["train"].reader
    assert reader.where(3).endswith("beagle_0.jpg")
    first = reader.content(Places(tmp_path))
    (pets / "oxford-iiit-pet" / "images" / "beagle_0.jpg").write_bytes(b"changed")
    assert reader.content(Places(tmp_path)) != first


@pytest.mark.parametrize(("kind", "folder"), [("PCAM", "pcam"), ("FER2013", "fer2013")])
def test_a_set_that_shows_no_files_is_known_by_its_own_folder(tmp_path: Path, kind: str, folder: str) -> None:
    class Hidden(list):
        root = str(tmp_path)

    def content() -> str:
        made = type(kind, (Hidden,), {})(range(3))
        return torchvision_sets.TorchvisionReader(made, kind).content(Places(tmp_path.parent / "cache"))

    (tmp_path / folder).mkdir()
    (tmp_path / folder / "images.h5").write_bytes(b"images")
    before = content()
    (tmp_path / "another set").mkdir()
    (tmp_path / "another set" / "one.png").write_bytes(b"not of this set")
    assert content() == before
    (tmp_path / folder / "images.h5").write_bytes(b"others")
    assert content() != before


def test_a_torchvision_set_without_splits(tmp_path: Path, class_folders: Any) -> None:
    class_folders(tmp_path / "tv" / "eurosat" / "2750", {"Forest": 3, "River": 2})
    found = find("eurosat", Places(tmp_path / "cache", tmp_path / "tv"))
    assert found.classes == ("Forest", "River") and summary(found) == {"train": (5, [0, 0, 0, 1, 1])}


def test_a_split_may_be_named_and_an_unknown_one_is_refused(pets: Path, tmp_path: Path) -> None:
    places = Places(tmp_path / "cache", pets)
    assert (
        list(find("oxfordiiitpet:test", places).splits) == ["train"]
        and len(find("oxfordiiitpet:test", places).splits["train"]) == 4
    )
    with pytest.raises(DataError, match="no split 'unlabeled'"):
        find("oxfordiiitpet:unlabeled", places)


def test_what_cannot_be_found_or_downloaded_says_where_it_was_looked_for(
    tmp_path: Path,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import urllib.request

    def offline(*arguments: Any, **options: Any) -> Any:
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        DataError, match=r"(?s)CIFAR-10 was not found and could not be downloaded; put .*root.*no network"
    ):
        find("cifar10", places)
    with pytest.raises(DataError, match=r"(?s)ImageNet was not found.*ILSVRC2012"):
        find("imagenet", places)


# ---- copies in the data root
# -------------------------------------------------------------------------------------------------------


def test_a_copy_is_found_by_the_beginning_of_its_name(places: Places, hub: Any, images_of: Any) -> None:
    assert places.root is not None
    labels, names = list(range(10)) * 2, [*"abcdefghij"]
    hub(places.root / "cifar100", "train", images_of(20, 16), labels, names)  # a hundred is not ten
    hub(places.root / "cifar10-jpeg", "train", images_of(20, 16), labels, names, kind="JPEG")
    found = find("cifar10", places)
    assert found.name == "CIFAR-10 (JPEG copy)" and "cifar10-jpeg" in found.notes[0] and found.native == (16, 16)
    hub(places.root / "cifar-10", "train", images_of(20, 16), labels, names)
    with pytest.raises(DataError, match="'cifar10' could be .*cifar-10 or .*cifar10-jpeg; name one"):
        find("cifar10", places)
    hub(places.root / "cifar10", "train", images_of(20, 16), labels, names)
    assert find("cifar10", places).name == "CIFAR-10"


def test_a_subset_under_the_name_of_a_set_is_not_the_set(
    places: Places, class_folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.root is not None
    monkeypatch.setattr("ssl_bench.data.sources.torchvision_sets.open_sets", lambda *arguments: ({}, []))
    class_folders(places.root / "imagenet-100" / "train", {"a": 1, "b": 1})
    with pytest.raises(DataError, match="ImageNet was not found"):
        find("imagenet", places)
    class_folders(places.root / "imagenette-160" / "train", dict.fromkeys("abcdefghij", 1))
    assert find("imagenette", places).name == "Imagenette (copy imagenette-160)"


def test_shapes_need_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_bench.data.sources.shapes.DEFAULT_TRAIN", 64)
    monkeypatch.setattr("ssl_bench.data.sources.shapes.DEFAULT_TEST", 48)
    places = Places(tmp_path, size=32)
    found = find("shapes", places)
    assert len(found.splits["train"]) == 64 and len(found.splits["test"]) == 48 and len(found.classes) >= 2
    train = found.splits["train"]
    assert (
        train.labels is not None
        and train.labels.max() == len(found.classes) - 1
        and {"boxes", "hue"} <= set(train.columns)
    )
    again = find("shapes", places)
    for name, column in train.columns.items():
        np.testing.assert_array_equal(column, again.splits["train"].columns[name])
    with pytest.raises(DataError, match="smallest `size` is 32"):
        find("shapes", Places(tmp_path, size=16))
