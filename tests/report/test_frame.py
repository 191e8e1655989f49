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
FIXTURE = Path(__file__).parent / "fixtures" / "schema1"


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_frame_is_tidy(run_folder: MakeRun) -> None:
    results = load(run_folder())
    frame = results.frame
    assert list(frame.columns) == [
        "row", "task", "seed", "evaluator", "data", "stage", "labels", "draw", "split", "metric", "value", "n", "best", "variant",
        "low", "high",
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
    with pytest.raises(RecordError, match="newer ssl_bench" if damage == "newer" else path.name):
        load(folder)


def test_another_cells_record_is_refused(run_folder: MakeRun) -> None:
    folder = run_folder(seeds=(0,))
    (path,) = folder.glob("cells/simclr/0-*/pretrain.json")
    _edit(path, id="0123456789abcdef")
    with pytest.raises(RecordError, match="0123456789abcdef"):
        load(folder)


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


def test_damaged_predictions_are_named(run_folder: MakeRun) -> None:
    folder = run_folder()
    (path,) = folder.glob("cells/simclr/0-*/linear-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match=path.name):
        load(folder).table()


def test_predictions_must_agree_with_their_record(run_folder: MakeRun) -> None:
    folder = run_folder()
    (path,) = folder.glob("cells/simclr/0-*/knn-*.npz")
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["pooled@20"] = np.roll(changed["pooled@20"], 1)
    np.savez_compressed(path, allow_pickle=False, **changed)  # type: ignore[arg-type,unused-ignore]
    with pytest.raises(RecordError, match="pooled@20"):
        load(folder).table()


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
