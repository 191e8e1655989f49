"""What a setting may be, in plain words, from its type and bounds; plain data from whatever Python gives; values that
only look like what is asked."""

from __future__ import annotations

import enum
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ErrorType

from ssl_bench.errors import SpecError, did_you_mean, quoted

DEEPEST, MOST_VALUES = 32, 100_000  # of plain data; far beyond any matrix, and checked in a tenth of a second
LONGEST_TEXT = 4_096  # characters of a text, a path's on most systems
SWITCHES = ("yes", "no", "on", "off")  # what YAML 1.1 takes for true and false, and YAML 1.2 for text
MOST_PROBLEMS = 20  # told at once
_KNOWN_ERRORS = set(get_args(ErrorType)) - {"value_error", "assertion_error"}


@dataclass(frozen=True)
class Kind:
    """One of the forms that a setting may have: a type without alternatives, with its bounds."""

    type: Any  #: int, float, bool, str, type(None), Any, tuple, dict, a model, or another class
    bounds: Mapping[str, Any]  #: ge, gt, le, lt, min_length, max_length, as far as they are set
    items: tuple[Any, ...] = ()  #: annotations of a tuple's or list's entries; one that ends in ... holds for all
    values: tuple[Any, ...] = ()  #: of a Literal or an enum


def kinds(annotation: Any, metadata: Iterable[Any] = ()) -> list[Kind]:
    """The forms that an annotation allows, alternatives apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *nearer = get_args(annotation)
        return kinds(inner, [*nearer, *metadata])
    if origin in (Union, types.UnionType):
        return [kind for alternative in get_args(annotation) for kind in kinds(alternative, metadata)]
    bounds = _bounds(metadata)
    if origin is Literal:
        return [Kind(Literal, bounds, values=get_args(annotation))]
    if origin in (tuple, list, set, frozenset, Sequence):
        return [Kind(tuple, bounds, items=get_args(annotation) if origin is tuple else (*get_args(annotation), ...))]
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return [Kind(dict, bounds, items=get_args(annotation)[1:])]
    if annotation in (tuple, list):
        return [Kind(tuple, bounds, items=(Any, ...))]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [Kind(Literal, bounds, values=tuple(member.value for member in annotation))]
    return [Kind(annotation, bounds)]


def _bounds(metadata: Iterable[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            bounds |= _bounds(entry.metadata)
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if isinstance(entry, annotated_types.BaseMetadata) and getattr(entry, name, None) is not None:
                bounds[name] = getattr(entry, name)
    return bounds


def _keys(model: type[BaseModel]) -> list[str]:
    return [*getattr(model, "also_taken", ()), *model.model_fields]


def item_of(kind: Kind, place: int) -> Any:
    """The annotation of a list's entry; None where there is none."""
    if kind.type is not tuple or not kind.items:
        return None
    if kind.items[-1] is ...:
        return kind.items[0]
    return kind.items[place] if place < len(kind.items) else None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field holds by itself, not in a list."""
    return [kind.type for kind in kinds(annotation) if isinstance(kind.type, type) and issubclass(kind.type, BaseModel)]


# ---- in words
# ----------------------------------------------------------------------------------------------------------------------


def allowed(annotation: Any, metadata: Iterable[Any] = (), lengths: bool = False) -> str:
    """ "a whole number from 1 to 1,024"; "" for a type that has no plain name.

    ``lengths``: whether texts and lists come with how long they may be. That a setting may be null is not told: that is
    how it is left out.
    """
    forms = kinds(annotation, metadata)
    words = [_words(kind, lengths) for kind in forms if kind.type is not type(None) or len(forms) == 1]
    if not all(words):
        return ""
    *most, last = dict.fromkeys(words)
    return (
        f"{', '.join(most)}{',' if len(most) > 1 or any(' ' in form for form in most) else ''} or {last}"
        if most
        else last
    )


def _words(kind: Kind, lengths: bool) -> str:
    if kind.type is Literal:
        *most, last = [quoted(value) for value in kind.values]
        return f"{', '.join(most)} or {last}" if most else last
    if kind.type is tuple:
        return _list_words(kind, lengths)
    if kind.type is dict:
        return "options, written {option: value}"
    if isinstance(kind.type, type) and issubclass(kind.type, BaseModel):
        short = getattr(kind.type, "short_form", "")
        return (
            f"{short + ', or ' if short else ''}settings, written {{key: value}}, with the keys "
            f"{', '.join(_keys(kind.type))}"
        )
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if kind.type not in names:
        return "a path" if isinstance(kind.type, type) and issubclass(kind.type, os.PathLike) else ""
    if kind.type is str:
        return "text" + (_length(kind.bounds, "of", "character", "characters") if lengths else "")
    return names[kind.type] + (_range(kind.bounds) if kind.type in (int, float) else "")


def _list_words(kind: Kind, lengths: bool) -> str:
    several = kind.items and kind.items[-1] is ...
    entries = kinds(kind.items[0]) if kind.items else []
    model = next((entry.type for entry in entries if hasattr(entry.type, "many")), None)
    if model is not None:
        what = model.many
    elif len(entries) == 1 and entries[0].type in (int, float):
        what = ("whole numbers" if entries[0].type is int else "numbers") + _range(entries[0].bounds)
    else:
        what = "texts" if len(entries) == 1 and entries[0].type is str else "values"
    if not several:
        return f"a list of {len(kind.items)} {what}"
    return f"a list of {what}{_length(kind.bounds, 'with', 'entry', 'entries') if lengths else ''}"


def _range(bounds: Mapping[str, Any]) -> str:
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    beyond = "above" if "gt" in bounds else "from"
    if low is None and high is None:
        return ""
    if high is None:
        return f" above {_number(low)}" if "gt" in bounds else f" from {_number(low)} up"
    if low is None:
        return f" up to {_number(high)}" if "le" in bounds else f" below {_number(high)}"
    if "lt" in bounds:
        return (
            f" {beyond} {_number(low)} and below {_number(high)}"
            if "gt" in bounds
            else f" from {_number(low)} to below {_number(high)}"
        )
    return (
        f" above {_number(low)} and up to {_number(high)}"
        if "gt" in bounds
        else f" from {_number(low)} to {_number(high)}"
    )


def _length(bounds: Mapping[str, Any], before: str, singular: str, plural: str) -> str:
    low, high = bounds.get("min_length", 0), bounds.get("max_length")
    if low and high:
        return f" {before} {low} to {high:,} {plural}"
    if high:
        return f" {before} at most {high:,} {plural}"
    return f" {before} at least {low} {singular if low == 1 else plural}" if low else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) else f"{value:g}"


# ---- from Python, and from YAML's look-alikes
# -----------------------------------------------------------------------------------------


def plain(value: Any, where: str) -> Any:
    """A value in plain data: NumPy's numbers and arrays as Python's, paths as text, ranges as lists. What is none of
    these stays as it is.

    Raises
    ------
    SpecError : nested deeper than ``DEEPEST``, or more than ``MOST_VALUES`` values, as aliases of aliases make.
    """
    return _plain(value, where, 0, [0])


def _plain(value: Any, where: str, depth: int, count: list[int]) -> Any:
    count[0] += 1
    if depth > DEEPEST:
        raise SpecError(f"{where}: nested more than {DEEPEST} deep; no setting is")
    if count[0] > MOST_VALUES:
        raise SpecError(
            f"{where}: more than {MOST_VALUES:,} values (aliases count each time that they are used); no matrix "
            "needs so many"
        )
    if isinstance(value, (str, bytes, int, float, BaseModel, type, type(None))) and type(value).__module__ != "numpy":
        return value
    if isinstance(value, Mapping):
        return {key: _plain(entry, where, depth + 1, count) for key, entry in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # an array, a tensor, a scalar of either
    if callable(getattr(value, "tolist", None)) and isinstance(getattr(value, "ndim", None), int):
        return (
            _plain(value.tolist(), where, depth + 1, count)
            if getattr(value, "nbytes", 0) <= 16 * MOST_VALUES
            else value
        )
    if isinstance(value, (list, tuple, range)):
        if len(value) > MOST_VALUES:
            raise SpecError(f"{where}: a list of {len(value):,} values; no matrix needs more than {MOST_VALUES:,}")
        entries = [_plain(entry, where, depth + 1, count) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    return value


def refuse_disguised(value: Any, annotation: Any) -> None:
    """Refuse what would be taken silently for something else: true for 1, text in quotes for a number, 0 and 1 for a
    switch; control characters.

    Raises
    ------
    PydanticCustomError : of type "disguised", with the reason.
    """
    forms = kinds(annotation)
    plain_types = {kind.type for kind in forms}
    numbers = plain_types & {int, float}
    if isinstance(value, str):
        _refuse_text(value)
    if not plain_types <= {int, float, bool, str, type(None), Literal, tuple}:
        return  # a type of a plugin's own, which may take anything
    literals = {literal for kind in forms for literal in kind.values}
    if isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            for kind in forms:
                if (inner := item_of(kind, place)) is not None:
                    refuse_disguised(entry, inner)
    elif isinstance(value, bool):
        if bool not in plain_types and not any(literal is value for literal in literals):
            raise PydanticCustomError(
                "disguised",
                "{reason}",
                {"reason": f"{quoted(value)} is a switch" + (", not a number" if numbers else "")},
            )
    elif isinstance(value, str) and str not in plain_types and value not in literals:
        if not (bool in plain_types and value.lower() in (*SWITCHES, "true", "false")):
            raise PydanticCustomError(
                "disguised", "{reason}", {"reason": _text_for_number(value) if numbers or tuple in plain_types else ""}
            )
    elif isinstance(value, (bytes, bytearray)) or (
        isinstance(value, (int, float)) and bool in plain_types and not numbers
    ):
        raise PydanticCustomError("disguised", "{reason}", {"reason": ""})


def _refuse_text(value: str) -> None:
    if len(value) > LONGEST_TEXT:
        raise PydanticCustomError("long_text", f"must have at most {LONGEST_TEXT:,} characters, got {len(value):,}")
    odd = next((c for c in value if ord(c) < 32 or 127 <= ord(c) < 160), None)
    if odd is not None:
        raise PydanticCustomError("control", f"holds the control character {ascii(odd)}; leave it out")
    if any(0xD800 <= ord(c) < 0xE000 for c in value):
        raise PydanticCustomError("surrogate", "holds bytes that are no text in UTF-8")


def _text_for_number(text: str) -> str:
    """Why a text is no number, where it looks like one."""
    stripped = text.strip()
    if re.fullmatch(r"[-+]?0[0-9_]+", stripped):
        digits = stripped.lstrip("+-0_") or "0"
        return f"a number with a leading zero is octal to some readers of YAML and decimal to others; write {digits}"
    if re.fullmatch(r"[-+]?0[xob][0-9a-fA-F_]+", stripped):
        return "numbers are written in decimals"
    if re.fullmatch(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?", stripped):
        return "some readers of YAML take numbers with colons for minutes and seconds; write it as one number"
    if re.fullmatch(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?", stripped):
        return f"write {stripped.replace(',', '_')} or {stripped.replace(',', '')}"
    if len(stripped) < 40 and re.fullmatch(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?", stripped):
        return f"in quotes it is text; write {stripped}"
    return ""


# ---- errors
# --------------------------------------------------------------------------------------------------------------------------


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
        parts, annotation, _ = _place(model, loc[:-1])
        key = str(loc[-1])
        path = (*_as_written(parts, value), key)
        shown = quoted(".".join(path))
        if kind == "missing":
            return path, f"{shown} is missing"
        known = [name for owner in models_in(annotation) for name in _keys(owner)]
        return path, f"unknown key {shown}; {did_you_mean(key, known)}"
    parts, annotation, metadata = _place(model, loc)
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


def _place(model: type[BaseModel], loc: Sequence[Any]) -> tuple[list[str], Any, Sequence[Any]]:
    """Where a location of pydantic's lies among the fields, without the names that it gives to alternatives; the type
    and bounds there."""
    parts: list[str] = []
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in loc:
        owner = next((candidate for candidate in models_in(annotation) if part in candidate.model_fields), None)
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
            field = owner.model_fields[part]
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
