"""What a user types: every number has an end, look-alikes are refused, and each message says what to write instead."""

from __future__ import annotations

import datetime
import math
import os
import stat
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import ssl_bench.backbones.resnet
from ssl_bench.errors import SpecError, SSLBenchError, quoted
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.runner.smoke import smoke_matrix
from ssl_bench.spec.matrix import BackboneSpec, Matrix
from ssl_bench.spec.model import Model, parse
from ssl_bench.spec.reading import load_matrix, with_settings
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.shipped import as_matrix, find
from ssl_bench.spec.wording import Kind, allowed, kinds
from ssl_bench.tasks.base import TaskOptions

BASE: dict[str, Any] = {"name": "m", "data": "shapes", "pretrain": {"epochs": 1}, "evaluate": ["knn"]}
FEW = {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}}
JARGON = (
    "tuple",
    "dict",
    "Mapping",
    "instance",
    "at least 1 item",
    "Input",
    "pydantic",
    "<class",
    "PosixPath",
    "NoneType",
    "None",
    "True",
    "False",
)
SECONDS = 2.0


def refused(changes: Any, where: str = "m.yaml") -> str:
    start = time.monotonic()
    with pytest.raises(SpecError) as caught:
        parse(Matrix, {**BASE, **changes}, where)
    assert time.monotonic() - start < SECONDS
    text = str(caught.value)
    assert not [word for word in JARGON if word in text], text
    assert len(text) < 5_000
    return text


def option_classes() -> Iterator[tuple[str, type[BaseModel]]]:
    yield "matrix", Matrix
    yield "recipe", Recipe
    yield "input", ssl_bench.backbones.resnet.InputSpec
    for registry in (TASKS, EVALUATORS):
        for name in registry._builtin:
            yield name, registry.get(name).Options
    yield "combination", TASKS.get("rotation+simclr").Options


def numbers(annotation: Any, metadata: Any, where: str) -> Iterator[tuple[str, Kind]]:
    """Every number that a field can hold: alone, in a list, in a model."""
    for kind in kinds(annotation, metadata):
        if kind.type in (int, float):
            yield where, kind
        if kind.type is tuple:
            assert not (kind.items[-1] is ... and kind.bounds.get("max_length") is None), (
                f"{where} is a list without an end"
            )
            for item in kind.items:
                if item is not ...:
                    yield from numbers(item, (), f"{where}[]")
        if isinstance(kind.type, type) and issubclass(kind.type, BaseModel):
            for name, field in kind.type.model_fields.items():
                yield from numbers(field.annotation, field.metadata, f"{where}.{name}")


def test_every_number_of_ours_has_both_bounds() -> None:
    found = [one for name, options in option_classes() for one in numbers(options, (), name)]
    assert len(found) > 80 and {
        "matrix.seeds[]",
        "matrix.pretrain.epochs",
        "recipe.betas[]",
        "linear.draws",
        "knn.k[]",
    } <= {where for where, _ in found}
    for where, kind in found:
        assert {"ge", "gt"} & set(kind.bounds), f"{where} has no lower bound"
        assert {"le", "lt"} & set(kind.bounds), f"{where} has no upper bound"


@pytest.mark.parametrize(("name", "options"), list(option_classes()))
def test_numbers_beyond_their_bounds_are_refused_with_the_bounds(name: str, options: type[BaseModel]) -> None:
    for field_name, field in options.model_fields.items():
        for kind in kinds(field.annotation, field.metadata):
            if kind.type not in (int, float):
                continue
            texts = ("1", "040", "1:4") if str not in {form.type for form in kinds(field.annotation)} else ()
            for value in (10**30, -(10**30), 1e308, math.inf, math.nan, True, *texts):
                with pytest.raises(SpecError) as caught:
                    parse(options, {field_name: value}, name)
                line = next(line for line in str(caught.value).splitlines() if f"{field_name} =" in line)
                assert (
                    quoted(value) in line and "number" in line and any(c.isdigit() for c in line.split("should be")[1])
                )
            edge = kind.bounds.get("le")
            if edge is not None and not set(options.model_fields) - {field_name} & {
                n for n, f in options.model_fields.items() if f.is_required()
            }:
                try:
                    parse(options, {field_name: edge}, name)
                except SpecError as error:  # an idle setting, perhaps; not its value
                    assert "should be" not in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 3}, "seeds = 3: seeds are listed; write [3] for the seed 3 alone, or [0, 1, 2] for 3 seeds"),
        ({"seeds": "3"}, "seeds = '3': should be a list of whole numbers"),
        ({"seeds": []}, "with 1 to 1,000 entries"),
        ({"seeds": None}, "seeds = null: should be a list of whole numbers"),
        ({"seeds": [True]}, "true is a switch, not a number"),
        ({"seeds": [0, 0]}, "0 is listed twice"),
        (
            {"seeds": [2**63]},
            "seeds.0 = 9223372036854775808: should be a whole number from 0 to 9,223,372,036,854,775,807",
        ),
        ({"seeds": list(range(1_001))}, "with 1 to 1,000 entries"),
        (
            {"seeds": list(range(1_000)), "tasks": [{"rotation": {"row": str(n)}} for n in range(200)]},
            "204 rows at 1,000 seeds are 204,000 cells; a matrix has at most 100,000",
        ),
        ({"tasks": "rotation"}, "write [rotation]"),
        ({"tasks": {"rotation": {}}}, "begin each with a dash"),
        ({"tasks": None}, "tasks = null: should be a list of rows"),
        (
            {"tasks": [{"rotation": {}, "vae": {}}]},
            "names several tasks at once ('rotation', 'vae'); begin each with a dash",
        ),
        ({"tasks": [3]}, "tasks.0 = 3: names no task"),
        ({"tasks": [{"rotation": {1: 2}}]}, "1 stands where an option's name should"),
        ({"tasks": [{"rotation": {"row": "x" * 300}}]}, "has at most 100 characters, and this one 300"),
        (
            {"tasks": ["simclr", "simclr"]},
            "two rows are called 'simclr', both in `tasks`; leave one out, or give it another name: {simclr: {row: "
            "NAME}}",
        ),
        ({"tasks": ["random"], "baselines": ["random"]}, "two rows are called 'random', in `tasks` and in `baselines`"),
        ({"evaluate": "knn"}, "write [knn]"),
        ({"evaluate": []}, "with 1 to 100 entries"),
        ({"evaluate": [{"evaluator": "knn", "seeds": 0}]}, "evaluate.0.seeds = 0: should be a list of whole numbers"),
        ({"weights": 3}, "should be a list of timm:NAME, file:PATH"),
        ({"name": "x" * 300}, "should be text of 1 to 100 characters"),
        ({"name": "😀" * 60}, "must have at most 200 bytes, got 240"),
        ({"name": "a\x1b[31m"}, r"holds the control character '\x1b'"),
        ({"name": ["a"]}, "name = ['a']: should be text"),
        ({"name": True}, "name = true: should be text; true is a switch"),
        ({"data": {"size": 32}}, "data = {'size': 32}: names no images"),
        (
            {"data": {"source": "shapes", "size": "1:4"}},
            "data.size = '1:4': should be a whole number from 8 to 1,024; some readers",
        ),
        (
            {"data": {"source": "shapes", "size": "040"}},
            "octal to some readers of YAML and decimal to others; write 40",
        ),
        ({"data": {"source": "shapes", "size": "0x20"}}, "numbers are written in decimals"),
        ({"data": {"source": "shapes", "size": "32"}}, "in quotes it is text; write 32"),
        (
            {"data": {"source": "shapes", "size": True}},
            "data.size = true: should be a whole number from 8 to 1,024; true is a switch",
        ),
        ({"data": {"source": "shapes", "size": 32.5}}, "data.size = 32.5: should be a whole number from 8 to 1,024"),
        (
            {"data": {"source": "shapes", "limit": 0}},
            "data.limit = 0: should be a whole number from 1 to 1,000,000,000",
        ),
        ({"data": {"source": "shapes", "test": 2}}, "data.test = 2: should be a number above 0 and below 1"),
        ({"data": {"source": "shapes", "skip_unreadable": 1}}, "should be true or false"),
        ({"data": {"source": "folder:a\0b"}}, "control character"),
        ({"data": {"source": "x" * 5_000}}, "must have at most 4,096 characters, got 5,000"),
        (
            {"data": ["shapes"]},
            "data = ['shapes']: should be the name of a source, or settings, written {key: value}, with the keys",
        ),
        ({"backbone": ["resnet18"]}, "should be the name of a ResNet of timm's, or settings"),
        ({"backbone": {"stem_stride": True}}, "should be 1 or 2"),
        ({"pretrain": 3}, "pretrain = 3: should be settings, written {key: value}, with the keys epochs"),
        ({"pretrain": {"epochs": 1e308}}, "pretrain.epochs = 1e+308: should be a number above 0 and up to 1,000,000"),
        ({"pretrain": {"epochs": math.nan}}, "should be a finite number"),
        ({"pretrain": {"epochs": "1,000"}}, "write 1_000 or 1000"),
        ({"pretrain": {"epochs": "ten"}}, "pretrain.epochs = 'ten': should be a number above 0"),
        ({"pretrain": {"images": 10**5000}}, "a whole number of 5,001 digits: should be a whole number from 1"),
        ({"pretrain": {"epochs": datetime.date(2024, 1, 1)}}, "should be a number above 0"),
        ({"pretrain": {"epochs": 1, "x" * 300: 2}}, "unknown key 'pretrain.xxxx"),
        ({"data": {"source": "shapes", "lables": "x"}}, "unknown key 'data.lables'; did you mean 'labels'"),
        ({"x" * 10**6: 1}, "unknown key 'xxxx"),
        ({f"key{number}": 1 for number in range(500)}, "and 480 more"),
        ({"precision": "fp16"}, "should be 'auto', 'fp32' or 'bf16'"),
        ({"data": {"source": "shapes", "fit": "x" * 10**7}}, "must have at most 4,096 characters, got 10,000,000"),
    ],
    ids=lambda value: quoted(value)[:40] if isinstance(value, dict) else "",
)
def test_mistakes_say_what_is_allowed(changes: dict[Any, Any], message: str) -> None:
    assert message in refused(changes)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("linear", {"draws": 1_000_000_000}, "draws = 1000000000: should be a whole number from 1 to 1,000"),
        ("linear", {"labels": [0.1, 2]}, "labels.1 = 2: should be a number above 0 and up to 1"),
        ("linear", {"labels": "0.1"}, "in quotes it is text; write 0.1"),
        ("linear", {"labels": []}, "should be a list of numbers above 0 and up to 1 with 1 to 100 entries"),
        ("linear", {"labels": {"a": 1}}, "labels.0 = {'a': 1}: should be a number above 0 and up to 1"),
        ("linear", {"strengths": 10**9}, "from 1 to 100"),
        ("knn", {"k": 0}, "k = 0: should be a whole number from 1 to 1,000,000"),
        ("knn", {"temperature": 1e-300}, "should be a number from 0.001 to 1,000"),
        (
            "finetune",
            {"steps": [100, 0]},
            "steps = [100, 0]: should be a whole number from 1 to 10,000,000, or a list of whole",
        ),
        (
            "finetune",
            {"steps": "all"},
            "steps = 'all': should be a whole number from 1 to 10,000,000, or a list of whole numbers from 1 to "
            "10,000,000",
        ),
        ("finetune", {"learning_rates": [1e9]}, "should be a number above 0 and up to 1,000,000"),
        ("detection", {"validation": 2}, "validation = 2: should be text or a number above 0 and below 1"),
        ("detection", {"scales": []}, "should be a list of numbers from 0.1 to 10 with 1 to 100 entries"),
        ("detection", {"freeze": "maybe"}, "should be true or false"),
    ],
)
def test_options_of_evaluators_say_what_is_allowed(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(EVALUATORS.get(kind).Options, options, f"evaluator {kind!r}")
    assert message in str(caught.value) and str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("sets", "tasks", "baselines"),
    [
        (("tasks=[simclr, random]",), ["simclr", "random"], ["pca", "supervised"]),
        (("tasks=[{vae: {row: pca}}]", "seeds=[1]"), ["pca"], ["random", "supervised"]),
        (("tasks.0=random",), ["random", "vae"], ["pca", "supervised"]),
        (("tasks.1.vae.row=supervised",), ["rotation", "supervised"], ["random", "pca"]),
        (("baselines=[random, vae]",), ["rotation"], ["random", "vae"]),
        (("weights=[{source: 'file:/w.pth', row: random}]",), ["rotation", "vae"], ["pca", "supervised"]),
        (("tasks=[random, pca, supervised]",), ["random", "pca", "supervised"], []),
    ],
)
def test_a_listed_row_gives_way_to_one_that_is_set(
    sets: tuple[str, ...], tasks: list[str], baselines: list[str]
) -> None:
    listed = {
        **BASE,
        "tasks": ["rotation", {"vae": {"learning_rate": 1e-3}}],
        "baselines": ["random", "pca", "supervised"],
    }
    found = as_matrix(listed, sets)
    assert ([spec.row for spec in found.tasks], [spec.row for spec in found.baselines]) == (tasks, baselines)


def test_rows_that_are_both_set_do_not_give_way() -> None:
    for sets in (("tasks=[random]", "baselines=[random]"), ("tasks.0=vae",)):
        with pytest.raises(SpecError, match="two rows are called"):
            as_matrix({**BASE, "tasks": ["rotation", "vae"]}, sets)


def test_a_default_baseline_gives_way_to_a_row_that_is_written() -> None:
    names = [
        spec.row
        for spec in as_matrix(
            {**BASE, "tasks": ["simclr", "random", {"supervised": {"label_smoothing": 0.1}}]}
        ).baselines
    ]
    assert names == ["pixels", "pca"]
    assert [spec.row for spec in as_matrix({**BASE, "tasks": [{"random": {"row": "mine"}}]}).baselines] == [
        "random",
        "pixels",
        "pca",
        "supervised",
    ]
    again = as_matrix(as_matrix({**BASE, "tasks": ["random"]}), ("seeds=[1]",))
    assert "baselines" not in again.model_fields_set and [spec.row for spec in again.baselines] == [
        "pixels",
        "pca",
        "supervised",
    ]


def test_what_python_gives_is_taken_as_what_it_is() -> None:
    written = {
        "name": np.str_("m"), "data": {"source": Path("folder:x"), "size": np.int64(32), "limit": np.int32(5)},
        "seeds": np.arange(3),
        "backbone": {"width": np.float32(0.5)}, "pretrain": {"images": torch.tensor(64), "batch_size": np.uint8(8)},
        "stage_values": 1024.0,
        "tasks": ({"rotation": {"pad": np.int64(2)}},),
        "evaluate": [{"knn": {"k": np.array([5, 10])}}, {"linear": {"labels": (0.5, np.float64(1))}}],
    }  # fmt: skip
    found = as_matrix(written)
    plain = {
        "name": "m", "data": {"source": "folder:x", "size": 32, "limit": 5}, "seeds": [0, 1, 2],
        "backbone": {"width": 0.5},
        "pretrain": {"images": 64, "batch_size": 8}, "stage_values": 1024, "tasks": [{"rotation": {"pad": 2}}],
        "evaluate": [{"knn": {"k": [5, 10]}}, {"linear": {"labels": [0.5, 1.0]}}],
    }  # fmt: skip
    assert found.model_dump_json() == as_matrix(plain).model_dump_json()
    assert as_matrix({**BASE, "seeds": range(2)}).seeds == (0, 1)
    for value in (np.array(True), np.bool_(True), np.array(["a"]), Decimal("1.5"), object(), b"3", {1, 2}, lambda: 3):
        with pytest.raises(SpecError, match="should be"):
            as_matrix({**BASE, "pretrain": {"images": value}})


def test_settings_of_a_plugin_are_held_to_their_types_and_its_own_types_are_left_to_it() -> None:
    class Mine(TaskOptions):
        count: int = 3
        sizes: list[int] = [1]
        where: Path = Path(".")
        parts: dict[str, float] = {}
        mode: str | None = None

    assert parse(Mine, {"count": 5, "sizes": [1, 2], "where": "a/b", "parts": {"x": 1}}, "x").where == Path("a/b")
    for value, message in (
        ({"count": True}, "count = true: should be a whole number; true is a switch"),
        ({"count": "5"}, "in quotes it is text; write 5"),
        ({"sizes": 3}, "sizes = 3: should be a list of whole numbers; write [3]"), ({"sizes": [1, "2"]}, "write 2"),
        ({"parts": {"x": "y"}}, "parts.x = 'y'"),
        ({"where": 3}, "where = 3: should be a path"), ({"parts": [1]}, "should be options, written {option: value}"),
    ):  # fmt: skip
        with pytest.raises(SpecError) as caught:
            parse(Mine, value, "x")
        assert message in str(caught.value)


# ---- --set
# ----------------------------------------------------------------------------------------------------------------------


def test_settings_are_applied_where_they_point_to() -> None:
    data = {**BASE, "tasks": ["vae", {"rotation": {"pad": 2}}], "evaluate": [{"knn": {"k": [5]}}]}
    changed = with_settings(
        data, ("tasks.1.rotation.pad=3", "evaluate.0.knn.k=[1, 2]", "data.size=32", "pretrain.passes=5_000", "name=a=b")
    )
    found = as_matrix(changed)
    assert (
        found.tasks[1].options == {"pad": 3}
        and found.evaluate[0].options == {"k": [1, 2]}
        and found.data.size == 32
        and found.name == "a=b"
    )
    assert found.pretrain.passes == 5_000 and found.pretrain.epochs is None
    assert data["tasks"] == ["vae", {"rotation": {"pad": 2}}] and data["pretrain"] == {"epochs": 1}
    for budget in ("epochs", "images", "passes"):
        for other in ("epochs", "images", "passes"):
            assert (
                as_matrix(
                    with_settings({**BASE, "pretrain": {budget: 3}}, (f"pretrain.{other}=4",))
                ).pretrain.model_dump()[other]
                == 4
            )
    assert as_matrix(BASE, "seeds=[7]").seeds == (7,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "write key=value"), ("seeds", "write key=value"), ("=3", "write key=value"),
        ("pretrain..epochs=3", "write key=value"),
        ("sedes=1", "did you mean 'seeds'"),
        ("pretrain.epoch=1", "unknown key 'pretrain.epoch'; did you mean 'epochs'"),
        ("tasks.9.vae.beta=1", "tasks is a list, and '9' is no place in it; its places are 0 to 1"),
        ("tasks.x=vae", "'x' is no place in it"),
        ("tasks.²=vae", "is no place in it"),
        ("tasks.0.beta=1", "tasks.0 is 'vae', which has no key 'beta'; write {vae: {beta: ...}} in its place"),
        ("name.x=1", "name is 'm', which has no key 'x'"), ("seeds=", "seeds = null: should be a list"),
        ("seeds=3", "write [3]"),
        ("seeds=[1", "--set 'seeds=[1' is not valid YAML"), ("data.size=!!int 3", "the tag '!!int' is not read"),
        ("tasks=" + "[" * 5_000, "more than 32 deep"),
        ("pretrain.epochs=" + "9" * 300_000, "holds 300,000 characters"),
        ("pretrain={epochs: 1, images: 3}", "exactly one"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_settings_that_point_nowhere_are_told(setting: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        as_matrix({**BASE, "tasks": ["vae", "rotation"]}, (setting,))
    assert message in str(caught.value) and len(str(caught.value)) < 600


def test_two_budgets_that_are_set_are_not_one() -> None:
    with pytest.raises(SpecError, match="exactly one"):
        as_matrix(BASE, ("pretrain.epochs=1", "pretrain.images=5"))


# ---- files
# ----------------------------------------------------------------------------------------------------------------------


def test_paths_that_lead_to_no_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "gone.yaml")
    for name, message in {
        "folder.yaml": "is a folder; name a file in it", "pipe.yaml": "is no file but a pipe",
        "link.yaml": "does not exist; it is a link that points nowhere",
        "none.yaml": "does not exist", "qiuck": "did you mean 'quick'", "a/b": "does not exist",
        "x" * 300: "cannot be read: File name too long",
        "a\0b.yaml": "cannot be read", "~nobody_here/m.yaml": "does not exist", "": "is a folder", ".": "is a folder",
    }.items():  # fmt: skip
        with pytest.raises(SpecError) as caught:
            load_matrix(find(name))
        assert message in str(caught.value), name
    assert stat.S_ISFIFO((tmp_path / "pipe.yaml").stat().st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_matrix_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("name: m")
    (tmp_path / "m.yaml").chmod(0)
    with pytest.raises(SpecError, match="cannot be read: Permission denied"):
        load_matrix(tmp_path / "m.yaml")


# ---- words
# ----------------------------------------------------------------------------------------------------------------------


def test_forms_are_told_in_plain_words() -> None:
    class Inner(Model):
        x: int = 1

    for annotation, metadata, words in (
        (int, [Field(ge=2)], "a whole number from 2 up"), (float, [Field(gt=0)], "a number above 0"),
        (float, [Field(le=5)], "a number up to 5"),
        (int | None, [Field(ge=1, le=9)], "a whole number from 1 to 9"),
        (tuple[int, int], [], "a list of 2 whole numbers"), (list[str], [], "a list of texts"),
        (bool | int, [], "true or false, or a whole number"),
        (Inner, [], "settings, written {key: value}, with the keys x"), (type(None), [], "null"),
        (tuple[int | str, ...], [], "a list of values"), (object, [], ""),
    ):  # fmt: skip
        assert allowed(annotation, metadata) == words


values = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary())


@given(st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6))
@settings(max_examples=20)
def test_values_are_quoted_on_one_short_line(value: Any) -> None:
    text = quoted(value)
    assert len(text) <= 63 and "\n" not in text and text.isprintable()


NEAR = {
    "seeds": [[0], [0, 1]], "size": [32, None], "source": ["shapes"], "epochs": [1, 0.5], "images": [64], "name": ["m"],
    "tasks": [["vae"], []], "row": ["r"],
    "pretrain": [{"epochs": 1}], "data": ["shapes", {"source": "shapes"}], "evaluate": [["knn"]],
    "limit": [5, {"train": 3}], "backbone": ["resnet18"],
}  # fmt: skip
odd = st.one_of(
    st.sampled_from(
        [
            0, -1, 1, 3, 10**9, 10**30, 1e308, math.inf, math.nan, True, False, None, "", "3", "040", "1:4", "\0",
            "x" * 300, [], {}, [[]], {1: 2},
        ]
    ),
    st.text(max_size=4), st.integers(), st.floats(), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
fields = st.sampled_from(sorted(NEAR)).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(odd, st.sampled_from(NEAR[name])))
)
pairs = st.lists(fields, max_size=4).map(dict)


@settings(max_examples=60)
@given(pairs, pairs, pairs)
def test_any_data_is_a_matrix_or_a_clear_error(
    matrix: dict[str, Any], data: dict[str, Any], pretrain: dict[str, Any]
) -> None:
    for part, own in (("data", data), ("pretrain", pretrain)):
        if own and part not in matrix:
            matrix = {**matrix, part: own}
    try:
        as_matrix({**BASE, **matrix})
    except SSLBenchError as error:
        assert str(error) and not [word for word in JARGON if word in str(error).replace("'", "")]


# ---- what stands beside the matrix
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"limit": 0}, "--limit: limit = 0: should be a whole number from 1 to 1,000,000,000"),
        ({"limit": -5}, "limit = -5"), ({"limit": 10**30}, "31 digits"),
        ({"limit": True}, "true is a switch"), ({"limit": "5"}, "write 5"),
        ({"limit": 2.5}, "should be a whole number"),
        ({"only": "simlcr"}, "--only 'simlcr': no such row in matrix 'm'; did you mean 'simclr'"),
        ({"only": ["x" * 10**6]}, "no such row"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ({"device": "cpu:x"}, "device must be auto"),
        ({"device": ""}, "got ''"), ({"device": 3}, "cuda:N or mps, got 3"), ({"device": "meta"}, "got 'meta'"),
        ({"sets": "seeds=x"}, "seeds = 'x': should be a list"),
        ({"plugins": "nowhere.py"}, "plugin file 'nowhere.py' does not exist"),
    ],
    ids=lambda value: quoted(value)[:30] if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_stands_beside_the_matrix_is_checked_too(beside: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SSLBenchError) as caught:
        prepare({**BASE, "tasks": ["simclr"]}, tmp_path / "out", **beside)
    assert message in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "out").exists()


def test_a_results_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path / "file", "is a file; --out needs a folder"),
        (tmp_path / "file" / "in" / "it", "Not a directory; give another folder"),
        (tmp_path / ("x" * 300), "File name too long; give another folder"),
        (Path("a\0b"), "give another folder"),
    ):
        with pytest.raises(SSLBenchError, match=message):
            prepare(BASE, out)


def test_advice_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is suggested is one that is taken; a smoke run asks for no more than the run itself."""
    for name in ("resnetv2_50", "resnetv2_50x", "resnest50", "vit_small"):
        with pytest.raises(SpecError) as caught:
            ssl_bench.backbones.resnet.check_resnet(name)
        for one in str(caught.value).partition(";")[2].split("'")[1::2]:
            ssl_bench.backbones.resnet.check_resnet(one)
    choices = {
        "rotation": {
            name: {"choose": list(values)}
            for name, values in {"pad": range(2, 52), "learning_rate": np.linspace(0.1, 1, 50)}.items()
        }
    }
    with pytest.raises(SpecError, match=r"choose: 50 of pad x 50 of learning_rate are more than 1,000 settings to try"):
        prepare({**BASE, "data": FEW, "tasks": [choices], "baselines": []}, tmp_path / "out")
    trial = smoke_matrix(Matrix.model_validate({**BASE, "data": FEW}), 100, 8)
    assert "baselines" not in trial.model_fields_set and len(trial.baselines) == 4
    with pytest.raises(SpecError, match="seeds.0 = -1: should be a whole number from 0"):
        ssl_bench.evaluate(ssl_bench.Backbone(BackboneSpec(width=0.125), 32), seed=-1)
