"""What a user writes: a matrix, whose parts are a module each. Unknown keys are refused with the
nearest known one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssl_bench.errors import quoted
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import (
    LONGEST_FILE_NAME,
    LONGEST_NAME,
    MOST_BATCH,
    MOST_CELLS,
    MOST_IMAGES,
    MOST_ROWS,
    MOST_SEEDS,
    Model,
    Seed,
)
from ssl_bench.spec.rows import EvaluatorSpec, TaskSpec, weights_row

BASELINES = ("random", "pixels", "pca", "supervised")


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


class PretrainSpec(Model):
    """The budget every row gets, and settings that hold for all rows unless a task says otherwise.

    ``{epochs: 1, schedule_epochs: 200}`` trains the first epoch of a run of 200: the preset, the learning rate with its
    warm-up, and all that follows the progress of a run (weight decay, momentum, temperature) are that run's.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"schedule_epochs", "probes"})

    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    images: int | None = Field(default=None, ge=1, le=MOST_IMAGES)  #: images seen, instead of epochs
    #: network passes, instead of epochs: tasks that show the network an image more often see fewer
    passes: int | None = Field(default=None, ge=1, le=MOST_IMAGES)
    #: whose schedules are followed, while the budget says where they are cut; None: they end with the budget
    schedule_epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    preset: Literal["auto", "short", "paper"] = "auto"
    batch_size: int | None = Field(default=None, ge=1, le=MOST_BATCH)  #: for every task that names none itself
    checkpoint_seconds: float = Field(default=120.0, gt=0, le=1_000_000)  #: does not enter a cell's id
    #: looks at the features a run: validation kNN, rank, alignment ...; does not enter a cell's id
    monitor: int = Field(default=10, ge=0, le=10_000)
    #: linear probes on validation along a run, for its curve alone; does not enter a cell's id
    probes: int = Field(default=0, ge=0, le=1_000)

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainSpec:
        if [self.epochs, self.images, self.passes].count(None) != 2:
            raise ValueError("needs exactly one of `epochs`, `images` and `passes`")
        if self.schedule_epochs is not None and self.epochs is not None and self.schedule_epochs < self.epochs:
            raise ValueError(
                f"schedule_epochs must be at least {self.epochs:g} (epochs), got {self.schedule_epochs:g}: a schedule "
                "is cut short, not drawn out"
            )
        return self


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
                    f"{_row_named(parts, row)}"
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


def _row_named(parts: Mapping[str, tuple[TaskSpec, ...]], row: str) -> str:
    task = next(spec.task for specs in parts.values() for spec in specs if spec.row == row)
    return "{source: ..., row: NAME}" if task == "weights" else f"{{{task}: {{row: NAME}}}}"
