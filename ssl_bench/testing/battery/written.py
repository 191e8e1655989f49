"""Checks of what a task's author wrote down: docstrings and options."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize

from pydantic import BaseModel

from ssl_bench.errors import SSLBenchError
from ssl_bench.records.schema import digest
from ssl_bench.spec.model import parse
from ssl_bench.testing.battery.bench import Bench, CheckFailed


def documented(bench: Bench) -> str:
    """The class has a docstring of its own, and every option says what it does."""
    if not (vars(bench.task).get("__doc__") or "").strip():
        raise CheckFailed(
            f"{bench.task.__name__} has no docstring; say in one line what it asks of an image, and name the paper"
        )
    model = bench.task.Options
    said = _commented(model) | {name for name, field in model.model_fields.items() if field.description}
    silent = [name for name in model.model_fields if name not in said]
    if silent:
        raise CheckFailed(
            f"option {silent[0]!r} says nowhere what it does; write `{silent[0]}: ... = ...  #: what it does`, or "
            "Field(description=...)"
        )
    return f"{len(model.model_fields)} options"


def _commented(model: type[BaseModel]) -> set[str]:
    """Fields with a ``#:`` comment on their own lines or right above, as Sphinx reads them."""
    commented: set[str] = set()
    for owner in model.__mro__:
        if not (issubclass(owner, BaseModel) and owner is not BaseModel):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        notes = {token.start[0] for token in tokens if token.type == tokenize.COMMENT and token.string.startswith("#:")}
        alone = {line for line in notes if source.splitlines()[line - 1].lstrip().startswith("#:")}
        body = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                if lines & notes or node.lineno - 1 in alone:
                    commented.add(node.target.id)
    return commented


def options(bench: Bench) -> str:
    """The options have defaults, and survive JSON, which is how they enter a cell's id and its record."""
    try:
        given = bench.options
    except SSLBenchError as error:
        raise CheckFailed(
            f"the options cannot be made: {error}; give every option a default, or pass options={{...}}"
        ) from None
    try:
        text = json.dumps(given.model_dump(mode="json"), allow_nan=False)
        digest(json.loads(text))
        again = parse(bench.task.Options, json.loads(text), "options read back")
    except (SSLBenchError, TypeError, ValueError) as error:
        raise CheckFailed(
            f"the options do not survive JSON ({error}); use numbers, strings, booleans, tuples and models of these"
        ) from None
    if again != given:
        raise CheckFailed(
            f"the options read back from JSON differ: {again!r}, not {given!r}; a validator that changes its own "
            "output cannot enter an id"
        )
    return ", ".join(f"{name}={value!r}" for name, value in given) or "none"
