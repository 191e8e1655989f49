"""A matrix end to end on embedded images: resumable, honest about test, one failure never costs the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_bench
from ssl_bench.console.live import headline
from ssl_bench.errors import Interrupted, Notice, SpecError
from ssl_bench.evaluators.knn import KNN
from ssl_bench.plan.cells import cell_of
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.score import validation_score
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.schema import EvaluationRecord, Failure, Pretraining, Run, read_record
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out

TINY: dict[str, Any] = {
    "name": "tiny", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}},
    "backbone": {"name": "resnet18", "width": 0.125, "stem_stride": 2},
    "pretrain": {"images": 96, "batch_size": 32, "monitor": 1},
    "tasks": ["rotation"], "baselines": ["random"], "evaluate": [{"knn": {"k": [5]}}],
}  # fmt: skip

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

FAILING = '''
import torch
from ssl_bench import PretextTask

class Failing(PretextTask):
    """Fails at its second step."""
    name = "failing"
    def views(self, batch):
        return batch.images
    def forward(self, views):
        loss = self.backbone(views).square().mean()
        return {"loss": loss / 0 if self.progress > 0 else loss}
'''


def matrix(**changes: Any) -> dict[str, Any]:
    return {**TINY, **changes}


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("cells/**/*.json")}


class Counting(Observer):
    def __init__(self) -> None:
        self.cells: list[str] = []
        self.steps = 0
        self.failures: list[Failure] = []

    def cell_failed(self, cell: Any, failure: Failure) -> None:
        self.failures.append(failure)

    def cell_started(self, cell: Any, number: int, total: int) -> None:
        self.cells.append(cell.address)

    def progressed(self, progress: Any) -> None:
        self.steps += 1


def compute(spec: dict[str, Any], out: Path, **settings: Any) -> Counting:
    watcher = Counting()
    carry_out(prepare(spec, out, **settings), watcher)
    return watcher


def test_a_second_run_finds_nothing_to_do_and_an_addition_computes_only_itself(tmp_path: Path) -> None:
    assert compute(matrix(), tmp_path).cells == ["rotation/0", "random/0"]
    before = files(tmp_path)
    again = compute(matrix(), tmp_path)
    assert not again.cells and files(tmp_path) == before
    more = compute(matrix(seeds=[0, 1]), tmp_path)
    assert more.cells == ["rotation/1", "random/1"]
    evaluator = compute(matrix(seeds=[0, 1], evaluate=[*TINY["evaluate"], "diagnostics"]), tmp_path)
    assert len(evaluator.cells) == 4 and evaluator.steps == 0  # asked again, not trained again
    assert before.items() <= files(tmp_path).items()


def test_what_cannot_change_a_number_does_not_enter_the_id(tmp_path: Path) -> None:
    def ids(spec: dict[str, Any], out: str = "a") -> list[str]:
        return [cell.id for cell in prepare(spec, tmp_path / out).cells()]

    base = ids(matrix())
    assert ids(matrix(name="other", tasks=[{"rotation": {"row": "turned"}}]), "b") == base
    assert ids(matrix(pretrain={**TINY["pretrain"], "checkpoint_seconds": 1, "monitor": 0})) == base
    assert ids(matrix(evaluate=["diagnostics"])) == base
    for changed in (
        matrix(pretrain={"images": 128, "batch_size": 32}), matrix(tasks=[{"rotation": {"learning_rate": 0.5}}]),
        matrix(precision="fp32"), matrix(seeds=[3]),
        matrix(backbone={"name": "resnet18", "width": 0.25, "stem_stride": 2}),
        matrix(data={**TINY["data"], "limit": {"train": 200, "test": 96}}),
    ):  # fmt: skip
        assert ids(changed)[0] != base[0]
    # a longer budget does not touch the untrained row
    assert ids(matrix(pretrain={"images": 128, "batch_size": 32}))[1] == base[1]


def test_test_is_opened_once_and_only_in_a_final_run(tmp_path: Path) -> None:
    def records() -> list[EvaluationRecord]:
        return [read_record(path, EvaluationRecord) for path in tmp_path.glob("cells/*/*/knn-*.json")]

    compute(matrix(), tmp_path, val=True)
    assert {m.split for record in records() for m in record.measurements} == {"validation"}
    assert not list(tmp_path.glob("cells/*/*/*.npz")) and not read_record(tmp_path / "run.json", Run).final
    validation = {r.row: [m.value for m in r.measurements] for r in records()}
    watcher = compute(matrix(), tmp_path)
    assert watcher.steps == 0 and all(r.final and r.test_opened == 1 for r in records())
    assert {r.row: [m.value for m in r.measurements if m.split == "validation"] for r in records()} == validation
    compute(matrix(), tmp_path)
    compute(matrix(), tmp_path, val=True)
    assert all(r.test_opened == 1 for r in records())


def test_another_version_of_a_protocol_measures_a_cell_again_and_counts_as_another_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(matrix(), tmp_path)
    before = {
        path: path.read_bytes() for path in tmp_path.glob("cells/*/*/*") if path.is_file() and path.name != ".lock"
    }
    monkeypatch.setattr(KNN, "version_on", classmethod(lambda cls, options, labelled: 7))
    watcher = compute(matrix(), tmp_path)
    records = [read_record(path, EvaluationRecord) for path in tmp_path.glob("cells/*/*/knn-*.json")]
    assert watcher.steps == 0 and {path: path.read_bytes() for path in before} == before, (
        "nothing is trained again, and what was known stays"
    )
    opened = {(r.row, r.protocol): r.test_opened for r in records}
    rows = {row for row, _ in opened}
    assert opened == {(row, f"knn-cosine v{version}"): times for row in rows for version, times in ((1, 1), (7, 2))}
    compute(matrix(), tmp_path)
    assert {
        (r.row, r.protocol): r.test_opened
        for r in (read_record(p, EvaluationRecord) for p in tmp_path.glob("cells/*/*/knn-*.json"))
    } == opened


def test_a_choice_is_made_on_validation_and_losers_never_see_test(tmp_path: Path) -> None:
    spec = matrix(tasks=[{"rotation": {"learning_rate": {"choose": [1e-3, 1e-5]}, "row": "r"}}], seeds=[0, 1])
    compute(spec, tmp_path)
    run = read_record(tmp_path / "run.json", Run)
    row = next(row for row in run.rows if row.row == "r")
    assert row.choices == 2 and set(row.chosen) == {"learning_rate"}
    assert len(run.losers) == 1 and sum(cell.row == "r" for cell in run.cells) == 2
    winner = next(cell for cell in run.cells if cell.row == "r" and cell.seed == 0)

    def found(folder: str) -> EvaluationRecord:
        return read_record(next((tmp_path / folder).glob("knn-*.json")), EvaluationRecord)

    lost, won = found(run.losers[0].folder), found(winner.folder)
    assert {m.split for m in lost.measurements} == {"validation"} and won.final
    assert lost.measurements[0].value <= next(m.value for m in won.measurements if m.split == "validation")
    assert not compute(spec, tmp_path).cells


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(FAILING)
    results = ssl_bench.run(
        matrix(tasks=["failing", "rotation"]), tmp_path / "out", plugins=(plugin,), skip_checks=True
    )
    assert len(results.failures) == 1
    table = results.table().terminal(120)
    assert "failed" in table and "loss not finite at step 2" in table and "rotation" in table
    assert len(list((tmp_path / "out").glob("cells/*/*/pretrain.json"))) == 2


def test_a_diagnosis_that_fails_does_not_cost_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, images: Any) -> dict[str, float]:
        raise MemoryError("no room to diagnose")

    monkeypatch.setattr(TASKS.get("rotation"), "diagnose", fail)
    assert compute(matrix(), tmp_path / "out").steps == 3
    assert not list(tmp_path.glob("out/cells/rotation/*/pretrain.json"))
    monkeypatch.undo()
    assert compute(matrix(), tmp_path / "out").steps == 0
    record, whole = tmp_path.glob("out/cells/rotation/*/pretrain.json"), tmp_path / "whole"
    compute(matrix(), whole)
    found, expected = (
        read_record(path, Pretraining) for path in (next(record), next(whole.glob("cells/rotation/*/pretrain.json")))
    )
    assert (found.steps, found.images_seen, found.curves["loss"]) == (3, 96, expected.curves["loss"])
    assert not list(tmp_path.glob("**/checkpoint.safetensors"))


def test_a_diagnosis_draws_alike_whatever_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS.get("random"), "diagnose", lambda self, images: {"draw": torch.rand(())})
    draws = []
    for number in range(2):
        torch.manual_seed(number)
        monkeypatch.setattr(
            "ssl_bench.runner.pretraining.reestimate_batchnorm", lambda *_, number=number: torch.rand(number + 1)
        )
        compute(matrix(tasks=[], evaluate=["diagnostics"]), tmp_path / str(number))
        draws.append(
            read_record(next(tmp_path.glob(f"{number}/cells/random/*/pretrain.json")), Pretraining).diagnose["draw"]
        )
    assert draws[0] == draws[1]


def test_every_evaluator_that_fails_says_why_and_a_later_run_makes_it_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = matrix(tasks=["rotation"], baselines=["random"], evaluate=["linear", {"knn": {"k": [5]}}, "diagnostics"])
    for name in ("linear", "knn"):

        def fail(self: Any, subject: Any, name: str = name) -> None:
            raise MemoryError(f"no room for {name}")

        monkeypatch.setattr(EVALUATORS.get(name), "evaluate", fail)
    results = ssl_bench.run(spec, tmp_path)
    assert {(f.row, f.where) for f in results.failures} == {
        (row, where) for row in ("rotation", "random") for where in ("linear", "knn")
    }
    assert (
        all(m.failure is not None and m.failure.where == m.what for m in results.missing) and len(results.missing) == 4
    )
    table = results.table().terminal(160)
    assert "no room for linear" in table and "no room for knn" in table
    monkeypatch.undo()
    assert ssl_bench.run(spec, tmp_path).failures == [] and not list(tmp_path.glob("cells/*/*/failed*"))


def test_every_mistake_that_needs_no_training_comes_before_it(tmp_path: Path) -> None:
    for changes, message in (
        ({"tasks": ["rotaton"]}, "did you mean 'rotation'"),
        ({"tasks": [{"rotation": {"pads": 3}}]}, "did you mean 'pad'"),
        ({"evaluate": ["lineer"]}, "did you mean 'linear'"), ({"evaluate": [{"knn": {"ks": [5]}}]}, "ks"),
        (
            {"pretrain": {"images": 96, "batch_size": 4096}},
            "batch_size must be at most 216, the number of pretraining images, got 4096",
        ),
        ({"data": {**TINY["data"], "fit": "pad"}}, "data.fit must be 'crop' or 'squash', got 'pad'"),
        ({"precision": "fp8"}, "fp32"),
        ({"tasks": [{"rotation": {"row": "a/b"}}]}, "without slashes"),
        ({"tasks": [{"rotation": {"learning_rate": float("inf")}}]}, "finite"),
        ({"data": "shaeps"}, "did you mean 'shapes'"),
        ({"tasks": [{"rotation": {"learning_rate": {"choose": [1]}}}]}, "at least two"),
        ({"evaluate": [{"finetune": {"labels": [0.001]}}]}, "class"),
        (
            {"tasks": [{"rotation": {"momentum": 0.5}}]},
            "momentum = 0.5 changes nothing: it is a setting of optimizer: sgd and lars",
        ),
        (
            {"tasks": [{"exemplar": {"form": "surrogate", "margin": 0.3}}]},
            "margin = 0.3 changes nothing: it is a setting of form: triplet",
        ),
        ({"tasks": [{"rotation": {"schedule": "steps"}}]}, "schedule: steps without milestones"),
    ):  # fmt: skip
        with pytest.raises(ssl_bench.SSLBenchError, match=message):
            prepare(matrix(**changes), tmp_path)
    with pytest.raises(SpecError) as caught:
        prepare(matrix(tasks=["rotaton", {"vae": {"betta": 1}}]), tmp_path)
    assert len(str(caught.value).splitlines()) == 2  # both at once
    with pytest.raises(SpecError, match="no such row"):
        prepare(matrix(), tmp_path, only=("vae",))
    assert not list(tmp_path.iterdir())


def test_only_computes_some_rows_and_the_table_keeps_all(tmp_path: Path) -> None:
    assert compute(matrix(), tmp_path, only=("random",)).cells == ["random/0"]
    assert [row.row for row in read_record(tmp_path / "run.json", Run).rows] == ["rotation", "random"]
    assert compute(matrix(), tmp_path).cells == ["rotation/0"]


def test_labels_stay_away_from_tasks_that_do_not_declare_them(tmp_path: Path) -> None:
    from ssl_bench.plan.context import RunContext, pretraining_batches

    run_plan = prepare(matrix(baselines=["supervised"]), tmp_path)
    context = RunContext(
        data=run_plan.data, backbone=run_plan.matrix.backbone, device=run_plan.device, precision="fp32"
    )
    batches = {cell.row.name: pretraining_batches(cell, context) for cell in run_plan.cells()}
    assert batches["rotation"].batch(0).labels is None and batches["rotation"].store.set.labels is None
    assert batches["supervised"].batch(0).labels is not None
    pretrained = {tuple(image.tobytes() for image in run_plan.data.pretrain.pixels[run_plan.data.pretrain.rows[:5]])}
    judged = run_plan.data.evaluate[0]
    seen = set(run_plan.data.pretrain.rows.tolist())
    assert not seen & set(judged.validation.rows.tolist()) and pretrained  # no row pretrains on validation


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ssl_bench", *arguments]


def _yaml(tmp_path: Path, **changes: Any) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(matrix(**changes)))  # JSON is YAML
    return str(file)


def test_command_line_end_to_end(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(_command(*arguments), cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)

    file = _yaml(tmp_path)
    first = call("run", file)
    assert first.returncode == 0, first.stderr
    assert "2 to compute" in first.stdout and "rotation" in first.stdout and "records" in first.stdout
    assert {"table.md", "table.csv", "table.tex", "table.html", "figures", "run.json"} <= {
        p.name for p in (tmp_path / "runs/tiny").iterdir()
    }
    second = call("run", file)
    assert second.returncode == 0 and "nothing to do: all 2 cells are in runs/tiny" in second.stdout
    assert "rotation/0" in call("show", "tiny/rotation/0").stdout
    assert "done" in call("status", "tiny").stdout
    wrong = call("run", "quik")
    assert wrong.returncode == 2 and "did you mean 'quick'" in wrong.stderr and "Traceback" not in wrong.stderr
    assert call("frobnicate").returncode == 2


def test_sigterm_saves_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    file = _yaml(
        tmp_path, pretrain={"images": 9600, "batch_size": 32, "monitor": 0}, baselines=[], evaluate=["diagnostics"]
    )
    running = subprocess.Popen(
        _command("run", file), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/tiny/cells/*/*/.lock")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 75 and "stopped at step" in errors, errors
    assert list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))
    spec = json.loads(Path(file).read_text())
    watcher = compute(spec, tmp_path / "runs/tiny")
    assert 0 < watcher.steps < 300
    assert not list(tmp_path.glob("runs/tiny/cells/*/*/checkpoint.safetensors"))


def test_two_processes_divide_the_cells(tmp_path: Path) -> None:
    file = _yaml(tmp_path, seeds=[0, 1], pretrain={"images": 960, "batch_size": 32, "monitor": 0})
    both = [
        subprocess.Popen(
            _command("run", file),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    finished = sum(out.count("validation: knn") for out, _ in outputs)
    assert finished == 4  # every cell once
    assert len(list(tmp_path.glob("runs/tiny/cells/*/*/pretrain.json"))) == 4


def test_interrupted_between_cells_says_how_far_it_came(tmp_path: Path) -> None:
    class Stopping(Counting):
        def cell_finished(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="1 of 2 cells are finished"):
        carry_out(prepare(matrix(), tmp_path), Stopping())
    assert compute(matrix(), tmp_path).cells == ["random/0"]


def test_lost_weights_are_trained_again_only_where_they_are_needed_and_it_is_asked_for(tmp_path: Path) -> None:
    compute(matrix(), tmp_path)
    for path in tmp_path.glob("cells/*/*/*.safetensors"):
        path.unlink()
    assert not compute(matrix(), tmp_path).cells
    before = {p: p.read_bytes() for p in tmp_path.glob("cells/*/*/*.json")}
    more = matrix(evaluate=["diagnostics"])
    refused = compute(more, tmp_path)
    assert refused.steps == 0 and all(
        "task.safetensors, are gone" in failure.message and "--recompute" in failure.message
        for failure in refused.failures
    )
    assert len(refused.failures) == 2 and before == {p: p.read_bytes() for p in before}
    with pytest.warns(Notice, match=r"rotation/0: its weights, .* are gone.*; trained again"):
        again = compute(more, tmp_path, recompute=True)
    assert again.steps == 3 and not again.failures
    metrics = {p: json.loads(text)["metrics"] for p, text in before.items() if p.name == "pretrain.json"}
    assert metrics == {p: read_record(p, Pretraining).metrics for p in metrics}
    # the same weights: what was measured on them stands
    assert not compute(more, tmp_path).cells and not compute(matrix(), tmp_path).cells


def test_smoke_takes_two_steps_of_every_cell_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_bench.runner.smoke import smoke

    monkeypatch.chdir(tmp_path)
    watcher = Counting()
    spec = matrix(
        tasks=[{"rotation": {"learning_rate": {"choose": [1e-3, 1e-2]}}}],
        seeds=[0],
        evaluate=["knn", {"finetune": {"labels": [0.1]}}],
    )
    results = smoke(spec, observer=watcher)
    assert not len(results.failures) and watcher.steps >= 4
    assert not list(tmp_path.iterdir())


def test_pretrain_and_evaluate_from_python(tmp_path: Path) -> None:
    data = TINY["data"]
    trained = ssl_bench.pretrain("rotation", data, images=64, backbone=TINY["backbone"], options={"batch_size": 32})
    assert trained.record.steps == 2 and trained.backbone.num_features == 64
    ssl_bench.save_backbone(trained.backbone, tmp_path / "b.safetensors")
    found = ssl_bench.evaluate(tmp_path / "b.safetensors", data, [{"knn": {"k": [5]}}])
    assert set(found["split"]) == {"validation"}
    assert set(ssl_bench.evaluate(trained.backbone, data, ["knn"], test=True)["split"]) == {"validation", "test"}


def test_images_without_labels_are_pretrained_on_alone(tmp_path: Path) -> None:
    for number in range(40):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    data = {"pretrain": f"folder:{tmp_path}", "evaluate": []}
    trained = ssl_bench.pretrain("rotation", data, images=32, backbone=TINY["backbone"], options={"batch_size": 16})
    assert trained.record.steps == 2 and "knn" not in trained.record.curves and trained.record.diagnose == {}
    assert (
        "mse"
        in ssl_bench.pretrain(
            "autoencoder", data, images=32, backbone=TINY["backbone"], options={"batch_size": 16}
        ).record.diagnose
    )
    with pytest.raises(SpecError, match="data.evaluate is empty"):
        prepare(matrix(data=data), tmp_path / "out")


OWN_SETS = """
from types import SimpleNamespace
from ssl_bench import Evaluation, Evaluator, EvaluatorOptions, Measurement
from ssl_bench.errors import DataError

class Boxes(list):
    classes = ("a", "b")
    @property
    def fingerprint(self):
        return str(sum(self))

class BoxOptions(EvaluatorOptions):
    source: str = "boxes"  #: which set

class Box(Evaluator):
    name, protocol, Options, accuracy = "box", "boxes", BoxOptions, False
    @classmethod
    def own_sets(cls, options, places):
        if options.source == "nowhere":
            raise DataError("nowhere: no such set")
        return [SimpleNamespace(name=options.source, train=Boxes([1, 2]), validation=Boxes([3]), test=Boxes([4, 5, 6]))]
    def evaluate(self, subject):
        found = [Measurement("map50", "validation", len(subject.validation) / 8, 1)]
        if subject.test is not None:
            found.append(Measurement("map50", "test", sum(subject.test) / 32, 3))
        return Evaluation(found)
"""


def test_an_evaluator_may_bring_sets_of_its_own(tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(OWN_SETS)
    spec = matrix(
        tasks=["rotation"], baselines=["random"], evaluate=[{"knn": {"k": [5]}}, {"box": {"source": "cells"}}]
    )
    results = ssl_bench.run(spec, tmp_path / "out", plugins=(plugin,))
    assert not results.failures and not results.missing
    (section,) = results.table().sections
    (column,) = [column for column in section.columns if column.data]
    assert (column.group, column.title, column.unit) == ("box, cells", "map50", "%")
    assert [line.cells[column.key].value for line in section.lines] == [15 / 32] * 2
    text = " ".join(results.table().terminal(160, legend=True).split())
    assert "box, cells" in text and "46.9" in text and "cells: 2 train, 1 validation, 3 test, 2 classes" in text
    csv = results.table().csv()
    assert any(line.startswith("cells,") and ",map50," in line for line in csv.splitlines())
    assert set(results.frame[results.frame["evaluator"] == "box"]["data"]) == {"cells"}
    found = ssl_bench.evaluate(
        next((tmp_path / "out").glob("cells/rotation/*/backbone.safetensors")), TINY["data"], ["box"]
    )
    assert found["data"].tolist() == ["boxes"] and found["value"].tolist() == [1 / 8]
    with pytest.raises(ssl_bench.SSLBenchError, match="nowhere: no such set"):
        prepare(matrix(evaluate=["knn", {"box": {"source": "nowhere"}}]), tmp_path / "other", plugins=(plugin,))


def test_cells_are_addressed_by_row_and_seed(tmp_path: Path) -> None:
    run_plan = prepare(matrix(tasks=[{"rotation": {"row": ".. evil <b>"}}]), tmp_path)
    cell = cell_of(
        run_plan.matrix,
        run_plan.data,
        run_plan.rows[0],
        run_plan.rows[0].candidates[0],
        0,
        tmp_path,
        run_plan.evaluators,
    )
    assert cell.folder.resolve().is_relative_to(tmp_path.resolve()) and ".." not in cell.folder.parts


def test_a_choice_whose_candidates_all_fail_shows_as_failed(tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(FAILING.replace('"failing"', '"failing_too"'))
    spec = matrix(tasks=[{"failing_too": {"learning_rate": {"choose": [1e-3, 1e-2]}}}], baselines=["random"])
    results = ssl_bench.run(spec, tmp_path / "out", plugins=(plugin,))
    assert len(results.failures) == 1 and "failed" in results.table().terminal(120)
    with pytest.raises(SpecError, match="no evaluator that could choose"):
        prepare(
            matrix(tasks=[{"rotation": {"learning_rate": {"choose": [1e-3, 1e-2]}}}], evaluate=["diagnostics"]),
            tmp_path / "other",
        )


def test_two_rows_of_equal_settings_are_both_there_after_one_run(tmp_path: Path) -> None:
    spec = matrix(tasks=["rotation", {"rotation": {"row": "again"}}], baselines=[])
    assert compute(spec, tmp_path).cells == ["rotation/0"], "they share one cell"
    assert not compute(spec, tmp_path).cells


def test_settings_apply_to_matrices_from_python_too(tmp_path: Path) -> None:
    assert prepare(matrix(), tmp_path, sets=("seeds=[0, 1]",)).matrix.seeds == (0, 1)


def test_the_number_that_decides_and_is_shown_is_that_of_the_most_labels(tmp_path: Path) -> None:
    """Fine-tuning reports its shares in the order asked for,
    and the row without pretraining a longer run beside each."""
    asked = [
        {"finetune": {"labels": [0.5, 1.0], "draws": 2, "steps": 2, "learning_rates": 0.05}},
        {"knn": {"k": [5, 20]}},
    ]
    spec = matrix(
        tasks=[],
        baselines=["random"],
        evaluate=[*asked, {"detection": {"source": "shapes", "size": 48, "limit": 20, "images": 4}}],
    )
    results = ssl_bench.run(spec, tmp_path)
    records = {found.evaluator: found.record for found in results.evaluations}

    def of(evaluator: str, **wanted: Any) -> list[float]:
        measured = [m for m in records[evaluator].measurements if m.split == "validation"]
        return [m.value for m in measured if all(getattr(m, key) == value for key, value in wanted.items())]

    (tuned,), (nearest,), (found,) = (
        of("finetune", labels=1.0, row=""),
        of("knn", metric="top1@5"),
        of("detection", metric="map_voc07"),
    )
    assert len(of("finetune", labels=0.5, row="")) == 2 and validation_score(records["finetune"]) == tuned
    assert (
        headline(records["finetune"]) == f"finetune {100 * tuned:.1f}"
        and headline(records["knn"]) == f"knn {100 * nearest:.1f}"
    )
    assert headline(records["detection"]).startswith("detection shapes") and headline(records["detection"]).endswith(
        f" {100 * found:.1f}"
    )
