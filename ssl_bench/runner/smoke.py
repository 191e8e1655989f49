"""A trial of a whole matrix in its first minute: two steps of every cell, of which nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_bench.errors import Interrupted
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.rows import schedule_images
from ssl_bench.plugins.loading import load_plugins
from ssl_bench.plugins.registry import TASKS
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import results_of
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.rows import TaskSpec
from ssl_bench.spec.shipped import as_matrix
from ssl_bench.tasks.base import LONG_RUN_STEPS

BATCH = 32  # images a step


def smoke(
    matrix: Matrix | Mapping[str, Any] | str | Path,
    *,
    sets: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    device: str | None = None,
    data_root: str | Path | None = None,
    plugins: tuple[str | Path, ...] = (),
    skip_checks: bool = False,
    observer: Observer | None = None,
) -> Any:
    """Two steps of every cell on a few images, in a folder that is thrown away: a mistake in the last cell shows in the
    first minute.

    The matrix is checked first against the labels and counts of the whole data, of which nothing is packed for it.
    Arguments as for ``run``.
    """
    observer = observer or Observer()
    load_plugins(plugins)
    spec = as_matrix(matrix, sets)
    settings: dict[str, Any] = {
        "only": only,
        "device": device,
        "data_root": data_root,
        "plugins": plugins,
        "skip_checks": skip_checks,
        "progress": observer.packing,
    }
    whole = prepare(spec, pack=False, **settings)
    cut = smoke_matrix(
        spec, len(whole.data.pretrain), max((len(e.train.classes) for e in whole.data.evaluate), default=10)
    )
    with tempfile.TemporaryDirectory(prefix="ssl-bench-smoke-") as folder:
        try:
            return results_of(prepare(cut, folder, smoke=True, **settings), observer)
        except Interrupted as error:
            raise Interrupted("stopped in a trial of two steps a cell, of which nothing is kept") from error


def smoke_matrix(spec: Matrix, num_images: int, num_classes: int) -> Matrix:
    """A matrix with two steps for each row, on a few images of its data, by the recipes of the whole run.

    Parameters
    ----------
    num_images : pretraining images of the whole data.
    num_classes : of the labelled set that has most.
    """
    long = schedule_images(spec, num_images) // 256 >= LONG_RUN_STEPS
    preset = spec.pretrain.preset if spec.pretrain.preset != "auto" else "paper" if long else "short"
    few = spec.data.limit.model_copy(
        update={"train": max(20 * num_classes, 4 * BATCH), "test": max(4 * num_classes, 64)}
    )
    cut = spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"limit": few}),
            "pretrain": spec.pretrain.model_copy(
                # the recipe of the whole run
                update={
                    "epochs": None,
                    "passes": None,
                    "images": 2 * BATCH,
                    "schedule_epochs": None,
                    "monitor": 1,
                    "batch_size": None,
                    "preset": preset,
                }
            ),
            "tasks": tuple(_small_batch(row) for row in spec.tasks),
            "baselines": tuple(_small_batch(row) for row in spec.baselines),
        }
    )
    if "baselines" not in spec.model_fields_set:
        cut.model_fields_set.discard("baselines")  # defaults still, which may be absent where they cannot be had
    return cut


def _small_batch(row: TaskSpec) -> TaskSpec:
    if not TASKS.get(row.task).role.trains:
        return row
    options = {key: value for key, value in row.options.items() if key not in ("batch_size", "recipe")}
    if "batch_size" in row.options and "batch_size" in TASKS.get(row.task).Options.model_fields:
        options["batch_size"] = row.options["batch_size"]  # not training's, or told so where options are read
    recipe = row.options.get("recipe") or {}
    if isinstance(recipe, Mapping):  # else refused where options are read
        whole = (
            set(recipe) == {"choose"}
            and isinstance(recipe["choose"], (list, tuple))
            and all(isinstance(candidate, Mapping) for candidate in recipe["choose"])
        )
        small = [{**candidate, "batch_size": BATCH} for candidate in (recipe["choose"] if whole else [recipe])]
        # where batch sizes were the choice, a single one is left
        different = [candidate for at, candidate in enumerate(small) if candidate not in small[:at]]
        recipe = {"choose": different} if len(different) > 1 else different[0]
    return row.model_copy(update={"options": {**options, "recipe": recipe}})
