"""From what a user types to a matrix: YAML files, and ``key.path=value`` settings on top of them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from ssl_bench.errors import SpecError, did_you_mean
from ssl_bench.spec import Matrix, parse


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are what people expect (1e-3, 20_000) and whose keys are not given twice."""


_MERGE = "tag:yaml.org,2002:merge"  # of the key `<<`


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    own = [loader.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]  # type: ignore[no-untyped-call]
    for key in own:
        if isinstance(key, (dict, list)):
            raise SpecError(f"line {node.start_mark.line + 1}: {key!r} stands where a key should; text that begins with {{ or [ needs quotes")
        if own.count(key) > 1:
            raise SpecError(f"line {node.start_mark.line + 1}: key {key!r} is given twice")
    loader.flatten_mapping(node)  # `<<: *other`, whose keys come first and so give way to the mapping's own
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}  # type: ignore[no-untyped-call]


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(node.value).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
_Loader.add_constructor("!number", _number)
_Loader.add_implicit_resolver("!number", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(text: str, where: str) -> Any:
    """YAML text to plain data. Raises SpecError with the line of a syntax error or a doubled key."""
    try:
        return yaml.load(text, Loader=_Loader)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{where} is not valid YAML: {error}") from None


def load_matrix(path: str | Path, sets: tuple[str, ...] = ()) -> Matrix:
    """A matrix from a YAML file, with ``key.path=value`` settings applied on top."""
    file = Path(path)
    if not file.is_file():
        raise SpecError(f"matrix file {str(path)!r} does not exist")
    data = read_yaml(_text(file), str(path))
    if not isinstance(data, dict):
        raise SpecError(f"{path} holds {type(data).__name__}, not a matrix (keys: {', '.join(Matrix.model_fields)})")
    return parse(Matrix, with_settings(data, sets), str(path))


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(f"{file}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file in that encoding") from None
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror or error}") from None


def with_settings(data: dict[str, Any], sets: tuple[str, ...]) -> dict[str, Any]:
    """A matrix as written with ``key.path=value`` settings on top; the original stays as it was."""
    data = copy.deepcopy(data)
    for setting in sets:
        _apply(data, setting)
    return data


def _apply(data: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {setting!r}: write key=value, such as pretrain.epochs=8")
    parts, value = key.split("."), read_yaml(text, f"--set {setting}")
    if parts[0] not in Matrix.model_fields:
        raise SpecError(f"--set {setting!r}: unknown key {parts[0]!r}; {did_you_mean(parts[0], Matrix.model_fields)}")
    here = data
    for at, part in enumerate(parts[:-1]):
        inner = here.get(part)
        if isinstance(inner, str) and part in ("backbone", "data"):
            inner = {"name" if part == "backbone" else "source": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise SpecError(f"--set {setting!r}: {'.'.join(parts[: at + 1])} is {inner!r}, which has no key {parts[at + 1]!r}")
        here[part] = dict(inner)
        here = here[part]
    if parts[0] == "pretrain" and parts[-1] in ("epochs", "images"):
        here.pop("images" if parts[-1] == "epochs" else "epochs", None)
    here[parts[-1]] = value
