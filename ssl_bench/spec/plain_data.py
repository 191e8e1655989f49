"""Plain data from whatever Python gives; values that only look like what is asked are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from ssl_bench.errors import SpecError, quoted
from ssl_bench.spec.wording import item_of, kinds

DEEPEST, MOST_VALUES = 32, 100_000  # of plain data; far beyond any matrix, and checked in a tenth of a second
LONGEST_TEXT = 4_096  # characters of a text, a path's on most systems
SWITCHES = ("yes", "no", "on", "off")  # what YAML 1.1 takes for true and false, and YAML 1.2 for text


def as_plain_data(value: Any, where: str) -> Any:
    """A value in plain data: NumPy's numbers and arrays as Python's, paths as text, ranges as lists. What is none of
    these stays as it is.

    Raises
    ------
    SpecError : nested deeper than ``DEEPEST``, or more than ``MOST_VALUES`` values, as aliases of aliases make.
    """
    return _plain_value(value, where, 0, [0])


def _plain_value(value: Any, where: str, depth: int, count: list[int]) -> Any:
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
        return {key: _plain_value(entry, where, depth + 1, count) for key, entry in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # an array, a tensor, a scalar of either
    if callable(getattr(value, "tolist", None)) and isinstance(getattr(value, "ndim", None), int):
        return (
            _plain_value(value.tolist(), where, depth + 1, count)
            if getattr(value, "nbytes", 0) <= 16 * MOST_VALUES
            else value
        )
    if isinstance(value, (list, tuple, range)):
        if len(value) > MOST_VALUES:
            raise SpecError(f"{where}: a list of {len(value):,} values; no matrix needs more than {MOST_VALUES:,}")
        entries = [_plain_value(entry, where, depth + 1, count) for entry in value]
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
