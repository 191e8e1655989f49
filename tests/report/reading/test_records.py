"""Reading a results folder: tidy numbers, what is missing, and clear errors for what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_bench.errors import RecordError
from ssl_bench.report import load

MakeRun = Callable[..., Path]
ROWS = {
    "rotation": ("rotation", "pretext", (0.55, 0.80)), "simclr": ("simclr", "pretext", (0.55, 0.80)),
    "random": ("random", "baseline", (0.5, 0.4)),
}  # fmt: skip
FIXTURE = Path(__file__).parents[1] / "fixtures" / "schema1"


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_frame_is_tidy(run_folder: MakeRun) -> None:
    results = load(run_folder())
    frame = results.frame
    assert list(frame.columns) == [
        "row", "task", "seed", "evaluator", "data", "stage", "labels", "draw", "split", "metric", "value", "n", "best",
        "variant",
        "low", "high", "protocol",
    ]  # fmt: skip
    assert set(frame["seed"]) == {0, 1, 2} and set(frame["split"]) == {"validation", "test"}
    assert not frame.duplicated([c for c in frame.columns if c not in ("value", "n", "best")]).any()
    best = frame[(frame["row"] == "rotation") & (frame["metric"] == "top1") & frame["best"].astype(bool)]
    assert set(best["stage"]) == {"s3"}
    assert set(frame[frame["variant"] == "longer"]["row"]) == {"random"}


def test_pretraining_has_a_line_a_backbone(run_folder: MakeRun) -> None:
    results = load(run_folder(seeds=(0, 4)))
    cost = results.pretraining
    assert len(cost) == 12 and set(cost["seed"]) == {0, 4}
    assert cost.set_index(["row", "seed"]).loc[("rotation", 4), "seconds"] == 120.0


def test_a_renamed_row_keeps_its_records(run_folder: MakeRun) -> None:
    folder = run_folder()
    text = (folder / "run.json").read_text().replace('"row":"simclr"', '"row":"SimCLR, ours"')
    (folder / "run.json").write_text(text.replace('"row": "simclr"', '"row": "SimCLR, ours"'))
    assert "SimCLR, ours" in set(load(folder).frame["row"])


def test_what_is_not_there_is_listed_with_its_reason(run_folder: MakeRun) -> None:
    results = load(
        run_folder(
            skip=lambda row, seed, what: (row, seed, what) == ("simclr", 1, "knn"),
            fails={("rotation", 2, "pretraining"): "loss not finite"},
        )
    )
    found = {(m.row, m.seed, m.what): m.failure.message if m.failure else None for m in results.missing}
    assert found == {
        ("simclr", 1, "knn"): None,
        **{("rotation", 2, what): "loss not finite" for what in ("pretraining", "linear", "knn", "finetune")},
    }
    assert results.expected == 6 * 3 * 4 - 3 and len(results.failures) == 1


def test_a_failure_that_was_made_good_is_no_failure(run_folder: MakeRun) -> None:
    folder = run_folder(fails={("rotation", 2, "knn"): "out of memory"})
    whole = run_folder()
    (cell,) = folder.glob("cells/rotation/2-*")
    (record,) = whole.glob("cells/rotation/2-*/knn-*.json")
    (cell / record.name).write_bytes(record.read_bytes())
    assert load(folder).failures == [] and load(folder).missing == []


def test_test_numbers_count_only_when_the_run_is_final(run_folder: MakeRun) -> None:
    results = load(run_folder(final=False))
    assert set(results.frame["split"]) == {"validation"} and results.split == "validation" and results.missing == []
    folder = run_folder(final=False)
    _edit(folder / "run.json", final=True)
    assert len(load(folder).missing) == 6 * 3 * 3 - 3  # every evaluation is still to be tested


@pytest.mark.parametrize("name", ["run.json", "cells/simclr/0-*/pretrain.json", "cells/simclr/0-*/knn-*.json"])
@pytest.mark.parametrize("damage", ["newer", "cut", "kind", "extra"])
def test_a_record_that_cannot_be_read_is_named(run_folder: MakeRun, name: str, damage: str) -> None:
    folder = run_folder(seeds=(0,))
    (path,) = folder.glob(name)
    if damage == "newer":
        _edit(path, schema_version=99)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "kind":
        path.write_text('{"schema_version": 1, "kind": "failure"}')
    else:
        _edit(path, surprise=1)
    told = "newer ssl_bench" if damage == "newer" else path.name
    if name == "run.json":
        with pytest.raises(RecordError, match=told):
            load(folder)
        return
    results = load(folder)
    (message,) = results.damaged
    assert told in message and str(path) in message
    assert [(m.row, m.what, m.damage) for m in results.missing] == [
        ("simclr", "pretraining" if "pretrain" in name else "knn", message)
    ]


def test_another_cells_record_is_left_out_and_named(run_folder: MakeRun) -> None:
    folder = run_folder(seeds=(0,))
    (path,) = folder.glob("cells/simclr/0-*/pretrain.json")
    _edit(path, id="0123456789abcdef")
    results = load(folder)
    assert "0123456789abcdef" in results.damaged[0] and ("simclr", 0) not in results.pretrainings


def test_a_cell_outside_of_the_folder_is_refused(run_folder: MakeRun) -> None:
    folder = run_folder(seeds=(0,))
    data = json.loads((folder / "run.json").read_text())
    data["cells"][0]["folder"] = "../../elsewhere"
    (folder / "run.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match="elsewhere"):
        load(folder)


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run.json"):
        load(tmp_path)


def test_damaged_predictions_are_named_and_their_seed_is_not_compared(run_folder: MakeRun) -> None:
    folder = run_folder(seeds=(0, 1, 2, 3))
    whole = load(folder).table()
    (path,) = folder.glob("cells/simclr/0-*/linear-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match=path.name):
        results = load(folder)
        results.predictions(next(found for found in results.evaluations if found.path == path.with_suffix(".json")))
    table = load(folder).table()
    (warning,) = table.warnings
    assert warning.startswith("predictions left out of comparisons: ") and str(path) in warning
    for column, seeds in (("linear top1 best", 3), ("knn top1@20", 4)):
        compared = [c for c in table.sections[0].comparisons if c.column == column and "simclr" in (c.first, c.second)]
        assert compared and {c.seeds for c in compared} == {seeds} and {c.images for c in compared} == {500}
    for before, after in zip(whole.sections[0].lines, table.sections[0].lines, strict=True):
        assert {key: cell.values for key, cell in before.cells.items()} == {
            key: cell.values for key, cell in after.cells.items()
        }


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_seed_without_its_predictions_takes_no_part_in_comparisons(run_folder: MakeRun, damage: str) -> None:
    """With two seeds left there is no comparison, and no row is called the best over one that was left out."""
    folder = run_folder(ROWS)
    (path,) = folder.glob("cells/simclr/0-*/knn-*.npz")
    if damage == "missing":
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 3] ^= 0x55
        path.write_bytes(raw)
    table = load(folder).table()
    assert len(table.warnings) == 1 and path.name in table.warnings[0]
    assert not [c for c in table.sections[0].comparisons if c.column == "knn top1@20"]
    assert not any(line.cells["knn top1@20"].best for line in table.sections[0].lines)
    assert [c for c in table.sections[0].comparisons if c.column == "linear top1 best"]


def test_numbers_that_their_own_predictions_contradict_are_not_shown(run_folder: MakeRun) -> None:
    folder = run_folder(ROWS)
    (path,) = folder.glob("cells/simclr/0-*/knn-*.npz")
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["pooled@20"] = np.roll(changed["pooled@20"], 1)
    np.savez_compressed(path, allow_pickle=False, **changed)  # type: ignore[arg-type,unused-ignore]
    results = load(folder)
    (message,) = results.damaged
    assert str(path) in message and "pooled@20" in message and [m.damage for m in results.missing] == [message]
    (line,) = [line for line in results.table().sections[0].lines if line.row == "simclr"]
    assert sorted(line.cells["knn top1@20"].values) == [1, 2] and sorted(line.cells["linear top1 best"].values) == [
        0,
        1,
        2,
    ]
    assert line.failures == ["record of knn damaged, 1/3: see above"]


def test_records_of_schema_1_stay_readable() -> None:
    """Written when schema 1 was new and never rewritten: a reader that loses an old field breaks here."""
    results = load(FIXTURE)
    frame = results.frame
    test = frame[(frame["split"] == "test") & (frame["row"] == "simclr") & (frame["evaluator"] == "linear")]
    assert len(frame) == 40 and len(results.pretraining) == 2
    assert test[test["best"].astype(bool)]["stage"].tolist() == ["s4"]
    assert results.failures[0].message == "an old failure"
    assert set(results.predictions(results.evaluations[0])) >= {"target", "s1", "s4", "pooled"}
    assert "simclr" in results.table().markdown()
