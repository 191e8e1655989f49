"""YAML text to plain data: numbers as people expect them, keys given once, and nothing that blows up, runs code or
means something else elsewhere."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ssl_bench.errors import SpecError, quoted

LONGEST = 200_000  # characters of a matrix file; the shipped ones have 2,000
DEEPEST = 32  # brackets and indents within each other
MOST_NODES = 5_000
MOST_MERGED = 1_000  # keys that one `<<` brings
LONGEST_NUMBER = 40  # digits

_MERGE = "tag:yaml.org,2002:merge"  # of the key `<<`


class _Loader(yaml.SafeLoader):
    """Plain data alone. Text is text unless it is null, true, false or a decimal number: yes, 040, 1:30 and 2024-01-01
    stay as they are written."""

    def __init__(self, text: str) -> None:
        self._depth = self._nodes = 0
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = f"line {event.start_mark.line + 1}"
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise SpecError(
                f"{line}: the tag {quoted(tag.replace('tag:yaml.org,2002:', '!!'))} is not read; write the value "
                "without it, and text in quotes"
            )
        self._nodes += 1
        self._depth += 1
        if self._depth > DEEPEST:
            raise SpecError(f"{line}: nested more than {DEEPEST} deep; no setting is")
        if self._nodes > MOST_NODES:
            raise SpecError(f"{line}: more than {MOST_NODES:,} values; no matrix needs so many")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == _MERGE and isinstance(value, yaml.SequenceNode) and len(value.value) > 100:
                raise SpecError(
                    f"line {key.start_mark.line + 1}: `<<` merges {len(value.value):,} mappings; at most 100 can "
                    "be merged"
                )
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise SpecError(
                f"line {node.start_mark.line + 1}: more than {MOST_MERGED:,} keys in one mapping; no setting has "
                "so many"
            )


def _unique_mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    line = f"line {node.start_mark.line + 1}"
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if isinstance(key, (dict, list)):
            raise SpecError(
                f"{line}: {quoted(key)} stands where a key should; text that begins with {{ or [ needs quotes"
            )
        if key in seen:
            raise SpecError(f"line {key_node.start_mark.line + 1}: key {quoted(key)} is given twice")
        seen.add(key)
    loader.flatten_mapping(node)  # `<<: *other`, whose keys come first and so give way to the mapping's own
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}  # type: ignore[no-untyped-call]


def _construct_integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = str(node.value).replace("_", "")
    if len(digits) > LONGEST_NUMBER:
        raise SpecError(
            f"line {node.start_mark.line + 1}: a number of {len(digits):,} digits; put it in quotes if it is text"
        )
    return int(digits)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(node.value).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_DIGITS = "[0-9]+(_[0-9]+)*"
_Loader.yaml_implicit_resolvers = {}  # YAML 1.1's take yes for true, 040 for 32 and 1:30 for 90
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        (
            rf"[-+]?(({_DIGITS}\.({_DIGITS})?|\.{_DIGITS})([eE][-+]?[0-9]+)?|{_DIGITS}[eE][-+]?[0-9]+|\.(inf|Inf|INF))"
            r"|\.(nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
    (_MERGE, "<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)
_Loader.add_constructor(_MERGE, _construct_text)  # anywhere but as a key


def read_yaml(text: str, where: str) -> Any:
    """YAML text to plain data.

    Raises
    ------
    SpecError : with the line: a syntax error, a key given twice, a tag, several documents; text, nesting or aliases
        without measure.
    """
    if len(text) > LONGEST:
        raise SpecError(f"{where} holds {len(text):,} characters; a matrix has at most {LONGEST:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        odd = f"U+{ord(error.character) if isinstance(error.character, str) else error.character:04X}"
        raise SpecError(
            f"{where}: line {before.count(chr(10)) + 1}: the control character {odd} is not text; is this another "
            "kind of file?"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError(f"{where} is not valid YAML: {_yaml_problem(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{where} is not valid YAML: {quoted(str(error))}") from None


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """What is wrong and in which line, for the commonest mistakes in other words than the parser's."""
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}: " if mark is not None else ""
    problem = error.problem or ""
    if "but found another document" in problem:
        return f"{line}a second document begins here; a matrix is one, without `---` between its parts"
    if "cannot start any token" in problem and "'\\t'" in problem:
        return f"{line}a tab; indent with spaces"
    if "undefined alias" in problem:
        return f"{line}{problem.replace('found undefined alias', 'nothing above is marked as &')}".replace(
            "& '", "&"
        ).replace("'", "")[:100]
    if "recursive" in problem:
        return f"{line}an alias (*) stands inside of what it repeats"
    if "for merging" in problem:
        return f"{line}`<<` takes another mapping, as *name, or a list of them"
    if "mapping values are not allowed" in problem:
        return (
            f"{line}a colon where none can stand; text with a colon and a space needs quotes, and keys of one "
            "mapping the same indent"
        )
    if "cannot start any token" in problem:
        return (
            f"{line}{problem.replace('that cannot start any token', 'cannot begin a value')}; put text that "
            "begins with it in quotes"
        )
    context = f" {error.context}" if error.context else ""
    return f"{line}{problem}{context}"[:200]
