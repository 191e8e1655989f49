"""From what a user types to a matrix: YAML files, and ``key.path=value`` settings on top of them."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_bench.errors import SpecError, did_you_mean, quoted
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.plain_data import as_plain_data
from ssl_bench.spec.rows import TaskSpec, weights_row
from ssl_bench.spec.yaml_text import LONGEST, read_yaml

ROW_LISTS = ("tasks", "baselines", "weights")  # of a matrix
BUDGETS = ("epochs", "images", "passes")  # of which a matrix has one


def load_matrix(path: str | Path, sets: tuple[str, ...] = ()) -> Matrix:
    """A matrix from a YAML file, with ``key.path=value`` settings applied on top."""
    data = read_yaml(_matrix_text(Path(path)), str(path))
    if not isinstance(data, dict):
        what = "nothing" if data is None else "a list" if isinstance(data, list) else f"the single value {quoted(data)}"
        raise SpecError(
            f"{path} holds {what}, and should hold a matrix: key: value settings with the keys "
            f"{', '.join(Matrix.model_fields)}"
        )
    return parse(Matrix, with_settings(data, sets), str(path))


def missing_file(path: Path) -> str:
    """Why there is no file to read at ``path``; "" where there is one."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist" + ("; it is a link that points nowhere" if path.is_symlink() else "")
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return (
        ""
        if stat.S_ISREG(kind)
        else "is a folder; name a file in it"
        if stat.S_ISDIR(kind)
        else "is no file but a pipe, a socket or a device"
    )


def _matrix_text(file: Path) -> str:
    why = missing_file(file)
    if why:
        raise SpecError(f"matrix file {quoted(str(file))} {why}")
    try:
        with open(file, "rb") as opened:
            content = opened.read(4 * LONGEST + 1)
    except OSError as error:
        raise SpecError(f"matrix file {quoted(str(file))} cannot be read: {error.strerror or error}") from None
    if len(content) > 4 * LONGEST:
        raise SpecError(f"{file} holds {os.stat(file).st_size:,} bytes; a matrix has at most {LONGEST:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(
            f"{file}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file in that encoding"
        ) from None


def with_settings(data: Mapping[str, Any], sets: tuple[str, ...]) -> dict[str, Any]:
    """A matrix as written with ``key.path=value`` settings on top; the original stays as it was.

    A budget that is set (epochs, images or passes) takes the place of the one that is written; so does a row, wherever
    that stands in `tasks`, `baselines` or `weights`.
    """
    if isinstance(sets, str):
        sets = (sets,)
    settings = [_taken_apart(setting) for setting in sets]
    written: dict[str, Any] = copy.deepcopy(as_plain_data(data, "matrix"))
    if any(
        len(parts) == 2 and parts[0] == "pretrain" and parts[1] in BUDGETS for _, parts, _ in settings
    ) and isinstance(written.get("pretrain"), dict):
        for budget in BUDGETS:
            written["pretrain"].pop(budget, None)
    for setting, parts, value in settings:
        _apply(written, setting, parts, value)
    _give_way(written, [parts for _, parts, _ in settings])
    return written


def _give_way(written: dict[str, Any], keys: list[list[str]]) -> None:
    """Leave rows out of the lists that no setting gave where one that a setting gave, in another list, has their name.

    A row that is typed is meant; what a matrix lists by that name, such as the baseline `random`, would only refuse it.
    """
    lists = {part: rows for part in ROW_LISTS if isinstance(rows := written.get(part), (list, tuple))}
    whole = {parts[0] for parts in keys if len(parts) == 1}
    places = {(parts[0], int(parts[1])) for parts in keys if len(parts) > 1 and parts[0] in lists}
    given = {
        (part, at) for part, rows in lists.items() for at in range(len(rows)) if part in whole or (part, at) in places
    }
    names = {name: part for part, at in given if (name := _row_name(part, lists[part][at]))}
    for part, rows in lists.items():
        written[part] = [
            row for at, row in enumerate(rows) if (part, at) in given or names.get(_row_name(part, row), part) == part
        ]


def _row_name(part: str, written: Any) -> str:
    """The name of a row as it is written; "" where that is no row, which is told when the whole matrix is read."""
    try:
        return TaskSpec.model_validate(weights_row(written) if part == "weights" else written).row
    except ValueError:
        return ""


def _taken_apart(setting: Any) -> tuple[str, list[str], Any]:
    """(as a message shows it, key path, value) of ``key.path=value``."""
    shown = f"--set {quoted(setting)}"
    key, equals, text = setting.partition("=") if isinstance(setting, str) else ("", "", "")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise SpecError(f"{shown}: write key=value, such as pretrain.epochs=8")
    if parts[0] not in Matrix.model_fields:
        raise SpecError(f"{shown}: unknown key {quoted(parts[0])}; {did_you_mean(parts[0], Matrix.model_fields)}")
    return shown, parts, read_yaml(text, shown)


def _apply(data: dict[str, Any], shown: str, parts: list[str], value: Any) -> None:
    here: Any = data
    for at, part in enumerate(parts[:-1]):
        inner = here[_list_index(here, part, shown, parts[:at])] if isinstance(here, list) else here.get(part)
        if isinstance(inner, str) and at == 0 and part in ("backbone", "data"):
            inner = {"name" if part == "backbone" else "source": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, (dict, list, tuple)):
            remedy = (
                f"; write {{{inner}: {{{parts[at + 1]}: ...}}}} in its place"
                if isinstance(inner, str) and isinstance(here, list)
                else ""
            )
            raise SpecError(
                f"{shown}: {'.'.join(parts[: at + 1])} is {quoted(inner)}, which has no key "
                f"{quoted(parts[at + 1])}{remedy}"
            )
        inner = dict(inner) if isinstance(inner, dict) else list(inner)
        here[int(part) if isinstance(here, list) else part] = inner
        here = inner
    if isinstance(here, list):
        here[_list_index(here, parts[-1], shown, parts[:-1])] = value
    else:
        here[parts[-1]] = value


def _list_index(entries: list[Any], part: str, shown: str, above: list[str]) -> int:
    if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(entries)):
        counted = f"its places are 0 to {len(entries) - 1}" if entries else "it is empty"
        raise SpecError(f"{shown}: {'.'.join(above)} is a list, and {quoted(part)} is no place in it; {counted}")
    return int(part)
