"""Which cells a matrix is made of: rows that share one, choices that stand, sets under names of their own, images that
nobody pretrains on."""

from __future__ import annotations

import itertools
import shlex
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.main import get_command
from typer.testing import CliRunner

import ssl_bench
from ssl_bench.console import commands as cli
from ssl_bench.data.boxes import shapes as shapes_source
from ssl_bench.data.sources import shapes
from ssl_bench.errors import DataError, SpecError
from ssl_bench.plan.prepare import _check_only, prepare
from ssl_bench.plan.run_record import write_run
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.schema import EvaluationRecord, Pretraining, Run, read_record
from ssl_bench.runner import scheduler as runner
from ssl_bench.runner.smoke import smoke
from ssl_bench.spec.shipped import as_matrix
from tests.runner.test_run import OWN_SETS, Counting, compute, matrix
from voc_trees import write_tree

MOODY = """
from pathlib import Path
from ssl_bench import PretextTask, TaskOptions

class Options(TaskOptions):
    mood: str = "good"  #: one that is bad fails while the file is there
    file: str = ""

class Moody(PretextTask):
    \"\"\"Fails in a bad mood.\"\"\"
    name = "moody"
    Options = Options
    def views(self, batch):
        if self.options.mood == "bad" and Path(self.options.file).exists():
            raise RuntimeError("in a bad mood")
        return batch.images
    def forward(self, views):
        return {"loss": self.backbone(views).square().mean()}
"""

SAME_NAME = """
import numpy as np
from ssl_bench import Evaluation, Evaluator, Measurement
from ssl_bench.data import ImageSet, Labelled

def noise(count):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return ImageSet(pixels, np.arange(count), np.arange(count) % 2, ("a", "b"), "shapes", f"noise {count}")

class Peek(Evaluator):
    name, protocol, accuracy = "peek", "peek", False
    @classmethod
    def own_sets(cls, options, places):
        return [Labelled("shapes", noise(8), noise(6), noise(4))]
    def evaluate(self, subject):
        found = [Measurement("seen", "validation", float(len(subject.features.get("validation", "pooled"))), 6)]
        if subject.test is not None:
            found.append(Measurement("seen", "test", float(len(subject.features.get("test", "pooled"))), 4))
        return Evaluation(found)
"""


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TASKS, EVALUATORS):
        monkeypatch.setattr(registry, "_added", {})


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_source, "SHAPES_IMAGES", {"train": 60, "test": 24})


def written(folder: Path, text: str, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


# ---- sets under names of their own
# -------------------------------------------------------------------------------------------------


def test_an_evaluators_own_set_never_has_a_labelled_sets_name(few_shapes: None, tmp_path: Path) -> None:
    asked = [
        {"detection": {"source": "shapes", "size": 48}},
        "knn",
        {"detection": {"source": "shapes", "size": 48, "freeze": True}},
        {"detection": {"source": "shapes", "size": 40}},
    ]
    for number, order in enumerate(itertools.permutations(asked)):
        run_plan = prepare(matrix(evaluate=list(order)), tmp_path / str(number))
        names = {
            (one.evaluator.name, getattr(one.options, "size", None)): judged.name
            for one in run_plan.evaluators
            for judged in one.sets
        }
        assert names[("knn", None)] == "shapes"
        assert {names[("detection", 48)], names[("detection", 40)]} == {"shapes (detection)", "shapes (detection 2)"}
        frozen = {
            judged.name for one in run_plan.evaluators if getattr(one.options, "freeze", False) for judged in one.sets
        }
        assert frozen == {names[("detection", 48)]}, "the same images, the same name"


def test_every_column_stands_once_whatever_the_order(tmp_path: Path) -> None:
    plugin = written(tmp_path, SAME_NAME, "same_name.py")
    for number, order in enumerate((["peek", "knn"], ["knn", "peek"])):
        results = ssl_bench.run(matrix(tasks=[], evaluate=order), tmp_path / str(number), plugins=(plugin,))
        assert not results.missing and [entry["name"] for entry in results.own_sets()] == ["shapes (peek)"]
        (section,) = results.table().sections
        groups = [column.group for column in section.columns if column.evaluator in ("peek", "knn")]
        assert len(groups) == len(set(groups)) == 2 and "peek, shapes (peek)" in groups
    backbone = next((tmp_path / "0").glob("cells/random/*/backbone.safetensors"))
    for order in (["peek", "knn"], ["knn", "peek"]):
        found = ssl_bench.evaluate(backbone, matrix()["data"], order)
        (seen,) = found[found["metric"] == "seen"]["value"]
        assert seen == 6, "the features of its own images"
        assert set(found["data"]) == {"shapes", "shapes (peek)"}


def test_a_set_that_cannot_be_named_anew_is_refused(tmp_path: Path) -> None:
    plugin = written(tmp_path, OWN_SETS.replace('"box"', '"fixed"'), "fixed.py")
    with pytest.raises(
        SpecError,
        match="evaluator 'fixed' brings a set called 'shapes', as another one is called; give it a name of its own",
    ):
        prepare(matrix(evaluate=["knn", {"fixed": {"source": "shapes"}}]), tmp_path / "out", plugins=(plugin,))
    run_plan = prepare(matrix(evaluate=["knn", {"fixed": {"source": "cells"}}]), tmp_path / "out", plugins=(plugin,))
    assert any(
        "cells (fixed): whether its validation and test images are pretrained on cannot be told" in note
        for note in run_plan.data.notes
    )


# ---- images that evaluators judge on
# -----------------------------------------------------------------------------------------------


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    things = [("cat", 3, 4, 10, 12, 0), ("dog", 1, 2, 5, 6, 0)]
    counts = {"train": 70, "val": 10, "test": 20}
    return write_tree(
        tmp_path / "VOC2007",
        {split: {f"{split}{at}": things for at in range(count)} for split, count in counts.items()},
    )


def test_what_an_evaluator_judges_on_is_not_pretrained_on(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    evaluate = ["knn", {"detection": {"source": f"voc:{boxes}", "size": 32}}]
    shutil.copytree(boxes / "JPEGImages", tmp_path / "copied" / "elsewhere")
    for folder in (boxes / "JPEGImages", tmp_path / "copied"):
        data = {"pretrain": f"folder:{folder}", "evaluate": "shapes", "size": 32, "limit": {"train": 240, "test": 96}}
        for _ in range(2):  # found, then remembered
            run_plan = prepare(matrix(data=data, evaluate=evaluate), tmp_path / "out")
            assert len(run_plan.data.pretrain) == 70
            note = "30 images are also validation or test images of VOC2007 (detection) and are not pretrained on"
            assert any(note in one for one in run_plan.data.notes)
        judged = run_plan.evaluators[1].sets[0]
        data["limit"] = {"test": 96, "train": 60}
        few = prepare(matrix(data=data, evaluate=evaluate), tmp_path / "out").data.pretrain
        assert few.fingerprint != run_plan.data.pretrain.fingerprint and 30 <= len(few) < 60 and len(judged.test) == 20
    (tmp_path / "tested").mkdir()
    for file in (boxes / "JPEGImages").glob("test*"):
        shutil.copy(file, tmp_path / "tested")
    data["pretrain"] = f"folder:{tmp_path / 'tested'}"
    with pytest.raises(DataError, match="every image to pretrain on is a validation or test image of VOC2007"):
        prepare(matrix(data=data, evaluate=evaluate), tmp_path / "out")


def test_scenes_that_detection_chooses_on_are_told_and_those_it_tests_on_are_others(
    few_shapes: None, tmp_path: Path
) -> None:
    run_plan = prepare(matrix(evaluate=["knn", {"detection": {"source": "shapes", "size": 32}}]), tmp_path / "out")
    note = (
        "shapes (detection): its validation images show scenes of shapes that are pretrained on; its test images do not"
    )
    assert note in run_plan.data.notes
    assert "shapes (detection)" not in " ".join(prepare(matrix(), tmp_path / "out").data.notes)
    test = run_plan.evaluators[1].sets[0].test
    tested = {test.image(at).tobytes() for at in range(len(test))}
    assert tested == {image.tobytes() for image in shapes.render("test", 32, 24).images}
    pretrained = run_plan.data.pretrain.pixels
    assert len(tested) == 24 and not tested & {image.tobytes() for image in pretrained}


def test_a_missing_folder_of_boxes_shows_before_anything_is_packed(
    tmp_path: Path, class_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = matrix(
        data={"source": f"folder:{class_tree}", "size": 32}, evaluate=["knn", {"detection": {"source": "voc:/nowhere"}}]
    )
    with pytest.raises(DataError, match="voc:/nowhere does not exist"):
        prepare(spec, tmp_path / "out")
    spec["data"]["source"], spec["evaluate"][1] = "folder:/no/photos", {"detection": {"source": "shapes", "size": 32}}
    with pytest.raises(DataError, match="folder:/no/photos does not exist"):
        prepare(spec, tmp_path / "out")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def class_tree(tmp_path: Path) -> Path:
    from voc_trees import noise

    for split, count in (("train", 60), ("test", 10)):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for at in range(count):
                noise(36, 36, hash((split, name, at)) % 2**32).save(tmp_path / "photos" / split / name / f"{at}.png")
    return tmp_path / "photos"


# ---- choices
# ----------------------------------------------------------------------------------------------------------------------


def moody(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], Path, Path]:
    """A row with a choice between a candidate that works and one that fails while a file is there."""
    plugin, bad = written(tmp_path, MOODY, "moody.py"), written(tmp_path, "", "bad")
    row = {"moody": {"mood": {"choose": ["bad", "good"]}, "file": str(bad), "row": "m"}}
    return matrix(tasks=[row], seeds=[0, 1], **changes), plugin, bad


def chosen(out: Path) -> tuple[dict[str, Any], list[int]]:
    run = read_record(out / "run.json", Run)
    return next(row.chosen for row in run.rows if row.row == "m"), [cell.seed for cell in run.cells if cell.row == "m"]


def opened(out: Path) -> set[str]:
    """The moods whose test was opened."""
    found = set()
    for path in out.glob("cells/m/*/knn-*.json"):
        if read_record(path, EvaluationRecord).final:
            found.add(read_record(path.parent / "pretrain.json", Pretraining).spec["options"]["mood"])
    return found


def test_a_decision_stands_once_test_was_opened(tmp_path: Path) -> None:
    spec, plugin, bad = moody(tmp_path)
    out = tmp_path / "out"
    compute(spec, out, plugins=(plugin,))
    assert chosen(out) == ({"mood": "good"}, [0, 1]) and opened(out) == {"good"}
    assert compute(spec, out, plugins=(plugin,), only=("random",)).cells == []
    assert chosen(out) == ({"mood": "good"}, [0, 1]), "a row that is not asked for stays in the table"
    assert compute(spec, out, plugins=(plugin,)).cells == [], "what failed is not tried again"
    assert not prepare(spec, out, plugins=(plugin,)).todo()
    bad.unlink()
    assert compute(spec, out, plugins=(plugin,)).cells == [] and opened(out) == {"good"}
    assert chosen(out) == ({"mood": "good"}, [0, 1])


def test_without_test_a_candidate_that_failed_is_tried_again(tmp_path: Path) -> None:
    spec, plugin, bad = moody(tmp_path)
    out = tmp_path / "out"
    compute(spec, out, plugins=(plugin,), val=True)
    assert chosen(out) == ({"mood": "good"}, [0, 1]) and not opened(out)
    compute(spec, out, plugins=(plugin,), val=True, only=("random",))
    assert chosen(out) == ({"mood": "good"}, [0, 1]), "the best of the others stands for the row"
    assert compute(spec, out, plugins=(plugin,), val=True).cells == ["m/0"]
    bad.unlink()
    again = compute(spec, out, plugins=(plugin,), val=True)
    assert again.cells[0] == "m/0" and again.steps > 0
    assert len(read_record(out / "run.json", Run).losers) == 1
    compute(spec, out, plugins=(plugin,))
    assert len(opened(out)) == 1


def test_nobody_decides_while_another_one_tries_a_candidate_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_POLL_SECONDS", 0.05)
    spec, plugin, _ = moody(tmp_path)
    let_go: list[float] = []

    class Watching(Counting):
        decided = 0.0

        def cell_failed(self, cell: Any, failure: Any) -> None:
            def hold() -> None:
                with FileLock(cell.folder / ".lock"):
                    time.sleep(1.0)
                    let_go.append(time.monotonic())

            threading.Thread(target=hold).start()

        def chose(self, *_: Any) -> None:
            self.decided = time.monotonic()

    watching = Watching()
    runner.carry_out(prepare(spec, tmp_path / "out", plugins=(plugin,)), watching)
    assert let_go and watching.decided > let_go[0]


# ---- cells
# ----------------------------------------------------------------------------------------------------------------------


def test_a_row_under_another_name_is_not_trained_again(tmp_path: Path) -> None:
    compute(matrix(), tmp_path)
    renamed = matrix(tasks=[{"rotation": {"row": "turned"}}])
    assert compute(renamed, tmp_path).cells == []
    results = ssl_bench.run(renamed, tmp_path)
    assert not results.missing and {cell.folder.split("/")[1] for cell in results.run.cells} == {"rotation", "random"}
    assert "turned" in results.table().terminal(120)
    assert compute(matrix(tasks=[{"rotation": {"row": "turned"}}], seeds=[1]), tmp_path).cells == [
        "turned/1",
        "random/1",
    ]


def test_rows_of_equal_settings_share_a_cell(tmp_path: Path) -> None:
    spec = matrix(tasks=["rotation", {"rotation": {"row": "again"}}], baselines=[])
    assert compute(spec, tmp_path, only=("again",)).cells == ["again/0"]
    results = ssl_bench.run(spec, tmp_path)
    assert not results.missing and len(list(tmp_path.glob("cells/*/*/pretrain.json"))) == 1
    (section,) = results.table().sections
    values = [[cell.value for cell in line.cells.values()] for line in section.lines]
    assert [line.row for line in section.lines] == ["rotation", "again"] and np.array_equal(
        values[0], values[1], equal_nan=True
    )


def test_a_cell_that_was_begun_is_gone_on_with_under_another_name(tmp_path: Path) -> None:
    (cell, *_) = prepare(matrix(), tmp_path).cells()
    cell.folder.mkdir(parents=True)
    renamed = matrix(tasks=[{"rotation": {"row": "turned"}}])
    assert prepare(renamed, tmp_path).cells()[0].folder == cell.folder
    (tmp_path / "cells" / "other" / cell.folder.name).mkdir(parents=True)
    compute(matrix(), tmp_path)
    (cell.folder.parent / cell.folder.name).rename(tmp_path / "cells" / "kept")
    shutil.copytree(tmp_path / "cells" / "kept", tmp_path / "cells" / "moved" / cell.folder.name)
    assert prepare(renamed, tmp_path).cells()[0].folder.parent.name == "moved", "finished before begun"


# ---- settings that mean nothing
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"baselines": [{"random": {"learning_rate": 0.1}}]},
            "task 'random': 'learning_rate' is a setting of training, and random is not trained; .*row",
        ),
        (
            {"baselines": [{"pca": {"batch_size": 8, "row": "p"}}]},
            "task 'p': 'batch_size' is a setting of training.*its settings are: components, .*row",
        ),
        (
            {"baselines": [{"pixels": {"init": "timm:resnet18"}}]},
            "task 'pixels': 'init' is a setting of training, and pixels is not trained",
        ),
        ({"baselines": [{"random": {"warmup": {"choose": [0.1, 0.2]}}}]}, "'warmup' is a setting of training"),
        (
            {"weights": [{"source": "file:x.safetensors", "row": "w", "init": "timm:resnet18"}]},
            "task 'w': 'init' is a setting of training, and weights",
        ),
        ({"baselines": [{"pca": {"component": 8}}]}, "unknown option 'component'; did you mean 'components'"),
    ],
)
def test_settings_of_training_are_refused_where_nothing_is_trained(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        prepare(matrix(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_smoke_run_leaves_the_untrained_as_they_are(tmp_path: Path) -> None:
    assert not smoke(matrix(baselines=["random", "pca"], seeds=[0])).failures


# ---- the command line
# --------------------------------------------------------------------------------------------------------------


def test_the_examples_of_run_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli.app, ["new-task", "my_task"])
    assert said.exit_code == 0
    command = get_command(cli.app).commands["run"]  # type: ignore[attr-defined]
    hint = said.output.partition("then:")[2].strip()
    examples = [
        line.strip() for line in (cli.run.__doc__ or "").splitlines() if line.strip().startswith("ssl-bench run")
    ]
    assert len(examples) == 3 and hint.startswith("ssl-bench run")
    for example in (*examples, hint):
        given = command.make_context("run", shlex.split(example)[2:]).params
        for plugin in given["plugin"] or ():
            load_plugin(plugin)
        found = as_matrix(given["matrix"], tuple(given["sets"] or ()))
        _check_only(found, tuple(given["only"] or ()))
        assert all(row.task in TASKS for row in found.tasks)
        if given["plugin"]:
            assert [row.row for row in found.tasks] == ["my_task"]
            assert given["out"] is not None and given["out"].name == "my_task", (
                "a table of another matrix must not be replaced"
            )


def test_only_knows_rows_of_weights() -> None:
    spec = as_matrix(matrix(weights=[{"source": "file:/x/w.safetensors", "row": "mine"}]))
    _check_only(spec, ("mine", "weights", "rotation"))
    with pytest.raises(SpecError, match="did you mean 'mine'"):
        _check_only(spec, ("mini",))


def test_status_counts_a_final_cell_only_with_its_test(tmp_path: Path) -> None:
    compute(matrix(), tmp_path, val=True)

    def status() -> str:
        return " ".join(CliRunner().invoke(cli.app, ["status", str(tmp_path)]).output.split())

    assert "1/1 done" in status() and "under way" not in status()
    write_run(prepare(matrix(), tmp_path))  # as an interrupted final run leaves it
    assert "0/1 begun" in status() and "1/1" not in status()
    compute(matrix(), tmp_path)
    assert "1/1 done" in status() and "0/1" not in status()


def test_a_members_option_may_be_a_choice(tmp_path: Path) -> None:
    task = {
        "rotation+exemplar": {
            "images": {"choose": ["each", "split"]},
            "exemplar": {"crops": {"choose": [2, 3]}, "margin": 0.4},
        }
    }
    (row,) = [row for row in prepare(matrix(tasks=[task], baselines=[]), tmp_path).rows if "+" in row.name]
    assert [(one.options.images, one.options.exemplar.crops) for one in row.candidates] == [
        ("each", 2),
        ("each", 3),
        ("split", 2),
        ("split", 3),
    ]
    assert (
        dict(row.candidates[1].chosen) == {"images": "each", "exemplar.crops": 3}
        and row.candidates[1].options.exemplar.margin == 0.4
    )
    with pytest.raises(SpecError, match=r"exemplar.crops: choose needs a list of at least two values, not \[2\]"):
        prepare(matrix(tasks=[{"rotation+exemplar": {"exemplar": {"crops": {"choose": [2]}}}}]), tmp_path)
