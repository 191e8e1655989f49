"""What a user writes: a matrix and its parts. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssl_bench.errors import SpecError, quoted
from ssl_bench.spec.model import (
    LONGEST_FILE_NAME,
    LONGEST_NAME,
    MOST_BATCH,
    MOST_CELLS,
    MOST_IMAGES,
    MOST_IN_SET,
    MOST_ROWS,
    MOST_SEEDS,
    Model,
    Rate,
    Seed,
    Share,
    idle,
    parse,
    refuse_idle,
)  # fmt: skip

__all__ = [
    "BASELINES", "BackboneSpec", "DataSpec", "EvaluatorSpec", "Limit", "Matrix", "Model", "PretrainSpec", "Recipe", "SourceSpec", "TaskSpec", "parse",
    "refuse_idle",
]  # fmt: skip

BASELINES = ("random", "pixels", "pca", "supervised")
#: settings of a recipe that not every recipe uses -> the setting that decides, and its values with which they count
_USED_BY = {
    "momentum": ("optimizer", ("sgd", "lars")),
    "nesterov": ("optimizer", ("sgd", "lars")),
    "betas": ("optimizer", ("adamw",)),
    "trust_coefficient": ("optimizer", ("lars",)),
    "milestones": ("schedule", ("steps",)),
    "gamma": ("schedule", ("steps",)),
}


class Recipe(Model):
    """How one task is optimised. ``learning_rate`` is the peak value as applied, not scaled by anything later."""

    LATER: ClassVar[frozenset[str]] = frozenset({"weight_decay_end"})

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: Rate = 1e-3
    weight_decay: float = Field(default=0.01, ge=0, le=1_000)  #: never on biases and norms
    batch_size: int = Field(default=256, ge=1, le=MOST_BATCH)  #: images a step (a task may make several views of each)
    warmup: float = Field(default=0.1, ge=0, lt=1)  #: share of the steps over which the learning rate rises linearly
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    #: for "steps": shares of the run after which the rate is multiplied by gamma
    milestones: tuple[Share, ...] = Field(default=(), max_length=100)
    gamma: float = Field(default=0.1, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)  #: sgd and lars
    nesterov: bool = False  #: sgd and lars
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)  #: adamw
    trust_coefficient: float = Field(default=0.001, gt=0, le=1_000)  #: lars
    clip_norm: float | None = Field(default=None, gt=0, le=1e9)  #: gradient norm
    #: reached at the end of the run, along half a cosine; None: weight_decay stays as it is
    weight_decay_end: float | None = Field(default=None, ge=0, le=1_000)

    @model_validator(mode="after")
    def _lars_decays(self) -> Recipe:
        if self.optimizer == "lars" and 0 in (self.weight_decay, self.weight_decay_end):
            raise ValueError(
                "lars adapts only weights that decay, so weight_decay = 0 would make it plain SGD; give it a "
                "small value such as 1e-6"
            )
        return self

    @model_validator(mode="after")
    def _all_count(self) -> Recipe:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule: steps without milestones leaves the rate as it is; give milestones such as [0.6, 0.8], "
                "or schedule: constant"
            )
        # else a whole recipe, of which some of these were not asked for
        if not self.model_fields_set >= set(type(self).model_fields) - self.LATER:
            self._refuse_idle(self.model_fields_set)
        return self

    def _refuse_idle(self, written: Collection[str]) -> None:
        for name, (key, values) in _USED_BY.items():
            if name in written and getattr(self, key) not in values:
                raise idle(name, self, f"{key}: {' and '.join(values)}, and {key} is {getattr(self, key)} here")

    def overridden(self, written: Mapping[str, Any], where: str) -> Recipe:
        """This recipe with the settings that a user wrote. Raises SpecError for a wrong one, and for one that has no
        effect."""
        recipe = parse(Recipe, {**self.model_dump(), **written}, where)
        try:
            recipe._refuse_idle(written.keys())
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        return recipe

    def identity(self) -> dict[str, Any]:
        """Plain data for a cell's id."""
        fields = type(self).model_fields
        at_default = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=at_default)


class BackboneSpec(Model):
    """A timm ResNet and how it is changed for small images."""

    short_form: ClassVar[str] = "the name of a ResNet of timm's"

    name: str = Field(default="resnet18", min_length=1, max_length=LONGEST_NAME)
    width: float = Field(default=1.0, gt=0, le=4)  #: scales every layer, the stem too
    stem: Literal["auto", "3x3", "timm"] = "auto"  #: auto: 3x3 without max-pool up to 96 px, timm's own above
    stem_stride: Literal[1, 2] | None = None  #: of the 3x3 stem; None: 1 up to 32 px, 2 up to 96 px

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class SourceSpec(Model):
    """Where images come from: a source name, and for a folder optional labels and test share."""

    short_form: ClassVar[str] = "the name of a source"
    many: ClassVar[str] = "sources"

    source: str = Field(min_length=1)
    labels: str | None = None  #: csv of files and their labels, for a folder
    image: str | None = None  #: column of the images (of their files in a csv); None: chosen by type and name
    target: str | None = None  #: column of the labels; None: chosen by type and name
    group: str | None = None  #: column whose values never straddle two splits
    #: what the folders of folder:PATH are; auto: decided by what they hold
    layout: Literal["auto", "splits", "classes", "flat"] = "auto"
    test: float | None = Field(default=None, gt=0, lt=1)  #: share held out as test where the source has none

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class Limit(Model):
    """At most this many images of train and of test (class-balanced, the same ones every time)."""

    short_form: ClassVar[str] = "a number of images for train and for test"

    train: int | None = Field(default=None, ge=1, le=MOST_IN_SET)
    test: int | None = Field(default=None, ge=1, le=MOST_IN_SET)


class DataSpec(Model):
    """Images to pretrain on and images to judge on; one source plays both roles unless two are given."""

    short_form: ClassVar[str] = "the name of a source"
    also_taken: ClassVar[tuple[str, ...]] = tuple(SourceSpec.model_fields)  # of the one source that plays both roles

    pretrain: SourceSpec
    evaluate: tuple[SourceSpec, ...] = Field(max_length=100)
    size: int | None = Field(default=None, ge=8, le=1024)  #: side in pixels; None: the source's own
    fit: Literal["crop", "pad", "squash"] = "crop"  #: how a non-square image becomes square
    #: of images of 16 bits a channel or more: what their format can hold, or what the source's training images use
    range: Literal["full", "set"] = "full"
    skip_unreadable: bool = False  #: leave unreadable images out and count them, instead of stopping
    limit: Limit = Limit()
    #: which images of train are held back to choose on; another draw is pretrained on other images too (those it does
    #: not hold back), so its cells are new
    validation_seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"source": value}
        if not isinstance(value, Mapping):
            return value
        value = dict(value)
        of_source = {key: value.pop(key) for key in SourceSpec.model_fields if key in value}
        if of_source:
            if "pretrain" in value or "evaluate" in value:
                raise ValueError("data has both `source` and `pretrain`/`evaluate`; give one of the two forms")
            value |= {"pretrain": of_source, "evaluate": [of_source]}
        elif "pretrain" in value and "evaluate" not in value:
            value["evaluate"] = [value["pretrain"]]
        elif "evaluate" in value and "pretrain" not in value:
            raise ValueError("data.evaluate is given without data.pretrain; name the images to pretrain on")
        elif "pretrain" not in value and set(value) <= {*cls.model_fields, "source"}:
            raise ValueError("names no images; write `source:` with a source such as shapes, cifar10 or folder:PATH")
        if isinstance(value.get("evaluate"), (str, Mapping)):
            value["evaluate"] = [value["evaluate"]]
        if isinstance(value.get("limit"), (int, float, str)):
            value["limit"] = {"train": value["limit"], "test": value["limit"]}
        return value


class PretrainSpec(Model):
    """The budget every row gets, and settings that hold for all rows unless a task says otherwise."""

    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    images: int | None = Field(default=None, ge=1, le=MOST_IMAGES)  #: images seen, instead of epochs
    #: network passes, instead of epochs: tasks that show the network an image more often see fewer
    passes: int | None = Field(default=None, ge=1, le=MOST_IMAGES)
    preset: Literal["auto", "short", "paper"] = "auto"
    batch_size: int | None = Field(default=None, ge=1, le=MOST_BATCH)  #: for every task that names none itself
    checkpoint_seconds: float = Field(default=120.0, gt=0, le=1_000_000)  #: does not enter a cell's id
    monitor: int = Field(default=10, ge=0, le=10_000)  #: validation kNN looks a run; does not enter a cell's id

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainSpec:
        if [self.epochs, self.images, self.passes].count(None) != 2:
            raise ValueError("needs exactly one of `epochs`, `images` and `passes`")
        return self


class TaskSpec(Model):
    """A row: a task, its options and recipe settings as written, and the name the row is shown under."""

    short_form: ClassVar[str] = "the name of a task"
    many: ClassVar[str] = "rows, each a task's name or {task: {option: value}}"

    task: str = Field(min_length=1, max_length=5 * LONGEST_NAME)  # a combination has its members' names
    #: task options and recipe settings together, or apart below ``options`` and ``recipe``; validated against the task
    options: dict[str, Any] = {}
    row: str

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        value = _with_own(_named(value, "task"), "row")
        if "recipe" in value:  # of the long form, where it stands beside the options
            if not isinstance(value.get("options") or {}, Mapping):
                return value  # told below
            options = dict(value.get("options") or {})
            if "recipe" in options:
                raise ValueError(
                    f"task {quoted(value.get('task'))}: recipe is given twice, beside the options and among them; "
                    "keep one"
                )
            value = {
                **{key: inner for key, inner in value.items() if key != "recipe"},
                "options": {**options, "recipe": value["recipe"]},
            }
        return {"row": str(value.get("task")), **value}

    @field_validator("row")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.strip() or not value.isprintable() or "/" in value:
            raise ValueError("a row's name is printable text without slashes (they separate RUN/ROW/SEED)")
        if len(value) > LONGEST_NAME and value.count("+") == 0:
            raise ValueError(
                f"a row's name has at most {LONGEST_NAME} characters, and this one {len(value)}; give the row a "
                "shorter `row:`"
            )
        return value


class EvaluatorSpec(Model):
    """An evaluator and its options as written, validated against the evaluator; and the seeds it judges, where it is
    too dear for all."""

    short_form: ClassVar[str] = "the name of an evaluator"
    many: ClassVar[str] = "evaluators, each a name or {evaluator: {option: value}}"

    evaluator: str = Field(min_length=1, max_length=LONGEST_NAME)
    options: dict[str, Any] = {}
    #: some of the matrix's; None: all of them
    seeds: tuple[Seed, ...] | None = Field(default=None, max_length=MOST_SEEDS)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return _with_own(_named(value, "evaluator"), "seeds")


def weights_row(value: Any) -> Any:
    """A row of `weights` as it is written, as one of the task ``weights``."""
    if isinstance(value, TaskSpec) or (isinstance(value, Mapping) and "task" in value):
        return value
    options = {"source": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    if not isinstance(options.get("source"), str):
        raise ValueError(f"{quoted(value)} names no weights; write timm:NAME, file:PATH, or {{source: ..., row: ...}}")
    source = str(options["source"])
    file = "/" in source or source.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin"))
    if ":" not in source and file:  # else its slashes would be refused, as those of a row's name
        raise ValueError(
            f"{quoted(source)} is neither timm:NAME nor file:PATH; did you mean {quoted(f'file:{source}')}?"
        )
    path = PurePath(source.removeprefix("file:"))
    of_a_cell = path.name == "backbone.safetensors" and len(path.parts) >= 3  # of a cell: ROW/SEED-ID tells it apart
    short = f"file:{' '.join(path.parts[-3:-1]) if of_a_cell else path.stem}" if source.startswith("file:") else source
    return {"task": "weights", "row": options.pop("row", short[:LONGEST_NAME]), "options": options}


def _with_own(value: dict[str, Any], key: str) -> dict[str, Any]:
    """A key of the spec itself that was written among the options of the short form."""
    if key in value or not isinstance(value.get("options"), Mapping) or key not in value["options"]:
        return value
    options = dict(value["options"])
    return value | {key: options.pop(key), "options": options}


def _named(value: Any, kind: str) -> dict[str, Any]:
    """`name`, `{name: {option: value}}` or the long form, as the long form."""
    if isinstance(value, str):
        return {kind: value}
    if isinstance(value, Mapping) and kind in value:
        return dict(value)
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(
                f"{kind} {quoted(name)} is followed by {quoted(options)}; options are written as {{option: value}}"
            )
        return {kind: name, "options": dict(options or {})}
    if (
        isinstance(value, Mapping)
        and value
        and any(isinstance(options, Mapping) or options is None for options in value.values())
    ):
        names = ", ".join(quoted(name) for name in list(value)[:4])
        raise ValueError(
            f"names several {kind}s at once ({names}); begin each with a dash of its own, and indent its options "
            "below it"
        )
    raise ValueError(f"names no {kind}; write its name, or {{name: {{option: value}}}}")


class Matrix(Model):
    """A benchmark: (tasks + baselines) x seeds, pretrained alike, each judged by every evaluator."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    data: DataSpec
    backbone: BackboneSpec = BackboneSpec()
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, max_length=MOST_SEEDS)
    pretrain: PretrainSpec
    tasks: tuple[TaskSpec, ...] = Field(default=(), max_length=MOST_ROWS)
    #: where none are written, all of them, except those that are rows of `tasks` already
    baselines: tuple[TaskSpec, ...] = Field(
        default=tuple(TaskSpec(task=name, row=name) for name in BASELINES), max_length=MOST_ROWS
    )
    #: pretrained elsewhere: timm:NAME or file:PATH, judged as they come
    weights: tuple[TaskSpec, ...] = Field(default=(), max_length=MOST_ROWS)
    evaluate: tuple[EvaluatorSpec, ...] = Field(min_length=1, max_length=100)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    #: a stage is averaged to at most so many values for probes; None: 2,048 on a CPU, 9,000 elsewhere
    stage_values: int | None = Field(default=None, ge=16, le=1_000_000)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value in (".", "..") or any(c in value for c in "/\\\0") or not value.isprintable():
            raise ValueError("a matrix's name becomes a folder's; leave out slashes and control characters")
        if len(value.encode()) > LONGEST_FILE_NAME:
            raise ValueError(
                f"must have at most {LONGEST_FILE_NAME} bytes, got {len(value.encode())}: a matrix's name becomes "
                "a folder's"
            )
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        """`timm:NAME`, `file:PATH` or {source: ..., row: ..., size: ...} as rows of the task ``weights``."""
        if isinstance(value, (str, Mapping)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ValueError("should be a list of timm:NAME, file:PATH, or {source: ..., row: ...}")
        return [weights_row(row) for row in value]

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            several = (
                f", or [0, 1, 2] for {value} seeds"
                if value == 3
                else f", or [0, 1, ...] for {value:,} seeds"
                if 1 < value <= MOST_SEEDS
                else ""
            )
            raise ValueError(f"seeds are listed; write [{value}] for the seed {value} alone{several}")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError(
                f"seeds are different numbers; {next(seed for seed, count in Counter(value).items() if count > 1)} "
                "is listed twice"
            )
        return value

    @model_validator(mode="after")
    def _rows_differ(self) -> Matrix:
        written = (*self.tasks, *self.weights)
        if "baselines" not in self.model_fields_set:  # a default gives way to a row that is written
            taken = {spec.row for spec in written}
            object.__setattr__(self, "baselines", tuple(spec for spec in self.baselines if spec.row not in taken))
        parts = {"tasks": self.tasks, "baselines": self.baselines, "weights": self.weights}
        places: dict[str, list[str]] = {}
        for part, specs in parts.items():
            for spec in specs:
                places.setdefault(spec.row, []).append(part)
        for row, lists in places.items():
            if len(lists) > 1:
                where = (
                    f"both in `{lists[0]}`"
                    if len(set(lists)) == 1
                    else f"in {' and in '.join(f'`{part}`' for part in dict.fromkeys(lists))}"
                )
                raise ValueError(
                    f"two rows are called {quoted(row)}, {where}; leave one out, or give it another name: "
                    f"{_renamed(parts, row)}"
                )
        if len(places) * len(self.seeds) > MOST_CELLS:
            raise ValueError(
                f"{len(places):,} rows at {len(self.seeds):,} seeds are {len(places) * len(self.seeds):,} cells; a "
                f"matrix has at most {MOST_CELLS:,}"
            )
        names = Counter(repr(asked.model_dump(exclude={"seeds"})) for asked in self.evaluate)
        for asked in self.evaluate:
            if names[repr(asked.model_dump(exclude={"seeds"}))] > 1:
                raise ValueError(
                    f"the evaluator {quoted(asked.evaluator)} is listed twice with the same options; leave one out"
                )
            if asked.seeds is not None and (not asked.seeds or set(asked.seeds) - set(self.seeds)):
                raise ValueError(
                    f"evaluator {asked.evaluator!r}: seeds {quoted(asked.seeds)} are not all among the matrix's, "
                    f"{quoted(self.seeds)}"
                )
        return self


def _renamed(parts: Mapping[str, tuple[TaskSpec, ...]], row: str) -> str:
    task = next(spec.task for specs in parts.values() for spec in specs if spec.row == row)
    return "{source: ..., row: NAME}" if task == "weights" else f"{{{task}: {{row: NAME}}}}"
