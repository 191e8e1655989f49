"""A published run: small files that give the same table and figures, and from which a run goes on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ssl_bench.console.printing import print_cell
from ssl_bench.console.status import print_status
from ssl_bench.errors import DamagedRecord, RecordError
from ssl_bench.evaluators.detection.evaluator import PUBLISHED_SCORE, Detection
from ssl_bench.plan.prepare import prepare
from ssl_bench.records.archive import PREDICTIONS_FILE, RECORDS_FILE
from ssl_bench.records.manifest import read_manifest
from ssl_bench.records.predictions import read_predictions
from ssl_bench.report import load, publish, write_report
from ssl_bench.report.files import table_texts
from ssl_bench.report.publishing import published_predictions
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out

MakeRun = Callable[..., Path]
SCHEMA1 = Path(__file__).parent / "fixtures" / "schema1"
ROWS = {
    "rotation": ("rotation", "pretext", (0.5, 0.6, 0.7)),
    "vae": ("vae", "pretext", (0.45, 0.5, 0.52)),
    "random": ("random", "baseline", (0.4, 0.4, 0.3)),
}
TINY: dict[str, Any] = {
    "name": "tiny", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}},
    "backbone": {"name": "resnet10t", "width": 0.125, "stem_stride": 2},
    "pretrain": {"images": 32, "batch_size": 32, "monitor": 0},
    "tasks": ["rotation"], "baselines": ["random"], "evaluate": [{"knn": {"k": [5]}}],
}  # fmt: skip


def made(run_folder: MakeRun) -> Path:
    """A run with shares of the labels, boxes, a failure, and a record that is not there."""
    return run_folder(
        ROWS,
        n=300,
        probe_shares=(0.05, 1.0),
        boxes={"objects": {"rotation": 0.5, "random": 0.4}},
        fails={("vae", 1, "finetune"): "loss not finite"},
        skip=lambda row, seed, what: (row, seed, what) == ("random", 2, "linear"),
    )


def report_of(folder: Path) -> dict[str, bytes]:
    """Name to content of everything that a report writes; an SVG holds all that its figure shows."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in write_report(folder, svg=True)}


@pytest.mark.parametrize("of", ["made", "schema 1"])
def test_what_is_published_gives_the_same_table_and_figures(run_folder: MakeRun, tmp_path: Path, of: str) -> None:
    run = made(run_folder) if of == "made" else Path(shutil.copytree(SCHEMA1, tmp_path / "toy"))
    before, results = report_of(run), load(run)
    target = tmp_path / "published" / "toy"
    target.mkdir(parents=True)
    (target / "README.md").write_text("what it shows")
    files = publish(run, target)
    assert {RECORDS_FILE, PREDICTIONS_FILE, "run.json", "table.csv"} <= {path.name for path in files}
    assert not any(path.suffix == ".svg" for path in files) and not (target / "cells").exists()
    assert (target / "README.md").read_text() == "what it shows"
    packed = load(target)
    for name in ("frame", "earlier_frame", "pretraining", "gains"):
        pd.testing.assert_frame_equal(getattr(packed, name), getattr(results, name), check_exact=True)
    assert packed.missing == results.missing and packed.failures == results.failures
    assert packed.unchecked == results.unchecked and packed.opened_elsewhere == results.opened_elsewhere
    assert report_of(target) == before
    for tell in (print_status, lambda console, folder: print_cell(console, folder, "random", "0")):
        assert told(tell, target) == told(tell, run)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """``publish`` packs and checks alone: drawing takes most of the time."""
    monkeypatch.setattr("ssl_bench.report.publishing.write_report", lambda *_, **__: [])


def told(tell: Callable[[Console, Path], None], folder: Path) -> str:
    with redirect_stdout(io.StringIO()) as text:
        tell(Console(file=text, width=200), folder)
    return text.getvalue().replace(str(folder.parent), "")


@pytest.mark.usefixtures("no_report")
def test_of_a_share_of_the_labels_is_kept_who_was_right(run_folder: MakeRun, tmp_path: Path) -> None:
    run = made(run_folder)
    publish(run, tmp_path / "toy")
    shares = 0
    for before, after in zip(load(run).evaluations, load(tmp_path / "toy").evaluations, strict=True):
        whole, kept = read_predictions(before.path, before.record), read_predictions(after.path, after.record)
        assert list(whole) == list(kept)
        for name, array in whole.items():
            few = name.startswith(("0.1/", "0.05/")) or "@0.05/" in name
            shares += few
            right = array == whole["target"]
            assert kept[name].dtype == array.dtype and (kept[name][right] == array[right]).all()
            assert (kept[name][~right] == (-1 if few else array[~right])).all()
    assert shares > 50
    assert (tmp_path / "toy" / PREDICTIONS_FILE).stat().st_size < sum(p.stat().st_size for p in run.rglob("*.npz")) / 8


def test_unlikely_boxes_are_not_published() -> None:
    scores = np.array([0.9, 0.01, 0.5, PUBLISHED_SCORE], np.float32)
    arrays = {
        "image": np.array([0, 0, 1, 2], np.int32), "boxes": np.arange(16.0).reshape(4, 4), "scores": scores,
        "labels": np.array([1, 2, 3, 4], np.int16), "drawn/map": np.arange(7.0), "shown/0/boxes": np.zeros((4, 4)),
    }  # fmt: skip
    kept = Detection.published(arrays)
    assert kept["labels"].tolist() == [1, 3, 4] and kept["boxes"][:, 0].tolist() == [0, 8, 12]
    assert kept["image"].tolist() == [0, 1, 2] and kept["scores"].tolist() == scores[[0, 2, 3]].tolist()
    assert kept["drawn/map"] is arrays["drawn/map"] and kept["shown/0/boxes"] is arrays["shown/0/boxes"]


def test_what_an_unknown_evaluator_stored_is_published_whole(run_folder: MakeRun) -> None:
    record = load(run_folder(ROWS)).evaluations[0].record.model_copy(update={"evaluator": "not_installed"})
    arrays = {"embedding": np.arange(6.0)}
    assert published_predictions(record, arrays) == arrays


@pytest.mark.usefixtures("no_report")
def test_what_cannot_be_published_is_refused(run_folder: MakeRun, tmp_path: Path) -> None:
    run = made(run_folder)
    with pytest.raises(RecordError, match="is the run itself"):
        publish(run, run)
    with pytest.raises(RecordError, match="holds records of a run that is not published"):
        publish(run, run_folder(ROWS))
    with pytest.raises(RecordError, match=r"holds no run\.json"):
        publish(tmp_path / "nothing", tmp_path / "toy")
    victim = next(run.glob("cells/random/*/knn-*.json"))
    victim.write_bytes(victim.read_bytes().replace(b'"created"', b'"creation"'))
    with pytest.raises(DamagedRecord, match="a damaged run is not published"):
        publish(run, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


@pytest.mark.usefixtures("no_report")
def test_a_damaged_archive_costs_no_wrong_number(run_folder: MakeRun, tmp_path: Path) -> None:
    publish(made(run_folder), tmp_path / "toy")
    for name in (PREDICTIONS_FILE, RECORDS_FILE):
        path = tmp_path / "toy" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        if name == PREDICTIONS_FILE:  # comparisons are lost, as with a damaged file of one record
            assert all(PREDICTIONS_FILE in problem for problem in load(tmp_path / "toy").doubtful)
            assert load(tmp_path / "toy").doubtful
        else:
            with pytest.raises(DamagedRecord, match=RECORDS_FILE):
                load(tmp_path / "toy")


class Watching(Observer):
    def __init__(self) -> None:
        self.finished: list[str] = []
        self.failures: list[str] = []

    def cell_finished(self, cell: Any, *_: Any) -> None:
        self.finished.append(cell.address)

    def cell_failed(self, cell: Any, failure: Any) -> None:
        self.failures.append(f"{cell.address}: {failure.message}")


def compute(out: Path, spec: dict[str, Any] = TINY, **settings: Any) -> Watching:
    watcher = Watching()
    carry_out(prepare(spec, out, **settings), watcher)
    return watcher


@pytest.mark.usefixtures("no_report")
def test_a_run_goes_on_from_what_was_published(tmp_path: Path) -> None:
    assert compute(tmp_path / "run").finished == ["rotation/0", "random/0"]
    published = tmp_path / "published"
    publish(tmp_path / "run", published)
    watcher = compute(published)
    assert not watcher.finished and not watcher.failures and not (published / "cells").exists()
    # a further seed is trained; nothing of the published one is looked at again
    watcher = compute(published, {**TINY, "seeds": [0, 1]})
    assert watcher.finished == ["rotation/1", "random/1"] and not watcher.failures
    assert len(list(published.glob("cells/*/1-*/*.json"))) == 4 and not list(published.glob("cells/*/0-*"))
    results = load(published)
    assert not results.missing and set(results.frame["seed"]) == {0, 1}
    # a further evaluation needs weights, which are not published
    more = {**TINY, "evaluate": [*TINY["evaluate"], "diagnostics"]}
    watcher = compute(published, more)
    assert len(watcher.failures) == 2 and all("weights" in told and "are gone" in told for told in watcher.failures)
    before = load(published).frame
    watcher = compute(published, more, recompute=True)
    assert (
        watcher.finished == ["rotation/0", "random/0"] and not load(published).missing and not load(published).failures
    )
    after = load(published).frame
    knn = after[after["evaluator"] == "knn"].reset_index(drop=True)
    pd.testing.assert_frame_equal(knn, before[before["evaluator"] == "knn"].reset_index(drop=True))
    # and both forms together are published as one
    publish(published, tmp_path / "again")
    pd.testing.assert_frame_equal(load(tmp_path / "again").frame, after)
    (tmp_path / "again" / "README.md").write_text("what it shows")
    content = (tmp_path / "again" / RECORDS_FILE).read_bytes()
    publish(published, tmp_path / "again")  # in its place
    assert (tmp_path / "again" / RECORDS_FILE).read_bytes() == content and (tmp_path / "again" / "README.md").exists()


@pytest.mark.usefixtures("no_report")
def test_a_failure_is_over_once_its_cell_was_gone_on_with(run_folder: MakeRun, tmp_path: Path) -> None:
    run = made(run_folder)
    target = tmp_path / "toy"
    publish(run, target)
    (failed,) = [missing for missing in load(target).missing if missing.row == "vae"]
    assert failed.failure is not None and failed.failure.message == "loss not finite"
    cell = next(cell for cell in load(target).run.cells if (cell.row, cell.seed) == ("vae", 1))
    trained = json.loads(next((run / cell.folder).glob("pretrain.json")).read_bytes())
    (target / cell.folder).mkdir(parents=True)
    (target / cell.folder / "pretrain.json").write_text(json.dumps(trained))
    (waiting,) = [missing for missing in load(target).missing if missing.row == "vae"]
    assert waiting.failure is None and not load(target).failures


def test_committed_results_are_small_and_published() -> None:
    results = Path(__file__).parents[2] / "results"
    derived = {
        *results.rglob("per_class.csv"),
        *results.rglob("*.svg"),
        *results.rglob("detections-*.jpg"),
    }  # in .gitignore
    files = [path for path in results.rglob("*") if path.is_file() and path not in derived]
    weights = {path for path in files if path.suffix == ".safetensors"}
    assert sum(path.stat().st_size for path in files if path not in weights) <= 8e6  # records, tables and figures
    assert sum(path.stat().st_size for path in weights) <= 64e6  # one seed of a run or two
    listed = {run / name for run in results.iterdir() if run.is_dir() for name in read_manifest(run)}
    assert weights == listed
    assert {path.parent.name for path in results.glob("*/run.json")} == {
        path.parent.name for path in results.glob(f"*/{RECORDS_FILE}")
    }
    assert not list(results.glob("*/cells/*/*/*.json"))


def test_a_publication_that_fails_leaves_the_earlier_one_whole(
    run_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, target = run_folder(seeds=(0, 1)), tmp_path / "published"
    publish(run, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    expected = table_texts(load(run))
    answers = iter([expected, {**expected, "table.csv": "another"}])
    monkeypatch.setattr("ssl_bench.report.publishing.table_texts", lambda results: next(answers))
    with pytest.raises(RecordError, match=r"table.csv does not come out .*: not published"):
        publish(run, target)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
