"""What is wrong with settings, in plain words: the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core.core_schema import ErrorType

from ssl_bench.errors import did_you_mean, quoted
from ssl_bench.spec.wording import allowed, fields_of, item_of, keys_of, kinds, models_in

MOST_PROBLEMS = 20  # told at once
_KNOWN_ERRORS = set(get_args(ErrorType)) - {"value_error", "assertion_error"}


def explained(model: type[BaseModel], problems: Sequence[Any], value: Any, where: str) -> str:
    """A line for every problem that pydantic found in ``value``: the key, the value, and what is allowed."""
    told: dict[tuple[str, ...], str] = {}
    for problem in problems:
        path, line = _explained(model, problem, value)
        # of several alternatives that all fail, what the setting may be is told once
        if not any(path[: len(other)] == other for other in told):
            told[path] = f"{where}: {line}"
    lines = list(dict.fromkeys(told.values()))
    rest = len(lines) - MOST_PROBLEMS
    return "\n".join(lines[:MOST_PROBLEMS] + ([f"{where}: and {rest:,} more"] if rest > 0 else []))


def _explained(model: type[BaseModel], problem: Any, value: Any) -> tuple[tuple[str, ...], str]:
    loc, kind = tuple(problem["loc"]), problem["type"]
    if kind in ("extra_forbidden", "missing", "invalid_key"):
        parts, annotation, _ = _field_at(model, loc[:-1])
        key = str(loc[-1])
        path = (*_as_written(parts, value), key)
        shown = quoted(".".join(path))
        if kind == "missing":
            return path, f"{shown} is missing"
        known = [name for owner in models_in(annotation) for name in keys_of(owner)]
        return path, f"unknown key {shown}; {did_you_mean(key, known)}"
    parts, annotation, metadata = _field_at(model, loc)
    path = _as_written(parts, value)
    if loc and loc[-1] == "[key]":
        return (
            path,
            f"{'.'.join(path)}: {quoted(problem['input'])} stands where an option's name should; put it in quotes "
            "if it is one",
        )
    may_be = allowed(annotation, metadata, lengths=kind.endswith(("too_short", "too_long")))
    if kind == "disguised":
        reason = problem["ctx"]["reason"] or _as_list(problem["input"], annotation, metadata)
        message = f"should be {may_be}{'; ' if reason else ''}{reason}"
    elif may_be and (kind in _KNOWN_ERRORS or "<class" in problem["msg"]):
        message = (
            f"should be {may_be}"
            if kind != "finite_number"
            else f"should be {may_be.replace('a number', 'a finite number')}"
        )
        hint = _as_list(problem["input"], annotation, metadata)
        message += f"; {hint}" if hint else ""
    else:
        text = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        message = (
            text.replace("Input should be", "should be")
            .replace("Input ", "it ")
            .replace("dictionary", "set of {key: value}")
        )
    if not path:
        return path, f"is {quoted(problem['input'])}, and {message}" if kind in _KNOWN_ERRORS else message
    return path, f"{'.'.join(path)} = {quoted(problem['input'])}: {message}"


def _as_list(value: Any, annotation: Any, metadata: Iterable[Any]) -> str:
    """What to write where a single value stands for a list."""
    lists = [kind for kind in kinds(annotation, metadata) if kind.type is tuple and kind.items[-1:] == (...,)]
    if not lists or not isinstance(value, (str, int, float, Mapping)) or isinstance(value, bool):
        return ""
    rows = any(hasattr(model, "many") for model in models_in(lists[0].items[0]))
    if isinstance(value, Mapping):
        return "begin each with a dash" if rows else ""
    return f"write [{value}]" if rows or not isinstance(value, str) else ""


def _field_at(model: type[BaseModel], loc: Sequence[Any]) -> tuple[list[str], Any, Sequence[Any]]:
    """Where a location of pydantic's lies among the fields, without the names that it gives to alternatives; the type
    and bounds there."""
    parts: list[str] = []
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in loc:
        owner = next((candidate for candidate in models_in(annotation) if part in fields_of(candidate)), None)
        inner = next(
            (
                entry
                for kind in kinds(annotation)
                if isinstance(part, int) and (entry := item_of(kind, part)) is not None
            ),
            None,
        )
        holds = next(
            (kind.items[0] for kind in kinds(annotation) if kind.type is dict and kind.items and part != "[key]"), None
        )
        if owner is not None:
            field = fields_of(owner)[part]
            annotation, metadata = field.annotation, field.metadata
        elif inner is not None or holds is not None:
            annotation, metadata = inner if inner is not None else holds, ()
        else:
            continue
        parts.append(str(part))
    return parts, annotation, metadata


def _as_written(parts: Sequence[str], value: Any) -> tuple[str, ...]:
    """A path without the parts that short forms leave out: `data.test` is `data.pretrain.test` of the long form."""
    path: list[str] = []
    here = value
    for number, part in enumerate(parts):
        if here is not None and not isinstance(here, (Mapping, list, tuple, BaseModel)):
            break  # a short form, written as one value
        if isinstance(here, Mapping):
            if part not in here and any(later in here for later in parts[number + 1 :]):
                continue
            here = here.get(part)
        elif isinstance(here, (list, tuple)) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        path.append(part)
    return tuple(path)
