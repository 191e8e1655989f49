"""Settings of training have a place of their own in a row, so that a task's options may be called what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssl_bench.errors import SpecError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.rows import Row, split_options
from ssl_bench.plugins.registry import TASKS
from ssl_bench.runner.smoke import _small_batch
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import load_matrix
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.rows import TaskSpec
from ssl_bench.tasks.base import PretextTask, TaskOptions


class Momentum(PretextTask):
    """A momentum network has a momentum."""

    name = "slow_teacher"

    class Options(TaskOptions):
        """As its author would call them."""

        momentum: float = 0.996  #: of the teacher
        batch_size: int = 8  #: of its queue
        depth: int = 2  #: layers

    def views(self, batch: Any) -> Any:
        return batch.images

    def forward(self, views: Any) -> Any:
        return {"loss": self.backbone(views).mean()}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(TASKS, "_added", {Momentum.name: Momentum})
    yield


def matrix(*tasks: Any) -> dict[str, Any]:
    return {
        "name": "settings",
        "data": {"source": "shapes", "size": 32, "limit": {"train": 100, "test": 100}},
        "backbone": {"name": "resnet10t", "width": 0.125},
        "pretrain": {"images": 64, "batch_size": 16},
        "tasks": list(tasks),
        "baselines": [],
        "evaluate": ["linear"],
    }


def rows(*tasks: Any, out: Path) -> list[Row]:
    return prepare(matrix(*tasks), out).rows


def settings(task: Any, out: Path) -> tuple[Any, Recipe]:
    ((row,),) = (rows(task, out=out),)
    return row.candidates[0].options, row.candidates[0].recipe


SGD = {"optimizer": "sgd"}


@pytest.mark.parametrize(
    ("written", "task_momentum", "training_momentum"),
    [
        ({"slow_teacher": {"recipe": {**SGD, "momentum": 0.5}}}, 0.996, 0.5),
        ({"slow_teacher": {"options": {"momentum": 0.99}, "recipe": {**SGD}}}, 0.99, 0.9),
        (
            {
                "slow_teacher": {
                    "options": {"momentum": 0.99},
                    "recipe": {"momentum": 0.5},
                    "optimizer": "sgd",
                    "depth": 3,
                }
            },
            0.99,
            0.5,
        ),
        ({"task": "slow_teacher", "recipe": {**SGD, "momentum": 0.5}}, 0.996, 0.5),
        ({"task": "slow_teacher", "row": "mine", "options": {"depth": 3}, "recipe": SGD}, 0.996, 0.9),
    ],
    ids=["recipe", "options", "both", "long", "long with options"],
)
def test_both_have_their_place(tmp_path: Path, written: Any, task_momentum: float, training_momentum: float) -> None:
    options, recipe = settings(written, tmp_path)
    assert (options.momentum, recipe.momentum, recipe.batch_size) == (task_momentum, training_momentum, 16)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"slow_teacher": {"momentum": 0.5}},
            (
                "'momentum' is an option of slow_teacher and a setting of training; "
                r"write options: \{momentum: ...\} .* recipe: \{momentum: ...\}"
            ),
        ),
        (
            {"slow_teacher": {"batch_size": {"choose": [8, 16]}}},
            "'batch_size' is an option of slow_teacher and a setting of training",
        ),
        (
            {"rotation": {"learning_rate": 1e-3, "recipe": {"learning_rate": 1e-2}}},
            "'learning_rate' is given twice, in the row and below 'recipe'; keep one",
        ),
        (
            {"slow_teacher": {"depth": 3, "options": {"depth": 2}}},
            "'depth' is given twice, in the row and below 'options'",
        ),
        (
            {"rotation": {"recipe": {"learningrate": 1e-3}}},
            "recipe: unknown setting 'learningrate'; did you mean 'learning_rate'",
        ),
        ({"rotation": {"recipe": 3}}, r"recipe = 3; settings are written as \{setting: value\}"),
        ({"rotation": {"options": {"learning_rate": 3}}}, "options: unknown option 'learning_rate' of rotation"),
        (
            {"random": {"recipe": {"learning_rate": 1e-3}}},
            "'recipe' is a setting of training, and random is not trained",
        ),
        ({"rotation": {"recipe": {"learning_rate": -1}}}, "learning_rate = -1"),
        (
            {"rotation+slow_teacher": {"slow_teacher": {"recipe": {"momentum": 0.5}}}},
            "unknown key 'slow_teacher.recipe'",
        ),
    ],
    ids=[
        "ambiguous", "choice", "twice", "option twice", "unknown", "scalar", "not an option", "untrained", "bounds",
        "member",
    ],
)  # fmt: skip
def test_what_could_be_either_or_is_neither_is_refused(tmp_path: Path, written: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        rows(written, out=tmp_path)


def test_a_recipe_given_beside_and_among_the_options_is_refused() -> None:
    with pytest.raises(SpecError, match="recipe is given twice"):
        parse(TaskSpec, {"task": "rotation", "options": {"recipe": {}}, "recipe": {}}, "row")


def test_the_short_form_means_the_same_cell(tmp_path: Path) -> None:
    written = [
        {"rotation": {"learning_rate": 2e-3, "row": "a"}},
        {"rotation": {"recipe": {"learning_rate": 2e-3}, "row": "b"}},
    ]
    run_plan = prepare(matrix(*written), tmp_path)
    assert (
        len({cell.id for cell in run_plan.cells()}) == 1 and run_plan.cells()[0].spec["recipe"]["learning_rate"] == 2e-3
    )
    assert set(run_plan.cells()[0].spec["options"]) == set(TASKS.get("rotation").Options.model_fields)


def test_choices_work_inside(tmp_path: Path) -> None:
    written = {
        "recipe": {"optimizer": "sgd", "momentum": {"choose": [0.5, 0.9]}},
        "options": {"momentum": {"choose": [0.9, 0.99]}},
    }
    (row,) = rows({"slow_teacher": written}, out=tmp_path)
    assert [(one.recipe.momentum, one.options.momentum) for one in row.candidates] == [
        (0.5, 0.9),
        (0.5, 0.99),
        (0.9, 0.9),
        (0.9, 0.99),
    ]
    assert row.candidates[1].chosen == {"recipe.momentum": 0.5, "options.momentum": 0.99}
    (row,) = rows(
        {"rotation": {"recipe": {"choose": [{"optimizer": "sgd", "learning_rate": 0.1}, {"weight_decay": 0.1}]}}},
        out=tmp_path,
    )
    assert [(one.recipe.optimizer, one.recipe.weight_decay) for one in row.candidates] == [
        ("sgd", 0.01),
        ("adamw", 0.1),
    ]


def test_combinations_and_settings_from_the_command_line(tmp_path: Path) -> None:
    options, recipe = settings(
        {"rotation+slow_teacher": {"slow_teacher": {"momentum": 0.9}, "recipe": {"optimizer": "sgd", "momentum": 0.5}}},
        tmp_path,
    )
    assert options.slow_teacher.momentum == 0.9 and recipe.momentum == 0.5
    file = tmp_path / "matrix.yaml"
    file.write_text("name: a\ndata: shapes\npretrain: {images: 64}\nevaluate: [knn]\n")
    found = load_matrix(file, ("tasks=[{slow_teacher: {recipe: {momentum: 0.5}}}]",))
    assert found.tasks[0].options == {"recipe": {"momentum": 0.5}}
    assert parse(Matrix, found.model_dump(mode="json"), "read back") == found


def test_a_value_is_tried_once(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"task 'rotation': pad: choose lists 2 twice; each setting is tried once, so leave one out"
    ):
        rows({"rotation": {"pad": {"choose": [2, 4, 2]}}}, out=tmp_path)
    sizes = TaskSpec(
        task="rotation", row="a", options={"recipe": {"choose": [{"batch_size": 64}, {"batch_size": 128}]}}
    )
    assert _small_batch(sizes).options == {"recipe": {"batch_size": 32}}, "of which a smoke run makes one"


@pytest.mark.parametrize(
    "written", [{}, {"recipe": {"batch_size": 64}}, {"recipe": {"choose": [{"learning_rate": 0.1}, {"batch_size": 4}]}}]
)
def test_smoke_makes_batches_small_whoever_has_the_name(written: dict[str, Any]) -> None:
    spec = _small_batch(TaskSpec(task="slow_teacher", row="a", options={**written, "options": {"batch_size": 4}}))
    options, recipe = split_options(
        Momentum,
        spec.options if "choose" not in spec.options["recipe"] else {"recipe": spec.options["recipe"]["choose"][1]},
        "a",
    )
    assert recipe["batch_size"] == 32 and options.get("batch_size", 4) == 4
    assert _small_batch(TaskSpec(task="rotation", row="a", options={"batch_size": 4})).options == {
        "recipe": {"batch_size": 32}
    }


def test_names_of_a_row_s_own_keys_stay_reserved() -> None:
    with pytest.raises(SpecError, match="option 'recipe' of .*Options has the name of a key that every row may have"):

        class Options(TaskOptions):
            """Of no task."""

            recipe: int = 3
