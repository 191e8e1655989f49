"""YAML that hangs, fills the memory, runs code or means another thing elsewhere: read as what it says,
or refused in a moment with its line."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.errors import SpecError, SSLBenchError
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import load_matrix, read_yaml
from ssl_bench.spec.shipped import as_matrix

WHOLE = "name: m\ndata: shapes\npretrain: {epochs: 1}\nevaluate: [knn]\n"
SECONDS = 3.0  # on a machine that others use too; a bomb takes minutes


def aliases(times: int, levels: int, form: str) -> str:
    """Each level repeats the one below ``times`` times: times ** levels values from a few hundred characters."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        repeated = ", ".join([f"*a{level - 1}"] * times)
        lines.append(
            f"a{level}: &a{level} " + (f"[{repeated}]" if form == "list" else f"{{<<: [{repeated}], k{level}: 1}}")
        )
    return "\n".join(lines)


def refused(text: str) -> str:
    start = time.monotonic()
    with pytest.raises(SpecError) as caught:
        parse(Matrix, read_yaml(text, "m.yaml"), "m.yaml")
    assert time.monotonic() - start < SECONDS
    assert len(str(caught.value)) < 3_000
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5_000,
        "[" * 5_000 + "]" * 5_000,
        "{a: " * 5_000,
        "- " * 5_000,
        "? " * 5_000,
        "name: " + "[" * 40 + "]" * 40,
    ],
)
def test_nesting_has_an_end(text: str) -> None:
    assert "line 1: nested more than 32 deep" in refused(text)


def test_aliases_of_aliases_do_not_blow_up() -> None:
    assert "aliases count each time" in refused(aliases(9, 10, "list") + "\nname: *a9\n")
    merged = read_yaml(aliases(90, 12, "merge"), "m.yaml")
    assert merged["a11"] == {"x": 1, **{f"k{level}": 1 for level in range(1, 12)}}
    assert "merges 101 mappings" in refused("a: &a {x: 1}\nb: {<<: [" + ", ".join(["*a"] * 101) + "]}")
    assert "stands inside of what it repeats" in refused("a: &a [*a]")


def test_python_data_that_holds_itself_is_refused() -> None:
    tasks: list[Any] = []
    tasks.append(tasks)
    wide: list[Any] = ["rotation"]
    for _ in range(12):
        wide = [wide] * 9
    for value in (tasks, wide, ["rotation"] * 200_000):
        start = time.monotonic()
        with pytest.raises(SpecError, match="deep|values"):
            as_matrix({"name": "m", "data": "shapes", "pretrain": {"epochs": 1}, "evaluate": ["knn"], "tasks": value})
        assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None),
        ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"), ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("1:30", "1:30"), ("1:4", "1:4"),
        ("040", "040"), ("0x10", "0x10"), ("0b1", "0b1"), ("0o7", "0o7"), ("1_000", 1000), ("1__0", "1__0"),
        ("1_", "1_"), ("1,000", "1,000"),
        ("3.0", 3.0), ("1e3", 1e3), ("1.5E-3", 1.5e-3), (".5", 0.5), ("5.", 5.0), ("-2e+4", -2e4), ("+7", 7),
        (".inf", float("inf")), ("1e400", float("inf")),
        ("'3'", "3"), ("<<", "<<"), ("=", "="), ("1.2.3", "1.2.3"), ("1e", "1e"), ("0", 0), ("-0", 0), ("00", "00"),
    ],
)  # fmt: skip
def test_a_value_is_what_it_says_everywhere(written: str, meant: Any) -> None:
    """Text that YAML 1.1 takes for something that it is not is text; where a number belongs, it is then refused."""
    found = read_yaml(f"a: {written}", "")["a"]
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE + "seeds: !!int abc\n", "line 5: the tag '!!int' is not read"),
        (WHOLE + "seeds: !!int 3\n", "the tag '!!int' is not read"),
        (
            "name: !!python/object/apply:os.system [ls]\n",
            "line 1: the tag '!!python/object/apply:os.system' is not read",
        ),
        ("name: !foo x\n", "the tag '!foo' is not read"),
        ("!!map {a: 1}", "the tag '!!map' is not read"),
        ("name: !!binary aGk=\n", "the tag '!!binary' is not read"),
        ("name: a\n---\nname: b\n", "line 2: a second document begins here"),
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("1: a\n1.0: b\n", "line 2: key 1.0 is given twice"),
        ("name: \0", "line 1: the control character U+0000"),
        ("name: a\ndata: \x1b[31m", "line 2: the control character U+001B"),
        ("name:\n\ta: 1", "line 2: a tab; indent with spaces"),
        ("name: a: b", "line 1: a colon where none can stand"),
        ("name: @x", "'@' cannot begin a value; put text that begins with it in quotes"),
        ("name: *there", "line 1: nothing above is marked as &there"),
        ("<<: 3", "`<<` takes another mapping"),
        ("name: 'x", "unexpected end of stream"),
        ("a: " + "9" * 5_000, "a number of 5,000 digits"),
        ("name: " + "x" * 10_000_000, "holds 10,000,006 characters; a matrix has at most 200,000"),
        ("- 1\n" * 6_000, "more than 5,000 values"),
        ("\n".join(f"k{number}:" for number in range(2_000)), "more than 1,000 keys"),
        ("", "is null, and should be settings"),
        ("- a\n", "is ['a'], and should be settings"),
        ("3", "is 3, and should be settings"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_line(text: str, message: str) -> None:
    assert message in refused(text)


def test_files_that_are_no_matrix(tmp_path: Path) -> None:
    contents = {
        b"": "holds nothing, and should hold a matrix", b"# a word\n": "holds nothing", b"- a\n": "holds a list",
        b"x": "holds the single value 'x'",
        b"\xff\xfen\0a\0m\0e\0": "line 1: byte 0xff is not UTF-8",
        b"name: m\n\x89PNG\r\n": "line 2: byte 0x89 is not UTF-8",
        b"PK\x03\x04": "the control character U+0003 is not text; is this another kind of file?",
        b"name: " + b"x" * 10_000_000: "holds 10,000,006 bytes",
    }  # fmt: skip
    for content, message in contents.items():
        (tmp_path / "m.yaml").write_bytes(content)
        with pytest.raises(SpecError) as caught:
            load_matrix(tmp_path / "m.yaml")
        assert message in str(caught.value)


def test_json_is_read_too(tmp_path: Path) -> None:
    spec = {
        "name": "m",
        "data": "shapes",
        "pretrain": {"epochs": 1e-3},
        "evaluate": [{"knn": {"k": [5]}}],
        "stage_values": None,
    }
    (tmp_path / "m.json").write_text(json.dumps(spec, indent=2))
    assert load_matrix(tmp_path / "m.json") == as_matrix(spec)


keys = st.sampled_from(
    ["name", "data", "pretrain", "seeds", "tasks", "evaluate", "epochs", "size", "<<", "x", "1", "yes", "k"]
)
scalars = st.one_of(
    st.sampled_from(
        [
            "1",
            "1.5",
            "true",
            "yes",
            "040",
            "1:4",
            "2024-01-01",
            ".nan",
            "~",
            "''",
            '"',
            "'",
            "!!int 3",
            "*a",
            "&a 3",
            "<<",
            "shapes",
            "-",
            "@",
        ]
    ),
    st.text(alphabet=string.printable, max_size=6),
)
flow = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(keys, inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        ),
        inner.map(lambda value: f"&a {value}"),
    ),
    max_leaves=12,
)
documents = st.lists(st.tuples(keys, flow), max_size=8).map(
    lambda pairs: "\n".join(f"{key}: {value}" for key, value in pairs)
)


@settings(max_examples=100)
@given(documents)
def test_any_text_is_a_matrix_or_a_clear_error(text: str) -> None:
    try:
        parse(Matrix, read_yaml(text, "m.yaml"), "m.yaml")
    except SSLBenchError as error:
        assert str(error).startswith("m.yaml")
        assert all(
            word not in str(error)
            for word in ("Traceback", "pydantic", "<class", "valid tuple", "dictionary", "instance")
        )


words = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc"), max_codepoint=0x2FFF), max_size=12)
data = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False, allow_infinity=False),
        words,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(words.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100)
@given(data)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    """Data that another program wrote comes back as it was:
    PyYAML's own writer quotes whatever YAML 1.1 could mistake."""
    assert read_yaml(yaml.safe_dump(value), "") == value
