"""What a user writes: a matrix and its parts. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssl_bench.errors import SpecError, did_you_mean

BASELINES = ("random", "pixels", "pca", "supervised")


class Model(BaseModel):
    """Base of everything a user writes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any, where: str) -> M:
    """``model`` from plain data; a SpecError names every wrong key and value, and what would be allowed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors()
        # What is wrong inside of a list also leaves it too short: told is the cause.
        causes = [one for one in problems if not any(one["loc"] == other["loc"][: len(one["loc"])] != other["loc"] for other in problems)]
        raise SpecError("\n".join(_explain(model, problem, where) for problem in causes)) from None


def _explain(model: type[BaseModel], problem: Any, where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        owner = model
        for part in path[:-1]:  # of a list, its place is no field
            field = owner.model_fields.get(part)
            owner = (field and _model_in(field.annotation)) or owner
        return f"{where}: unknown key {'.'.join(path)!r}; {did_you_mean(path[-1], owner.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}: {'.'.join(path)!r} is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    prefix = f"{where}: {'.'.join(path)} = {problem['input']!r}: " if path else f"{where}: "
    return prefix + (f"should be {message}" if problem["msg"].startswith("Input should be") else message)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, optional or in a tuple; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def refuse_idle(model: BaseModel, names: Iterable[str], needed: str) -> None:
    """Raise ValueError for a setting that was written and changes nothing, because ``needed`` is not so.

    Where every field is set, the model was read back from a dump, which does not tell what was written: a default is let pass there.
    """
    fields = type(model).model_fields
    whole = model.model_fields_set >= set(fields)
    for name in names:
        if name in model.model_fields_set and not (whole and getattr(model, name) == fields[name].default):
            raise _idle(name, model, needed)


def _idle(name: str, model: BaseModel, needed: str) -> ValueError:
    return ValueError(f"{name} = {getattr(model, name)!r} changes nothing: it is a setting of {needed}; leave it out")


#: settings of a recipe that not every recipe uses -> the setting that decides, and its values with which they count
_USED_BY = {
    "momentum": ("optimizer", ("sgd", "lars")), "nesterov": ("optimizer", ("sgd", "lars")), "betas": ("optimizer", ("adamw",)),
    "trust_coefficient": ("optimizer", ("lars",)), "milestones": ("schedule", ("steps",)), "gamma": ("schedule", ("steps",)),
}


class Recipe(Model):
    """How one task is optimised. ``learning_rate`` is the peak value as applied, not scaled by anything later."""

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)  #: never on biases and norms
    batch_size: int = Field(default=256, ge=1)  #: images a step (a task may make several views of each)
    warmup: float = Field(default=0.1, ge=0, lt=1)  #: share of the steps over which the learning rate rises linearly
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()  #: for "steps": shares of the run after which the rate is multiplied by gamma
    gamma: float = Field(default=0.1, gt=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)  #: sgd and lars
    nesterov: bool = False  #: sgd and lars
    betas: tuple[float, float] = (0.9, 0.999)  #: adamw
    trust_coefficient: float = Field(default=0.001, gt=0)  #: lars
    clip_norm: float | None = Field(default=None, gt=0)  #: gradient norm

    @model_validator(mode="after")
    def _lars_decays(self) -> Recipe:
        if self.optimizer == "lars" and self.weight_decay == 0:
            raise ValueError("lars adapts only weights that decay, so weight_decay = 0 would make it plain SGD; give it a small value such as 1e-6")
        return self

    @model_validator(mode="after")
    def _all_count(self) -> Recipe:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule: steps without milestones leaves the rate as it is; give milestones such as [0.6, 0.8], or schedule: constant")
        if len(self.model_fields_set) < len(type(self).model_fields):  # else a whole recipe, of which some of these were not asked for
            self._refuse_idle(self.model_fields_set)
        return self

    def _refuse_idle(self, written: Collection[str]) -> None:
        for name, (key, values) in _USED_BY.items():
            if name in written and getattr(self, key) not in values:
                raise _idle(name, self, f"{key}: {' and '.join(values)}, and {key} is {getattr(self, key)} here")

    def overridden(self, written: Mapping[str, Any], where: str) -> Recipe:
        """This recipe with the settings that a user wrote. Raises SpecError for a wrong one, and for one that has no effect."""
        found = parse(Recipe, {**self.model_dump(), **written}, where)
        try:
            found._refuse_idle(written.keys())
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        return found


class BackboneSpec(Model):
    """A timm ResNet and how it is changed for small images."""

    name: str = "resnet18"
    width: float = Field(default=1.0, gt=0, le=4)  #: scales every layer, the stem too
    stem: Literal["auto", "3x3", "timm"] = "auto"  #: auto: 3x3 without max-pool up to 96 px, timm's own above
    stem_stride: Literal[1, 2] | None = None  #: of the 3x3 stem; None: 1 up to 32 px, 2 up to 96 px

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class SourceSpec(Model):
    """Where images come from: a source name, and for a folder optional labels and test share."""

    source: str
    labels: str | None = None  #: csv of files and their labels, for a folder
    image: str | None = None  #: column of the images (of their files in a csv); None: chosen by type and name
    target: str | None = None  #: column of the labels; None: chosen by type and name
    group: str | None = None  #: column whose values never straddle two splits
    layout: Literal["auto", "splits", "classes", "flat"] = "auto"  #: what the folders of folder:PATH are; auto: decided by what they hold
    test: float | None = Field(default=None, gt=0, lt=1)  #: share held out as test where the source has none

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class Limit(Model):
    """At most this many images of train and of test (class-balanced, the same ones every time)."""

    train: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)


class DataSpec(Model):
    """Images to pretrain on and images to judge on; one source plays both roles unless two are given."""

    pretrain: SourceSpec
    evaluate: tuple[SourceSpec, ...]
    size: int | None = Field(default=None, ge=8, le=1024)  #: side in pixels; None: the source's own
    fit: Literal["crop", "pad", "squash"] = "crop"  #: how a non-square image becomes square
    range: Literal["full", "set"] = "full"  #: of images of 16 bits a channel or more: what their format can hold, or what the source's training images use
    skip_unreadable: bool = False  #: leave unreadable images out and count them, instead of stopping
    limit: Limit = Limit()

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"source": value}
        if not isinstance(value, Mapping):
            return value
        value = dict(value)
        own = {key: value.pop(key) for key in ("source", "labels", "image", "target", "group", "layout", "test") if key in value}
        if own:
            if "pretrain" in value or "evaluate" in value:
                raise ValueError("data has both `source` and `pretrain`/`evaluate`; give one of the two forms")
            value |= {"pretrain": own, "evaluate": [own]}
        elif "pretrain" in value and "evaluate" not in value:
            value["evaluate"] = [value["pretrain"]]
        elif "evaluate" in value and "pretrain" not in value:
            raise ValueError("data.evaluate is given without data.pretrain; name the images to pretrain on")
        if isinstance(value.get("evaluate"), (str, Mapping)):
            value["evaluate"] = [value["evaluate"]]
        if isinstance(value.get("limit"), int):
            value["limit"] = {"train": value["limit"], "test": value["limit"]}
        return value


class PretrainSpec(Model):
    """The budget every row gets, and settings that hold for all rows unless a task says otherwise."""

    epochs: float | None = Field(default=None, gt=0)
    images: int | None = Field(default=None, ge=1)  #: images seen, instead of epochs
    passes: int | None = Field(default=None, ge=1)  #: network passes, instead of epochs: tasks that show the network an image more often see fewer
    preset: Literal["auto", "short", "paper"] = "auto"
    batch_size: int | None = Field(default=None, ge=1)  #: for every task that names none itself
    checkpoint_seconds: float = Field(default=120.0, gt=0)  #: does not enter a cell's id
    monitor: int = Field(default=10, ge=0)  #: validation kNN looks a run; does not enter a cell's id

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainSpec:
        if [self.epochs, self.images, self.passes].count(None) != 2:
            raise ValueError("pretrain needs exactly one of `epochs`, `images` and `passes`")
        return self


class TaskSpec(Model):
    """A row: a task, its options and recipe settings as written, and the name the row is shown under."""

    task: str
    #: task options and recipe settings together, or apart below ``options`` and ``recipe``; validated against the task
    options: dict[str, Any] = {}
    row: str

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        value = _with_own(_named(value, "task"), "row")
        if "recipe" in value:  # of the long form, where it stands beside the options
            options = dict(value.get("options") or {})
            if "recipe" in options:
                raise ValueError(f"task {value.get('task')!r}: recipe is given twice, beside the options and among them; keep one")
            value = {**{key: inner for key, inner in value.items() if key != "recipe"}, "options": {**options, "recipe": value["recipe"]}}
        return {"row": value.get("task"), **value}

    @field_validator("row")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value or not value.isprintable() or "/" in value:
            raise ValueError("a row's name is printable text without slashes (they separate RUN/ROW/SEED)")
        return value


class EvaluatorSpec(Model):
    """An evaluator and its options as written, validated against the evaluator; and the seeds it judges, where it is too dear for all."""

    evaluator: str
    options: dict[str, Any] = {}
    seeds: tuple[int, ...] | None = None  #: some of the matrix's; None: all of them

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return _with_own(_named(value, "evaluator"), "seeds")


def _weights_row(value: Any) -> Any:
    if isinstance(value, TaskSpec) or (isinstance(value, Mapping) and "task" in value):
        return value
    options = {"source": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    if not isinstance(options.get("source"), str):
        raise ValueError(f"{value!r} names no weights; write timm:NAME, file:PATH, or {{source: ..., row: ...}}")
    source = str(options["source"])
    if ":" not in source and ("/" in source or source.endswith(".safetensors")):  # else its slashes would be refused, as those of a row's name
        raise ValueError(f"{source!r} is neither timm:NAME nor file:PATH; did you mean {f'file:{source}'!r}?")
    path = PurePath(source.removeprefix("file:"))
    own = path.name == "backbone.safetensors" and len(path.parts) >= 3  # of a cell: ROW/SEED-ID tells it apart
    short = f"file:{' '.join(path.parts[-3:-1]) if own else path.stem}" if source.startswith("file:") else source
    return {"task": "weights", "row": options.pop("row", short), "options": options}


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
            raise ValueError(f"{kind} {name!r} is followed by {options!r}; options are written as {{option: value}}")
        return {kind: name, "options": dict(options or {})}
    raise ValueError(f"{value!r} names no {kind}; write its name, or {{name: {{option: value}}}}")


class Matrix(Model):
    """A benchmark: (tasks + baselines) x seeds, pretrained alike, each judged by every evaluator."""

    name: str = Field(min_length=1)
    data: DataSpec
    backbone: BackboneSpec = BackboneSpec()
    seeds: tuple[int, ...] = (0,)
    pretrain: PretrainSpec
    tasks: tuple[TaskSpec, ...] = ()
    baselines: tuple[TaskSpec, ...] = tuple(TaskSpec(task=name, row=name) for name in BASELINES)
    weights: tuple[TaskSpec, ...] = ()  #: pretrained elsewhere: timm:NAME or file:PATH, judged as they come
    evaluate: tuple[EvaluatorSpec, ...] = Field(min_length=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    stage_values: int | None = Field(default=None, ge=16)  #: a stage is averaged to at most so many values for probes; None: 2,048 on a CPU, 9,000 elsewhere

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value in (".", "..") or any(c in value for c in "/\\\0") or not value.isprintable():
            raise ValueError("a matrix's name becomes a folder's; leave out slashes and control characters")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        """`timm:NAME`, `file:PATH` or {source: ..., row: ..., size: ...} as rows of the task ``weights``."""
        if isinstance(value, (str, Mapping)):
            value = [value]
        return [_weights_row(one) for one in value] if isinstance(value, (list, tuple)) else value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            raise ValueError("seeds are one or more different numbers from 0 up")
        return value

    @model_validator(mode="after")
    def _rows_differ(self) -> Matrix:
        rows = [spec.row for spec in (*self.tasks, *self.baselines, *self.weights)]
        for row in rows:
            if rows.count(row) > 1:
                raise ValueError(f"two rows are called {row!r}; give one of them another `row:`")
        names = [repr(spec.model_dump(exclude={"seeds"})) for spec in self.evaluate]
        if len(set(names)) != len(names):
            raise ValueError("the same evaluator is listed twice with the same options")
        for spec in self.evaluate:
            if spec.seeds is not None and (not spec.seeds or set(spec.seeds) - set(self.seeds)):
                raise ValueError(f"evaluator {spec.evaluator!r}: seeds {list(spec.seeds)} are not all among the matrix's, {list(self.seeds)}")
        return self
