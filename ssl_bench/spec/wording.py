"""What a setting may be, in plain words, from its type and bounds."""

from __future__ import annotations

import enum
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssl_bench.errors import quoted


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
    bounds = _bounds_in(metadata)
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


def _bounds_in(metadata: Iterable[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            bounds |= _bounds_in(entry.metadata)
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if isinstance(entry, annotated_types.BaseMetadata) and getattr(entry, name, None) is not None:
                bounds[name] = getattr(entry, name)
    return bounds


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a model takes."""
    return [*getattr(model, "also_taken", ()), *fields_of(model)]


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model, and those that plugins add to it."""
    return {**model.model_fields, **getattr(model, "more_fields", dict)()}


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


def allowed(annotation: Any, metadata: Iterable[Any] = (), lengths: bool = False) -> str:
    """ "a whole number from 1 to 1,024"; "" for a type that has no plain name.

    ``lengths``: whether texts and lists come with how long they may be. That a setting may be null is not told: that is
    how it is left out.
    """
    forms = kinds(annotation, metadata)
    words = [_kind_words(kind, lengths) for kind in forms if kind.type is not type(None) or len(forms) == 1]
    if not all(words):
        return ""
    *most, last = dict.fromkeys(words)
    return (
        f"{', '.join(most)}{',' if len(most) > 1 or any(' ' in form for form in most) else ''} or {last}"
        if most
        else last
    )


def _kind_words(kind: Kind, lengths: bool) -> str:
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
            f"{', '.join(keys_of(kind.type))}"
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
        return f" above {_number_words(low)}" if "gt" in bounds else f" from {_number_words(low)} up"
    if low is None:
        return f" up to {_number_words(high)}" if "le" in bounds else f" below {_number_words(high)}"
    if "lt" in bounds:
        return (
            f" {beyond} {_number_words(low)} and below {_number_words(high)}"
            if "gt" in bounds
            else f" from {_number_words(low)} to below {_number_words(high)}"
        )
    return (
        f" above {_number_words(low)} and up to {_number_words(high)}"
        if "gt" in bounds
        else f" from {_number_words(low)} to {_number_words(high)}"
    )


def _length(bounds: Mapping[str, Any], before: str, singular: str, plural: str) -> str:
    low, high = bounds.get("min_length", 0), bounds.get("max_length")
    if low and high:
        return f" {before} {low} to {high:,} {plural}"
    if high:
        return f" {before} at most {high:,} {plural}"
    return f" {before} at least {low} {singular if low == 1 else plural}" if low else ""


def _number_words(value: float) -> str:
    return f"{int(value):,}" if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) else f"{value:g}"
