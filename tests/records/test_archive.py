"""The archived form of records: what comes out is what went in, and nothing damaged passes."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.records.archive import PREDICTIONS_FILE, RECORDS_FILE, WRONG, Archive, archived
from ssl_bench.records.places import is_stored, matching, place_of
from ssl_bench.records.schema import write_bytes

RECORD = "cells/row/0-1a2b3c4d/linear-0123456789abcdef.json"
PREDICTIONS = RECORD.replace(".json", ".npz")
DTYPES = st.one_of(
    hnp.scalar_dtypes(), hnp.unicode_string_dtypes(), hnp.byte_string_dtypes(),
    hnp.array_dtypes(hnp.integer_dtypes() | hnp.floating_dtypes(), min_size=1, max_size=3),
)  # fmt: skip
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=5)),
    max_size=4,
)


def packed(root: Path, records: dict[str, bytes], predictions: dict[str, Any]) -> Archive:
    for name, content in archived(records, predictions).items():
        write_bytes(root / name, content)
    return Archive(root)


def arrays_of(archive: Archive, name: str = PREDICTIONS) -> dict[str, np.ndarray]:
    read = archive.predictions(archive.root / name, "")
    assert read is not None
    return read()


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


@given(evaluations=st.lists(ARRAYS, max_size=3))
@settings(max_examples=60, deadline=None)
def test_arrays_of_every_kind_come_back_bit_for_bit(
    evaluations: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    predictions = {f"cells/row/{seed}/linear-{seed}.npz": arrays for seed, arrays in enumerate(evaluations)}
    result = packed(tmp_path_factory.mktemp("archive"), {}, predictions)
    for name, arrays in predictions.items():
        read = arrays_of(result, name)
        assert list(read) == list(arrays)
        for key, array in arrays.items():
            assert same(read[key], array)


@given(data=st.data(), classes=st.integers(1, 300), n=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_predictions_that_say_only_who_was_right_come_back(
    data: st.DataObject, classes: int, n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    truth = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    right = data.draw(hnp.arrays(bool, n))
    arrays = {
        "s1@0.1/0": np.where(right, truth, WRONG).astype(np.int16),
        "target": truth,
        "s1": truth.astype(np.uint16),
    }
    read = arrays_of(packed(tmp_path_factory.mktemp("archive"), {}, {PREDICTIONS: arrays}))
    assert list(read) == list(arrays) and all(same(read[name], array) for name, array in arrays.items())


def test_what_records_share_is_stored_once_and_rights_as_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 100, 8_000)
    noise = {f"cells/r/{seed}/linear-{seed}.npz": rng.integers(0, 100, 8_000).astype(np.int16) for seed in range(10)}
    sizes = []
    for arrays in (
        lambda predicted: {"s1": predicted},
        lambda predicted: {"s1": predicted, "target": truth},
        lambda predicted: {"s1": np.where(predicted < 50, truth, WRONG).astype(np.int16), "target": truth},
    ):
        files = archived({}, {name: arrays(predicted) for name, predicted in noise.items()})
        sizes.append(len(files[PREDICTIONS_FILE]))
    one_target = 8_000 * np.log2(100) / 8
    assert one_target * 0.9 < sizes[1] - sizes[0] < one_target * 1.3
    assert sizes[2] < one_target * 1.3 + 10 * 8_000 / 8 * 1.1


def test_records_are_given_back_by_tar(tmp_path: Path) -> None:
    records = {RECORD: b'{"a": 1}\n', "cells/row/0-1a2b3c4d/pretrain.json": "é".encode()}
    packed(tmp_path, records, {})
    assert not (tmp_path / PREDICTIONS_FILE).exists()
    with tarfile.open(tmp_path / RECORDS_FILE, "r:xz") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in records} == records
    assert archived(records, {}) == archived(dict(reversed(records.items())), {})


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    truth = np.arange(20) % 3
    arrays = {"target": truth, "s1": np.zeros(20, np.int16), "drawn/map": np.linspace(0, 1, 9, dtype=np.float32)}
    packed(tmp_path, {RECORD: b'{"kind": "evaluation"}'}, {PREDICTIONS: arrays})
    for name in (RECORDS_FILE, PREDICTIONS_FILE):
        content = (tmp_path / name).read_bytes()
        for at in range(len(content)):
            for bit in range(8) if min(at, len(content) - 1 - at) < 40 else (at % 8,):
                changed = bytearray(content)
                changed[at] ^= 1 << bit
                (tmp_path / name).write_bytes(changed)
                with pytest.raises(DamagedRecord, match=name):
                    Archive(tmp_path).predictions(tmp_path / PREDICTIONS, "")
        for length in range(0, len(content), 7):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(DamagedRecord, match=name):
                Archive(tmp_path).predictions(tmp_path / PREDICTIONS, "")
        (tmp_path / name).write_bytes(content)
    assert same(arrays_of(Archive(tmp_path))["target"], truth)
    (tmp_path / PREDICTIONS_FILE).unlink()
    with pytest.raises(DamagedRecord, match="is missing"):
        arrays_of(Archive(tmp_path))
    packed(tmp_path / "other", {RECORD: b"{}"}, {PREDICTIONS: {"s1": truth}})
    (tmp_path / "other" / PREDICTIONS_FILE).rename(tmp_path / PREDICTIONS_FILE)
    with pytest.raises(DamagedRecord, match="belongs to another"):
        arrays_of(Archive(tmp_path))


def test_an_archive_of_a_later_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_bench.records.archive.FORMAT", 2)
    content = archived({RECORD: b"{}"}, {})
    monkeypatch.undo()
    write_bytes(tmp_path / RECORDS_FILE, content[RECORDS_FILE])
    with pytest.raises(RecordError, match="newer ssl_bench"):
        Archive(tmp_path)


def test_a_file_stands_before_the_archived_record_of_its_path(tmp_path: Path) -> None:
    packed(
        tmp_path, {RECORD: b"packed", "cells/row/1-ffffffff/pretrain.json": b"{}"}, {PREDICTIONS: {"s1": np.zeros(3)}}
    )
    path, cells = tmp_path / RECORD, tmp_path / "cells"
    assert (
        place_of(path).read(path) == b"packed" and place_of(path).predictions(path.with_suffix(".npz"), "") is not None
    )
    assert matching(cells, "*/*/*.json") == sorted([path, cells / "row" / "1-ffffffff" / "pretrain.json"])
    assert matching(cells / "row", "[01]-*") == [cells / "row" / "0-1a2b3c4d", cells / "row" / "1-ffffffff"]
    assert is_stored(cells / "row" / "1-ffffffff") and not is_stored(cells / "row" / "2")
    assert not is_stored(path.with_name("knn.json"))
    write_bytes(path, b"file")
    write_bytes(path.with_name("knn.json"), b"{}")
    assert place_of(path).read(path) == b"file"
    assert place_of(path).predictions(path.with_suffix(".npz"), "") is None  # of the record that was replaced
    assert matching(path.parent, "*.json") == [path.with_name("knn.json"), path]
    with pytest.raises(FileNotFoundError):
        place_of(path.with_name("no.json")).read(path.with_name("no.json"))


def test_a_run_inside_a_published_one_is_its_own(tmp_path: Path) -> None:
    packed(tmp_path, {"inner/cells/row/0/pretrain.json": b"{}"}, {})
    write_bytes(tmp_path / "inner" / "run.json", b"{}")
    assert not is_stored(tmp_path / "inner" / "cells" / "row" / "0" / "pretrain.json")
