"""From what a user wrote to the rows of a table: every setting of a row, checked against the data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ssl_bench.backbones.inputs import InputSpec
from ssl_bench.backbones.resnet import Backbone
from ssl_bench.backbones.timm_hub import AbsentWeights
from ssl_bench.backbones.weights import Weights, open_weights, target_of
from ssl_bench.data import Data
from ssl_bench.errors import DataError, SpecError, WeightsError, did_you_mean, quoted
from ssl_bench.plan.candidate import Candidate
from ssl_bench.plugins.registry import TASKS
from ssl_bench.plugins.source_code import place_in_traceback, raised
from ssl_bench.records.schema import Block
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.rows import TaskSpec
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.system.interruption import is_interruption

MOST_CANDIDATES = 1_000  # of one row


@dataclass(frozen=True)
class Row:
    """A row of the table with the candidates to choose from (one, unless an option is a choice)."""

    spec: TaskSpec
    task: type[Any]
    block: Block
    candidates: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        return self.spec.row

    def start(self, chosen: Candidate | None) -> tuple[str, bool]:
        """What the row starts from and what is known of its training ("" for nothing), and whether labels are in it, or
        may be.

        ``chosen``: the candidate that stands for the row; None while there is none.
        """
        standing = (chosen,) if chosen is not None else self.candidates
        weights = {candidate.init.source: candidate.init for candidate in standing if candidate.init is not None}
        labels = any(self.task.saw_labels(candidate.options) for candidate in standing) or any(
            not init.label_free for init in weights.values()
        )
        return "; ".join(init.described for init in weights.values()), labels


def split_options(task: type[Any], written: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row's settings as (task options, recipe settings).

    A name that only one of the two has may stand in the row itself. ``recipe: {...}`` and ``options: {...}`` hold the
    settings of training and of the task whatever they are called, and have to where both have the name. Settings of one
    phase stand below its name in ``recipe``.

    Raises
    ------
    SpecError : an unknown setting (with the nearest known one), one that could be either, one given twice, or one of
        training for a task without.
    """
    known_options, training = task.Options.model_fields, (*Recipe.model_fields, "init", "recipe")
    known = [*known_options, *(training if task.role.trains else ()), "row"]
    options, recipe = (dict(_inner(written, key, where)) for key in ("options", "recipe"))
    if not task.role.trains and "recipe" in written:
        raise SpecError(_not_trained(task, "recipe", where))
    phases = task.phases if len(task.phases) > 1 else ()
    for key in recipe:
        if key not in Recipe.model_fields and key not in phases:
            allowed = (*Recipe.model_fields, *phases)
            raise SpecError(f"{where}: recipe: unknown setting {key!r}; {did_you_mean(key, allowed)}")
    for key, value in written.items():
        if key in ("options", "recipe", "init") and (task.role.trains or key == "options"):
            continue
        if key in known_options and key in Recipe.model_fields and task.role.trains:
            raise SpecError(
                f"{where}: {key!r} is an option of {task.name} and a setting of training; write options: {{{key}: "
                f"...}} for the task's, "
                f"recipe: {{{key}: ...}} for that of training"
            )
        place = options if key in known_options else recipe
        if key in place:
            raise SpecError(
                f"{where}: {key!r} is given twice, in the row and below "
                f"{'options' if key in known_options else 'recipe'!r}; keep one"
            )
        if key in training and key not in known_options and not task.role.trains:
            raise SpecError(_not_trained(task, key, where))
        if key not in known_options and key not in Recipe.model_fields:
            raise SpecError(f"{where}: unknown option {key!r}; {did_you_mean(key, known)}")
        place[key] = value
    for key in options:
        if key not in known_options:
            raise SpecError(
                f"{where}: options: unknown option {key!r} of {task.name}; {did_you_mean(key, known_options)}"
            )
    return options, recipe


def _inner(written: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = written.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise SpecError(f"{where}: {key} = {value!r}; settings are written as {{setting: value}}")
    return value or {}


def _not_trained(task: type[Any], key: str, where: str) -> str:
    settings = ", ".join([*task.Options.model_fields, "row"])
    return f"{where}: {key!r} is a setting of training, and {task.name} is not trained; its settings are: {settings}"


def candidates_of(
    matrix: Matrix, task: type[Any], spec: TaskSpec, image_size: int, num_images: int, download: bool = True
) -> tuple[Candidate, ...]:
    """Every full setting of a row, in the order written. Without ``download``, weights that are not here are absent
    (AbsentWeights)."""
    where = f"task {spec.row!r}"
    choices = _choices(spec.options)
    for key, values in choices.items():
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise SpecError(f"{where}: {key}: choose needs a list of at least two values, not {quoted(values)}")
        if twice := [value for at, value in enumerate(values) if value in values[:at]]:
            raise SpecError(
                f"{where}: {key}: choose lists {quoted(twice[0])} twice; each setting is tried once, so leave one out"
            )
    if math.prod(len(values) for values in choices.values()) > MOST_CANDIDATES:
        counted = " x ".join(f"{len(values)} of {key}" for key, values in choices.items())
        raise SpecError(
            f"{where}: choose: {counted} are more than {MOST_CANDIDATES:,} settings to try, the most that a row "
            "may have"
        )

    def make(input: str = "rgb", **_: Any) -> Backbone:
        return Backbone(matrix.backbone, image_size, InputSpec(kind=input))

    candidates = []
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        settings = _decided(spec.options, chosen)
        written, recipe_settings = split_options(task, settings, where)
        start = settings.get("init")
        parsed = parse(task.Options, written, where)
        for source in task.weights_needed(parsed):
            open_weights(source, download)
        options = task.resolve(parsed, make)
        images = budget_images(matrix, num_images)
        whole = schedule_images(matrix, num_images)
        preset = matrix.pretrain.preset
        if preset == "auto":
            base = task.recipe(options, image_size, whole // 256)
        else:
            base = (task.short_recipe if preset == "short" else task.paper_recipe)(options, image_size)
        for what, value, kind in (("resolve", options, task.Options), ("its recipe", base, Recipe)):
            if not isinstance(value, kind):
                raise SpecError(f"{where}: {what} gave a {type(value).__name__}, and it must give a {kind.__name__}")
        if matrix.pretrain.batch_size is not None:
            recipe_settings.setdefault("batch_size", matrix.pretrain.batch_size)
        of_phases = {phase: recipe_settings.pop(phase, {}) for phase in task.phases if len(task.phases) > 1}
        recipe = base.overridden(recipe_settings, where)
        recipes = {phase: _phase_recipe(task, phase, recipe, options, of_phases[phase], where) for phase in of_phases}
        steps = max(1, round(images / recipe.batch_size))
        init = None if start is None else _init(task, options, make, start, where, download)
        cut = task.role.trains and matrix.pretrain.schedule_epochs is not None
        schedule_steps = max(1, round(whole / recipe.batch_size)) if cut else None
        candidate = Candidate(options, recipe, steps, chosen, init, recipes, schedule_steps)
        # of a budget in passes, the steps are not known yet
        candidates.append(candidate if matrix.pretrain.passes is not None else candidate.cut(where))
    return tuple(candidates)


def _phase_recipe(task: type[Any], phase: str, recipe: Recipe, options: Any, written: Any, where: str) -> Recipe:
    """The recipe of one phase: the task's, and what the row has below ``recipe: {PHASE: {...}}``."""
    where = f"{where}: recipe of phase {phase!r}"
    if not isinstance(written, Mapping):
        raise SpecError(f"{where}: {quoted(written)}; settings are written as {{setting: value}}")
    of_phase = task.phase_recipe(phase, recipe, options)
    if not isinstance(of_phase, Recipe):
        raise SpecError(f"{where}: phase_recipe gave a {type(of_phase).__name__}, and it must give a Recipe")
    if "batch_size" in written or of_phase.batch_size != recipe.batch_size:
        raise SpecError(f"{where}: batch_size is that of the row ({recipe.batch_size}), because phases share a batch")
    return of_phase.overridden(written, where)


def _choices(options: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values to choose from, by the option's name; that of a combination's member has the member's before it, as
    "exemplar.crops"."""
    choices: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            choices |= {above + key: value["choose"]} if set(value) == {"choose"} else _choices(value, f"{above}{key}.")
    return choices


def _decided(options: Mapping[str, Any], chosen: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The options with a value for every choice."""
    return {
        key: chosen[above + key]
        if above + key in chosen
        else _decided(value, chosen, f"{above}{key}.")
        if isinstance(value, Mapping)
        else value
        for key, value in options.items()
    }


def _init(
    task: type[Any], options: Any, make: Callable[..., Backbone], source: Any, where: str, download: bool
) -> Weights:
    """The weights that a task starts from, tried in its network."""
    if not isinstance(source, str):
        raise SpecError(f"{where}: init must be timm:NAME or file:PATH, got {quoted(source)}")
    backbone = task.build_backbone(make, options)
    try:
        weights = open_weights(source, download)
        network = target_of(weights, backbone)
        if network is None and weights.network is None:
            raise WeightsError(f"{task.name} builds a network of its own, which cannot start from other weights")
        if network is None:
            raise WeightsError(
                f"{source} holds {weights.network}, and {task.name} trains another network; "
                "a row of weights: judges it "
                "as it is, with --plugin FILE"
            )
        weights.into(network)
    except WeightsError as error:
        raise (AbsentWeights if isinstance(error, AbsentWeights) else SpecError)(f"{where}: init: {error}") from None
    return weights


def budget_images(matrix: Matrix, num_images: int) -> int:
    """Images every row sees; of a budget in network passes, those of a task that shows the network each image once."""
    return matrix.pretrain.images or matrix.pretrain.passes or max(1, round((matrix.pretrain.epochs or 0) * num_images))


def schedule_images(matrix: Matrix, num_images: int) -> int:
    """Images of the run that schedules and presets are of: that of the budget, unless it is cut short."""
    epochs = matrix.pretrain.schedule_epochs
    return budget_images(matrix, num_images) if epochs is None else max(1, round(epochs * num_images))


def rows_of(matrix: Matrix, data: Data, unseen: dict[str, str] | None = None) -> list[Row]:
    """The rows of a matrix, checked against the data. Every problem of every row is told at once.

    ``unseen``: takes the rows whose weights are not here, and why, which are then left out; where it is None, they are
    a problem.
    """
    rows, problems = [], []
    absent = _absent(matrix, data)
    for spec in (*matrix.tasks, *matrix.baselines, *matrix.weights):
        if spec in absent:
            continue
        try:
            task = TASKS.get(spec.task)
            candidates = candidates_of(matrix, task, spec, data.size, len(data.pretrain), download=unseen is None)
            for candidate in candidates:
                _check_row(task, spec, candidate, data, matrix.data.fit)
            pretext = spec in matrix.tasks and task.role is TaskRole.PRETEXT
            block: Block = "pretext" if pretext else "elsewhere" if spec in matrix.weights else "baseline"
            rows.append(Row(spec, task, "labels" if task.uses_labels else block, candidates))
        except (SpecError, DataError, WeightsError) as error:
            if isinstance(error, AbsentWeights) and unseen is not None:
                unseen[spec.row] = str(error)
            else:
                problems.append(str(error))
        except BaseException as error:  # of a plugin's resolve, recipe or check
            if is_interruption(error) or not place_in_traceback(error):
                raise
            problems.append(f"task {spec.row!r}: {raised(error)}")
    if problems:
        raise SpecError("\n".join(problems))
    return rows


def _absent(matrix: Matrix, data: Data) -> list[TaskSpec]:
    """Default baselines that cannot be had: unlabelled photos must not be refused for them."""
    defaults = () if "baselines" in matrix.model_fields_set or data.pretrain.labels is not None else matrix.baselines
    return [spec for spec in defaults if TASKS.get(spec.task).uses_labels]


def why_absent(matrix: Matrix, data: Data) -> list[str]:
    """A note for each default baseline that is no row of this matrix, with the reason."""
    instead = (
        "; fine-tuning the row 'random' tells what the labels that rows are judged on give without pretraining"
        if data.evaluate
        else ""
    )
    return [
        f"{spec.row} is no row here: it needs labels, and {data.unlabelled}{instead}" for spec in _absent(matrix, data)
    ]


def _check_row(task: type[Any], spec: TaskSpec, candidate: Candidate, data: Data, fit: str) -> None:
    where = f"task {spec.row!r}"
    if fit == "pad" and task.reads_borders:
        raise DataError(
            f"{where}: data.fit must be 'crop' or 'squash', got 'pad': its black bars would give the answer away"
        )
    if data.size < task.min_image_size:
        raise DataError(
            f"{where} needs images of at least {task.min_image_size} px, not {data.size}; set data.size to "
            f"{task.min_image_size} or more"
        )
    if task.role.trains and candidate.recipe.batch_size > len(data.pretrain):
        count = len(data.pretrain)
        raise DataError(
            f"{where}: batch_size must be at most {count:,}, the number of pretraining images, got "
            f"{candidate.recipe.batch_size}"
        )
    if task.role.trains and task.uses_labels and data.pretrain.labels is None:
        why = data.unlabelled or f"the pretraining images ({data.pretrain.name}) have none"
        raise DataError(
            f"{where} needs labels, and {why}; remove it from the matrix, or give labelled images as the one "
            "`source` of data"
        )
    missing = sorted(task.columns - set(data.pretrain.columns))
    if missing:
        known = ", ".join(sorted(data.pretrain.columns)) or "none"
        raise DataError(f"{where} needs the column {missing[0]!r}, which {data.pretrain.name} lacks; it has: {known}")
    try:
        task.check(candidate.options, data.pretrain)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
