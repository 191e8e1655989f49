"""``ssl-bench preview``: pictures of what a task sees, is asked and answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_bench.console.run_folder import run_folder
from ssl_bench.data import load
from ssl_bench.data.batches import Batches
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import SpecError, WriteError, did_you_mean, quoted
from ssl_bench.plan.cells import Cell
from ssl_bench.plan.context import RunContext, build_task
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.stored import read_pretraining
from ssl_bench.plugins.loading import load_plugins
from ssl_bench.plugins.registry import TASKS
from ssl_bench.records.schema import Run, read_record, safe_name
from ssl_bench.report.picture_grid import picture_grid
from ssl_bench.runner.pretraining import load_task
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.rows import EvaluatorSpec
from ssl_bench.spec.shipped import as_matrix, shipped
from ssl_bench.system.disk import reason, write_bytes
from ssl_bench.tasks.base import PretextTask
from ssl_bench.training.seeding import seed_everything

IMAGES = 8
SHAPES_SIDE = 64  #: pixels of the embedded shapes that a task is shown on


@dataclass(frozen=True)
class _Shown:
    """A task as it is drawn."""

    cell: Cell
    task: PretextTask
    state: str  #: of its network, in words


def draw_preview(
    what: str,
    *,
    data: str | None = None,
    out: Path | None = None,
    plugins: Sequence[Path] = (),
    sets: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[Path]:
    """Draw a task, the rows of a matrix, or a trained row of a run; returns the files, one a row.

    Parameters
    ----------
    what : a task, a matrix, or RUN/ROW/SEED.
    data : a source whose images are shown; None: the embedded shapes for a task, else the matrix's own.
    out : a PNG; where several rows are drawn, each has its name added. None: preview-ROW.png here.
    plugins, sets, data_root : as for ``run``.

    Raises
    ------
    SpecError : no such task, matrix or run; a row that is not trained yet; a task without preview; ``out`` that is no
        PNG.
    """
    if out is not None and (out.is_dir() or out.suffix.lower() != ".png"):
        raise SpecError(f"--out {out}: name a file that ends in .png")
    load_plugins(plugins)
    with tempfile.TemporaryDirectory() as scratch:

        def plan(matrix: Matrix, folder: str | Path = scratch) -> RunPlan:
            return prepare(matrix, folder, data_root=data_root, judged=False, smoke=True)

        images: ImageSet | None = None
        if _is_address(what):
            run, row, seed = what.rstrip("/").rsplit("/", 2)
            folder = run_folder(Path(run))
            run_plan = plan(_one_evaluator(as_matrix(read_record(folder / "run.json", Run).matrix)), folder)
            context = _context(run_plan)
            shown = [_trained(run_plan, context, folder, row, seed)]
            if data is not None:
                spec = parse(DataSpec, {"source": data, "size": run_plan.data.size}, "--data")
                images = load(spec, data_root=data_root).pretrain
        else:
            run_plan = plan(_matrix_of(what, data, tuple(sets)))
            context = _context(run_plan)
            rows = [row for row in run_plan.rows if has_preview(row.task)]
            if not rows:
                raise SpecError(_without_preview(run_plan.rows[0].task))
            cells = [run_plan.cell(row, row.candidates[0], run_plan.matrix.seeds[0]) for row in rows]
            untrained = [(cell, build_task(cell, context).eval()) for cell in cells]
            shown = [_Shown(cell, task, "untrained" if task.role.trains else "") for cell, task in untrained]
        files = []
        for row_shown in shown:
            name = safe_name(row_shown.cell.row.name)
            file = out or Path(f"preview-{name}.png")
            files.append(file.with_stem(f"{file.stem}-{name}") if out and len(shown) > 1 else file)
            try:
                write_bytes(files[-1], _preview_png(row_shown, images or context.data.pretrain))
            except OSError as error:
                raise WriteError(f"{files[-1]} cannot be written: {reason(error)}; name another with --out") from error
        return files


def has_preview(task: type[PretextTask]) -> bool:
    """Whether a task draws pictures of its own; a baseline that asks nothing shows the images."""
    return not task.role.trains or task.preview is not PretextTask.preview


def _without_preview(task: type[PretextTask]) -> str:
    return f"task {task.name!r} has no preview; write preview(self, batch) in its class"


def _is_address(what: str) -> bool:
    return len([part for part in what.rstrip("/").rsplit("/", 2) if part]) == 3 and not Path(what).is_file()


def _matrix_of(what: str, data: str | None, sets: tuple[str, ...]) -> Matrix:
    """The matrix of a name, or one of a single task. Raises SpecError with the nearest names."""
    matrices = shipped()
    if what in matrices or Path(what).is_file():
        matrix = as_matrix(what, sets)
        if data is not None:
            matrix = matrix.model_copy(update={"data": parse(DataSpec, data, "--data")})
        return _one_evaluator(matrix)
    if what not in TASKS and "+" not in what:
        known = [*TASKS.names(), *matrices]
        raise SpecError(f"no task, matrix or RUN/ROW/SEED is called {quoted(what)}; {did_you_mean(what, known)}")
    task = TASKS.get(what)
    side = max(SHAPES_SIDE, task.min_image_size)
    images: Any = {"source": data} if data is not None else {"source": "shapes", "size": side, "limit": 500}
    alone = {"name": "preview", "data": images, "pretrain": {"epochs": 1}, "tasks": [what], "baselines": []}
    return as_matrix({**alone, "backbone": {"name": "resnet18", "width": 0.25}, "evaluate": ["knn"]}, sets)


def _one_evaluator(matrix: Matrix) -> Matrix:
    """Nothing is judged here, so the sets of other evaluators need not be there."""
    return matrix.model_copy(update={"evaluate": (EvaluatorSpec(evaluator="knn"),)})


def _context(run_plan: RunPlan) -> RunContext:
    return RunContext(
        data=run_plan.data, backbone=run_plan.matrix.backbone, device=torch.device("cpu"), precision="fp32"
    )


def _trained(run_plan: RunPlan, context: RunContext, folder: Path, row: str, seed: str) -> _Shown:
    """A row of a run with its weights."""
    cells = {(cell.row.name, str(cell.seed)): cell for cell in _all_cells(run_plan, folder)}
    cell = cells.get((row, seed))
    if cell is None:
        known = [f"{name}/{number}" for name, number in cells]
        raise SpecError(f"{folder} has no cell {quoted(f'{row}/{seed}')}; {did_you_mean(f'{row}/{seed}', known)}")
    if not has_preview(cell.row.task):
        raise SpecError(_without_preview(cell.row.task))
    record = read_pretraining(cell)
    if record is None:
        raise SpecError(f"{folder}: {row}/{seed} is not trained yet; run its matrix first")
    task = load_task(cell, context, record.weights)
    return _Shown(cell, task, f"after {record.steps:,} steps" if task.role.trains else "")


def _all_cells(run_plan: RunPlan, folder: Path) -> list[Cell]:
    """The cells of the table, with the candidate that was chosen where there were several."""
    chosen = {Path(cell.folder).name for cell in read_record(folder / "run.json", Run).cells}
    table: list[Cell] = []
    for row in run_plan.rows:
        for seed in run_plan.matrix.seeds:
            cells = [run_plan.cell(row, candidate, seed) for candidate in row.candidates]
            table.append(next((cell for cell in cells if cell.folder.name in chosen), cells[0]))
    return table


def _preview_png(shown: _Shown, images: ImageSet) -> bytes:
    """The PNG of one task."""
    task_class = shown.cell.row.task
    labels = task_class.uses_labels
    batches = Batches(
        images if labels else images.without_labels(), IMAGES, 0, labels=labels, columns=task_class.columns
    )
    seed_everything(shown.cell.seed, 0xE9)
    with torch.no_grad():
        pictures = shown.task.eval().preview(batches.batch(0))
    title = [shown.cell.row.name, f"{images.name}, {images.size} px", *filter(None, [shown.state])]
    asked = " ".join((task_class.__doc__ or "").split("\n\n")[0].split())
    grids = {name: picture.float().cpu().permute(0, 2, 3, 1).numpy() for name, picture in pictures.items()}
    return picture_grid(" · ".join(title), [text for text in (asked, task_class.paper) if text], grids)
