"""The base of everything a user writes: plain data checked against types and bounds, with errors in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from ssl_bench.errors import SpecError, quoted
from ssl_bench.spec.plain_data import as_plain_data, refuse_disguised
from ssl_bench.spec.problems import explained

# Bounds that no study needs to pass, so that a slip of the keyboard is told and not computed.
MOST_IMAGES = 10**12  # seen in a run
MOST_IN_SET = 10**9  # images of a set
MOST_BATCH = 10**6
MOST_ROWS, MOST_SEEDS, MOST_CELLS = 1_000, 1_000, 100_000
MOST_SIDE = 4_096  # pixels
MOST_PAD = 256  # pixels on every side of a training image
MOST_WIDE = 65_536  # values of a layer, a code or a projection
# characters, and bytes: a file's name has at most 255, of which some are needed for more
LONGEST_NAME, LONGEST_FILE_NAME = 100, 200

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Field(gt=0, le=1_000_000)]  #: a learning rate
Share = Annotated[float, Field(gt=0, lt=1)]


class Model(BaseModel):
    """Base of everything a user writes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    #: fields that came later: at their defaults they are left out of ids and dumps, so that earlier records keep theirs
    LATER: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _what_it_is(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name is not None:
            refuse_disguised(value, cls.model_fields[info.field_name].annotation)
        return value

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        at_default = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in values.items() if name not in at_default} if at_default else values


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any, where: str) -> M:
    """``model`` from plain data; a SpecError names every wrong key and value, and what would be allowed."""
    value = as_plain_data(value, where)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # What is wrong inside of a list also leaves it too short: told is the cause.
        causes = [
            problem
            for problem in problems
            if not any(problem["loc"] == other["loc"][: len(problem["loc"])] != other["loc"] for other in problems)
        ]
        raise SpecError(explained(model, causes, value, where)) from None


def refuse_idle(model: BaseModel, names: Iterable[str], needed: str) -> None:
    """Raise ValueError for a setting that was written and changes nothing, because ``needed`` is not so.

    Where every field is set, the model was read back from a dump, which does not tell what was written: a default is
    let pass there.
    """
    fields = type(model).model_fields
    whole = model.model_fields_set >= set(fields) - getattr(type(model), "LATER", frozenset())
    for name in names:
        if name in model.model_fields_set and not (whole and getattr(model, name) == fields[name].default):
            raise idle(name, model, needed)


def idle(name: str, model: BaseModel, needed: str) -> ValueError:
    """The error for a setting ``name`` that changes nothing, because it is one of ``needed``."""
    return ValueError(
        f"{name} = {quoted(getattr(model, name))} changes nothing: it is a setting of {needed}; leave it out"
    )
