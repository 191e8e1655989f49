"""What users write: short forms, numbers, and errors that name the key and the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssl_bench.errors import SpecError
from ssl_bench.spec.matrix import Matrix
from ssl_bench.spec.model import parse
from ssl_bench.spec.reading import load_matrix, read_yaml
from ssl_bench.spec.shipped import as_matrix, shipped

SMALL: dict[str, Any] = {"name": "m", "data": "shapes", "pretrain": {"epochs": 1}, "evaluate": ["linear"]}


def matrix(**changes: Any) -> Matrix:
    return parse(Matrix, {**SMALL, **changes}, "m.yaml")


def test_short_forms() -> None:
    tasks = ["rotation", {"simclr": {"temperature": 0.1, "row": "mine"}}]
    found = matrix(tasks=tasks, backbone="resnet50", data={"pretrain": "folder:a", "evaluate": "cifar10"})
    assert [(t.task, t.row, t.options) for t in found.tasks] == [
        ("rotation", "rotation", {}),
        ("simclr", "mine", {"temperature": 0.1}),
    ]
    assert (
        found.backbone.name == "resnet50"
        and found.data.pretrain.source == "folder:a"
        and found.data.evaluate[0].source == "cifar10"
    )
    assert [t.task for t in found.baselines] == ["random", "pixels", "pca", "supervised"]
    same = matrix().data
    assert same.pretrain.source == same.evaluate[0].source == "shapes"


def test_numbers_are_what_people_expect() -> None:
    assert read_yaml("[1e-3, 20_000, -2E+4, 1.5e1, 3, 0.5, 1e-3x, 2024-01-01]", "")[:6] == [
        1e-3,
        20000,
        -2e4,
        15.0,
        3,
        0.5,
    ]
    assert read_yaml("1e-3x", "") == "1e-3x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'"),
        ({"pretrain": {"epoch": 3}}, "unknown key 'pretrain.epoch'; did you mean 'epochs'"),
        ({"tasks": [{"task": "rotation", "name": "x"}]}, "unknown key 'tasks.0.name'; known are: options, row, task"),
        ({"evaluate": [{"evaluator": "linear", "seed": [0]}]}, "unknown key 'evaluate.0.seed'; did you mean 'seeds'"),
        ({"pretrain": {"epochs": 3, "images": 5}}, "exactly one of `epochs`, `images` and `passes`"),
        ({"pretrain": {"passes": 3, "images": 5}}, "exactly one of `epochs`, `images` and `passes`"),
        ({"pretrain": {}}, "exactly one"),
        ({"backbone": {"widht": 2}}, "did you mean 'width'"),
        ({"backbone": {"width": -1}}, "above 0 and up to 4"),
        ({"seeds": [0, 0]}, "different numbers"),
        ({"tasks": ["vae", "vae"]}, "two rows are called 'vae'"),
        ({"tasks": [{"vae": 3}]}, "options are written as"),
        ({"evaluate": ["knn", "knn"]}, "listed twice"),
        ({"evaluate": []}, "with 1 to 100 entries"),
        ({"name": "../x"}, "becomes a folder"),
        ({"data": {"source": "a", "pretrain": "b"}}, "one of the two forms"),
        ({"data": {"evaluate": "b"}}, "without data.pretrain"),
        ({"data": {"source": "shapes", "fit": "stretch"}}, "'crop', 'pad' or 'squash'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(").replace(".", r"\.")):
        matrix(**changes)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        matrix(epoch=1, seed=2)
    assert len(str(caught.value).splitlines()) == 2


def test_files_settings_and_doubled_keys(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("name: m\ndata: shapes\nbackbone: resnet18\npretrain: {epochs: 2}\nevaluate: [linear]\n")
    found = load_matrix(file, ("backbone.width=0.25", "pretrain.images=20_000", "seeds=[0, 1]", "data.size=32"))
    assert found.backbone.name == "resnet18" and found.backbone.width == 0.25
    assert found.pretrain.images == 20_000 and found.pretrain.epochs is None
    assert found.seeds == (0, 1) and found.data.size == 32 and found.data.pretrain.source == "shapes"
    for setting, message in (
        ("backbone.width", "key=value"),
        ("sedes=1", "did you mean 'seeds'"),
        ("name.x=1", "has no key 'x'"),
    ):
        with pytest.raises(SpecError, match=message):
            load_matrix(file, (setting,))
    file.write_text("name: m\nname: n\n")
    text = "a: &first {x: 1, y: 2}\nb: {<<: *first, y: 3}\n"
    assert read_yaml(text, "x") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    with pytest.raises(SpecError, match="'y' is given twice"):
        read_yaml("a: &first {x: 1}\nb: {<<: *first, y: 3, y: 4}\n", "x")
    with pytest.raises(SpecError, match="'name' is given twice"):
        load_matrix(file)
    file.write_text("a: [1\n")
    with pytest.raises(SpecError, match="not valid YAML"):
        load_matrix(file)
    with pytest.raises(SpecError, match="does not exist"):
        load_matrix(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"data: shapes\nname: {{ x }}\n",
            r"m\.yaml: line 2: \{'x': null\} stands where a key should; .* needs quotes",
        ),
        (b"data: shapes\n? [a, b]\n: 3\n", r"m\.yaml: line 1: \['a', 'b'\] stands where a key should"),
        (b"name: m\ndata: shapes\n# caf\xe9\n", r"m\.yaml: line 3: byte 0xe9 is not UTF-8"),
        (
            b"name: m\nweights: [/x/model.safetensors]\n",
            r"m\.yaml: weights = .*: '/x/model\.safetensors' .*did you mean 'file:/x/model\.safetensors'",
        ),
    ],
    ids=["template", "list", "latin", "path"],
)
def test_a_file_that_cannot_be_meant_is_told_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=message):
        load_matrix(tmp_path / "m.yaml")


def test_weights_without_their_kind_are_told_in_every_form() -> None:
    for written in (
        "model.safetensors",
        ["~/model"],
        {"source": "a/b.safetensors", "row": "mine"},
        [{"source": "a/b.safetensors"}],
    ):
        with pytest.raises(SpecError, match="did you mean 'file:"):
            as_matrix({**SMALL, "weights": written})
    assert as_matrix({**SMALL, "weights": ["file:/x/model.safetensors", "timm:resnet18"]}).weights[0].options == {
        "source": "file:/x/model.safetensors"
    }


def test_every_shipped_matrix_loads() -> None:
    names = shipped()
    assert {"quick", "cifar10", "short_learning_rates"} <= set(names)
    for name, path in names.items():
        assert load_matrix(path).name == name
