"""Records: whole or not at all, safe names, ids that do not depend on the order of keys."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.errors import RecordError
from ssl_bench.records.schema import (
    Curve,
    Environment,
    digest,
    failure_files,
    read_record,
    safe_name,
    write_bytes,
    write_record,
)

SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(SCALAR, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8)


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
@settings(max_examples=40)
def test_ids_do_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) != digest({**value, "one more": 1}) or value.get("one more") == 1


@given(st.text(), st.text())
def test_safe_names_are_one_harmless_component_and_keep_names_apart(a: str, b: str) -> None:
    name = safe_name(a)
    assert (
        name
        and name not in (".", "..")
        and not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    )
    assert not name.startswith(".") and len(name) < 100
    assert (a == b) == (safe_name(a) == safe_name(b))


def test_a_record_survives_a_failing_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write_record(path, Curve(step=[1], value=[2.0]))

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"half")
    assert read_record(path, Curve).value == [2.0]
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_machines_with_equal_process_numbers_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers on one shared folder: another one writes the same record while this one is not done."""
    path, flush, calls = tmp_path / "record.json", os.fsync, []

    def meet(file: int) -> None:
        flush(file)
        calls.append(file)
        if len(calls) == 1:
            write_bytes(path, b"another's")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", meet)
        write_bytes(path, b"mine")
    assert path.read_bytes() == b"mine"
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode), (
        "readable for whoever may read other files"
    )
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_process_left_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(os, "replace", lambda part, path: names.append(Path(part).name))
    for name in ("pretrain.json", "failed-knn.json", "knn-1.json", "run.json"):
        write_record(tmp_path / name, Curve())
    monkeypatch.undo()
    left = [file.name for file in tmp_path.iterdir()]
    assert sorted(left) == sorted(names) and all(name.startswith(".") for name in left)
    assert not failure_files(tmp_path) and not list(tmp_path.glob("*.json"))


def test_a_value_that_is_not_finite_does_not_make_a_record_unreadable(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", Curve(step=[1, 2], value=[float("nan"), float("inf")]))
    found = read_record(tmp_path / "r.json", Curve).value
    assert found[0] != found[0] and found[1] == float("inf")


def test_newer_damaged_and_other_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(RecordError, match="newer ssl_bench"):
        read_record(path, Curve)
    path.write_text("{")
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(path, Curve)
    write_record(path, Curve())
    with pytest.raises(RecordError, match="is not a Environment record"):
        read_record(path, Environment)
    with pytest.raises(RecordError, match="does not exist"):
        read_record(tmp_path / "none.json", Curve)
