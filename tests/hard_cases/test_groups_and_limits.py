"""Images of one group are never on both sides, whatever limit cuts the splits,
and whatever source they are pretrained from."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_bench.data import Data, ImageSet, load
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse

COUNT = 120
GROUPS = np.random.default_rng(3).integers(0, 24, COUNT)  # each of one class
LABELS = ["ab"[group % 2] for group in GROUPS]


@cache
def picture(number: int) -> bytes:
    """An image whose first pixel tells its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    pixels[0, 0] = (number // 256, number % 256, 7)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def numbers(images: ImageSet) -> set[int]:
    first = images.pixels[images.rows, 0, 0].astype(int)
    return set((first[:, 0] * 256 + first[:, 1]).tolist())


def groups_of(images: ImageSet) -> set[int]:
    return {int(GROUPS[number]) for number in numbers(images)}


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Data]:
    def get(spec: Any) -> Data:
        return load(parse(DataSpec, spec, "data"), data_root=tmp_path, cache=tmp_path / "cache")

    return get


def write_folder(root: Path, which: Sequence[int], name: str = "labels.csv", groups: bool = True) -> None:
    root.mkdir(exist_ok=True)
    lines = ["file,label,product" if groups else "file,label"]
    for number in which:
        (root / f"{number}.png").write_bytes(picture(number))
        lines.append(f"{number}.png,{LABELS[number]}" + (f",p{GROUPS[number]}" if groups else ""))
    (root / name).write_text("\n".join(lines))


def write_parquet(root: Path, split: str, which: Sequence[int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(exist_ok=True)
    columns = {
        "image": [picture(number) for number in which],
        "label": [LABELS[number] for number in which],
        "product": [f"p{GROUPS[number]}" for number in which],
    }
    pq.write_table(pa.table(columns), root / f"{split}.parquet")


def disjoint(data: Data) -> None:
    for labelled in data.evaluate:
        roles = [groups_of(images) for images in (labelled.train, labelled.validation, labelled.test)]
        assert all(roles) and not roles[0] & roles[1] and not roles[0] & roles[2] and not roles[1] & roles[2]
        assert not groups_of(data.pretrain) & (roles[1] | roles[2]), "siblings of judged images are pretrained on"


LIMITS = [{}, {"train": 40}, {"test": 5}, {"train": 8, "test": 2}]


@pytest.mark.parametrize("limit", LIMITS)
def test_no_group_straddles_the_splits_of_a_csv_or_of_parquet(tmp_path: Path, get: Any, limit: Any) -> None:
    write_folder(tmp_path / "photos", range(COUNT))
    data = get({"source": "folder:photos", "labels": "labels.csv", "group": "product", "test": 0.25, "limit": limit})
    disjoint(data)
    (labelled,) = data.evaluate
    assert "train" not in limit or len(labelled.train) + len(labelled.validation) == limit["train"]
    assert "test" not in limit or len(labelled.test) == limit["test"]
    write_parquet(tmp_path / "table", "train", range(COUNT))
    disjoint(get({"source": "parquet:table", "group": "product", "test": 0.25, "limit": limit}))
    held_out = [number for number in range(COUNT) if GROUPS[number] < 6]
    write_parquet(tmp_path / "parted", "train", [number for number in range(COUNT) if number not in held_out])
    write_parquet(tmp_path / "parted", "test", held_out)
    disjoint(get({"source": "parquet:parted", "group": "product", "limit": limit}))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    "pretrain",
    [
        "folder:photos",  # no groups of its own: siblings are known by their pixels
        {"source": "folder:photos", "labels": "again.csv", "group": "product"},
        {"source": "parquet:table", "group": "product"},
    ],
)
def test_siblings_of_judged_images_are_not_pretrained_on_from_another_source(
    tmp_path: Path, get: Any, limit: Any, pretrain: Any
) -> None:
    write_folder(tmp_path / "photos", range(COUNT), "again.csv")
    write_folder(tmp_path / "photos", range(COUNT))
    write_parquet(tmp_path / "table", "train", range(COUNT))
    data = get(
        {
            "pretrain": pretrain,
            "limit": limit,
            "evaluate": {"source": "folder:photos", "labels": "labels.csv", "group": "product", "test": 0.25},
        }
    )
    disjoint(data)
    (labelled,) = data.evaluate
    if not limit:
        assert numbers(data.pretrain) == numbers(labelled.train), "and nothing else is left out"


def test_groups_of_the_pretraining_source_hold_where_the_judged_one_holds_one_view_of_each(
    tmp_path: Path, get: Any
) -> None:
    """Many views to pretrain on, one labelled view of a product:
    the other views of a judged product are its siblings."""
    write_folder(tmp_path / "all", range(COUNT))
    first = [int(np.flatnonzero(group == GROUPS)[0]) for group in np.unique(GROUPS)]
    write_folder(tmp_path / "one", first)
    write_folder(tmp_path / "bare", first, groups=False)
    pretrain = {"source": "folder:all", "labels": "labels.csv", "group": "product"}
    for evaluate in (
        {"source": "folder:one", "labels": "labels.csv", "group": "product"},
        {"source": "folder:bare", "labels": "labels.csv"},
    ):
        data = get({"pretrain": pretrain, "evaluate": {**evaluate, "test": 0.25}, "limit": {"test": 5}})
        (labelled,) = data.evaluate
        judged = groups_of(labelled.validation) | groups_of(labelled.test)
        assert not groups_of(data.pretrain) & judged and len(data.pretrain) > COUNT / 2
        assert any("group" in note and "not pretrained on" in note for note in data.notes)


def test_two_judged_sources_of_the_same_images(tmp_path: Path, get: Any) -> None:
    write_folder(tmp_path / "photos", range(COUNT), "again.csv")
    write_folder(tmp_path / "photos", range(COUNT))
    one, other = (
        {"source": "folder:photos", "labels": name, "group": "product"} for name in ("labels.csv", "again.csv")
    )
    data = get(
        {
            "pretrain": {**one, "test": 0.25},
            "evaluate": [{**one, "test": 0.25}, {**other, "test": 0.4}],
            "limit": {"train": 45, "test": 6},
        }
    )
    for labelled in data.evaluate:
        assert not groups_of(data.pretrain) & (groups_of(labelled.validation) | groups_of(labelled.test))


def test_other_limits_keep_the_sides_of_groups(tmp_path: Path, get: Any) -> None:
    write_folder(tmp_path / "photos", range(COUNT))
    spec = {"source": "folder:photos", "labels": "labels.csv", "group": "product", "test": 0.25}
    whole = get(spec).evaluate[0]
    for limit in LIMITS[1:]:
        cut = get({**spec, "limit": limit}).evaluate[0]
        for role in ("train", "validation", "test"):
            assert numbers(getattr(cut, role)) <= numbers(getattr(whole, role))
    with pytest.raises(
        DataError,
        match=r"limit.train must be at least 3, got 2: one image of each class would leave none for validation",
    ):
        get({**spec, "limit": {"train": 2}})
    assert len(get({**spec, "limit": {"train": 3}}).evaluate[0].validation) == 1


def test_advice_on_shares_and_limits_works_where_it_is_given(tmp_path: Path, get: Any) -> None:
    def advised(which: Sequence[int], **more: Any) -> str:
        write_folder(tmp_path / "photos", which, groups=False)
        with pytest.raises(DataError) as caught:
            get({"source": "folder:photos", "labels": "labels.csv", **more})
        return str(caught.value)

    first = [int(np.flatnonzero(np.array(LABELS) == label)[0]) for label in "ab"]
    assert "no class has a second image, so no share can" in advised(first, test=0.9)
    assert "holds out none; give 0.028 or more" in advised(range(20), test=0.01)
    get({"source": "folder:photos", "labels": "labels.csv", "test": 0.028})
    assert (
        "limit.train must be at least 3, got 2: no class would have a second image to hold back for validation"
        in advised(range(40), test=0.2, limit=2)
    )
    get({"source": "folder:photos", "labels": "labels.csv", "test": 0.2, "limit": 3})


def test_a_pretraining_source_of_judged_groups_alone_is_refused(tmp_path: Path, get: Any) -> None:
    write_folder(tmp_path / "photos", range(COUNT))
    spec = {"source": "folder:photos", "labels": "labels.csv", "group": "product", "test": 0.25}
    judged = groups_of(get(spec).evaluate[0].test)
    write_folder(tmp_path / "bad", [number for number in range(COUNT) if GROUPS[number] in judged])
    with pytest.raises(DataError, match="every image to pretrain on"):
        get({"pretrain": {"source": "folder:bad", "labels": "labels.csv", "group": "product"}, "evaluate": spec})


@pytest.mark.parametrize(
    ("sizes", "limit", "told"),
    [
        (
            {"a": 40, "b": 1, "c": 1},
            {},
            "no image of 2 of 3 classes is among the test images, the first is 'b': all 8 are 'a', so that always "
            "answering",
        ),
        ({"a": 20, "b": 20, "c": 1}, {}, "no image of 1 of 3 classes is among the test images, the first is 'c'"),
        ({"a": 12, "b": 12}, {"test": 1}, "no image of 1 of 2 classes is among the test images"),
        ({"a": 12, "b": 12}, {}, ""),
    ],
)
def test_classes_without_a_test_image_are_told(
    tmp_path: Path,
    get: Callable[..., Data],
    sizes: dict[str, int],
    limit: dict[str, int],
    told: str,
) -> None:
    """A rare class has no share to hold out, and then an accuracy says nothing of it."""
    names = [name for name, count in sizes.items() for _ in range(count)]
    for number, name in enumerate(names):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name / f"{number}.png").write_bytes(picture(number))
    notes = get({"source": f"folder:{tmp_path / 'set'}", "test": 0.2, "limit": limit}).notes
    assert told in "\n".join(notes) and bool(told) == any("among the test images" in note for note in notes)


def test_rows_without_a_group_are_told(tmp_path: Path, get: Callable[..., Data]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "set").mkdir()
    groups = [None if at < 6 else f"p{GROUPS[at]}" for at in range(COUNT)]
    pq.write_table(
        pa.table({"image": [picture(at) for at in range(COUNT)], "label": LABELS, "product": groups}),
        tmp_path / "set" / "train.parquet",
    )
    notes = get({"source": f"parquet:{tmp_path / 'set'}", "group": "product", "test": 0.2}).notes
    assert "set: 6 rows have no value in column 'product' (group), and are treated as one group" in notes


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"group": "label"}, "has no column 'label'; known are: product"),
        ({"group": "file"}, "has no column 'file'; known are: label, product"),
        ({"group": "label", "target": "label"}, "`group: label` is also `target:`; name another column"),
    ],
)
def test_a_column_of_a_csv_has_one_meaning(
    tmp_path: Path, get: Callable[..., Data], more: dict[str, str], told: str
) -> None:
    write_folder(tmp_path / "set", range(12))
    with pytest.raises(DataError, match=re.escape(told)):
        get({"source": f"folder:{tmp_path / 'set'}", "labels": "labels.csv", "test": 0.2, **more})
