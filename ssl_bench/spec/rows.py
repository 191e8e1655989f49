"""The rows and evaluators of a matrix, as a user writes them: `name`, `{name: {option: value}}` or the long form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from ssl_bench.errors import quoted
from ssl_bench.spec.model import LONGEST_NAME, MOST_SEEDS, Model, Seed


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
        value = _with_own(_long_form(value, "task"), "row")
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
        return _with_own(_long_form(value, "evaluator"), "seeds")


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


def _long_form(value: Any, kind: str) -> dict[str, Any]:
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
