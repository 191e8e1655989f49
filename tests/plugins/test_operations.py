"""Plugins add operations to policies: used by name, checked, and part of the ids of the rows that use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ssl_bench
from ssl_bench.errors import SSLBenchError, TrainingError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import OPERATIONS
from ssl_bench.spec.model import parse
from ssl_bench.tasks.exemplar import Exemplar
from ssl_bench.tasks.simclr import SimCLR
from ssl_bench.transforms import random_flip
from ssl_bench.transforms.policy import Operation, augmented

PLUGIN = Path(__file__).with_name("operations.py")


@pytest.fixture(autouse=True)
def operations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test loads is forgotten after it."""
    monkeypatch.setattr(OPERATIONS, "_added", {})
    yield


def matrix(*tasks: Any) -> dict[str, Any]:
    return {
        "name": "operations", "data": {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}},
        "backbone": {"name": "resnet10t", "width": 0.125, "stem_stride": 2},
        "pretrain": {"images": 64, "batch_size": 32, "monitor": 0}, "tasks": list(tasks), "baselines": [],
        "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip


def test_a_policy_names_them_beside_the_built_in_ones() -> None:
    assert load_plugin(PLUGIN) == ["cutout", "sobel", "noise"]
    cutout, sobel = OPERATIONS.get("cutout"), OPERATIONS.get("sobel")
    written = {"augment": [{"cutout": {"size": 0.25}}, "flip", "sobel", {"noise": None}]}
    options = parse(SimCLR.Options, written, "row")
    images = torch.rand(6, 3, 32, 32)
    torch.manual_seed(1)
    views = augmented(images, options.augment[:3])
    torch.manual_seed(1)
    assert torch.equal(views, sobel()(random_flip(cutout(size=0.25)(images))))
    assert ((cutout(size=0.25)(images) == 0.5).sum((1, 2, 3)) == 3 * 8 * 8).all()
    dumped = options.model_dump(mode="json")
    assert dumped["augment"][0]["cutout"] == {"size": 0.25, "p": 1.0}
    assert parse(SimCLR.Options, dumped, "record") == options
    assert Operation(cutout=cutout()) == Operation.model_validate("cutout")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (
            ["cutuot"],
            r"unknown operation 'cutuot'; did you mean 'cutout'\? allowed are "
            "crop, flip, jitter, grayscale, blur, cutout, noise, sobel, and those of plugins that are given",
        ),
        (["solarize"], r"unknown operation 'solarize'; allowed are crop"),
        ([{"cutout": {"sise": 0.5}}], "unknown key 'augment.0.cutout.sise'; did you mean 'size'"),
        (["flip", {"cutout": {"size": 2}}], "augment.1.cutout.size = 2: should be a number above 0 and up to 1"),
        ([{"cutout": {"size": "0.5"}}], "augment.0.cutout.size = '0.5': should be a number"),
        ([{"cutout": {}, "flip": {}}], "names 2 operations at once"),
    ],
)  # fmt: skip
def test_mistakes_are_told(policy: list[Any], told: str) -> None:
    load_plugin(PLUGIN)
    with pytest.raises(SSLBenchError, match=told):
        parse(SimCLR.Options, {"augment": policy}, "row")


def test_an_operation_of_a_plugin_that_is_not_given_is_unknown() -> None:
    with pytest.raises(SSLBenchError, match="unknown operation 'cutout'.*--plugin FILE"):
        parse(Exemplar.Options, {"augment": ["cutout"]}, "row")


def test_a_run_trains_with_them(tmp_path: Path) -> None:
    results = ssl_bench.run(matrix({"simclr": {"augment": ["crop", "cutout", "noise"]}}), tmp_path, plugins=[PLUGIN])
    assert not len(results.failures) and set(results.frame["row"]) == {"simclr"}


def test_their_code_enters_the_ids_of_the_rows_that_use_them(tmp_path: Path) -> None:
    rows = (
        {"simclr": {"row": "used", "augment": ["cutout"]}},
        {"exemplar+rotation": {"row": "within", "exemplar": {"augment": ["flip", "cutout"]}}},
        {"simclr": {"row": "other", "augment": ["flip"]}},
    )
    text, ids = PLUGIN.read_text(), []
    for number, source in enumerate((text, f"# a remark\n{text}", text.replace("0.5, images", "0.25, images"))):
        plugin = tmp_path / str(number) / "operations.py"
        plugin.parent.mkdir()
        plugin.write_text(source)
        OPERATIONS._added.clear()
        load_plugin(plugin)
        cells = prepare(matrix(*rows), tmp_path / "out").cells()
        ids.append({cell.row.name: cell.id for cell in cells})
        assert [set(cell.spec.get("operations", ())) for cell in cells] == [{"cutout"}, {"cutout"}, set()]
    first, remarked, edited = ids
    assert first == remarked and first["other"] == edited["other"]
    assert first["used"] != edited["used"] and first["within"] != edited["within"]


def test_two_plugins_with_one_name_are_refused(tmp_path: Path) -> None:
    load_plugin(PLUGIN)
    for name, told in (
        ("cutout", "an operation named 'cutout' exists already .*operations.py"),
        ("crop", "'crop' exists already"),
    ):
        (tmp_path / f"{name}_too.py").write_text(PLUGIN.read_text().replace('"cutout"', f'"{name}"'))
        with pytest.raises(SSLBenchError, match=told):
            load_plugin(tmp_path / f"{name}_too.py")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (('name = "sobel"', "pass"), "has no class attribute `name`"),
        (
            ("def __call__(self, images)", "def call(self, images)"),
            r"has no method __call__\(self, images\), which an operation",
        ),
        (("size: float = Field(default=0.5, gt=0, le=1)", "size: float"), "has the setting 'size' without a default"),
        (("def __call__(self, images)", "def __call__(self)"), r"is called as __call__\(self, images\)"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_whole_operation_is_refused_when_it_is_loaded(
    edit: tuple[str, str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN.read_text().replace(*edit))
    with pytest.raises(SSLBenchError, match=told):
        load_plugin(tmp_path / "odd.py")


def test_what_the_next_operation_could_not_take_is_told(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN.read_text().replace("expand_as(images)", "double()"))
    load_plugin(tmp_path / "odd.py")
    with pytest.raises(TrainingError, match=r"the operation 'sobel' gave torch.float64 \[2, 1, 8, 8\] of images"):
        augmented(torch.rand(2, 3, 8, 8), parse(SimCLR.Options, {"augment": ["sobel"]}, "row").augment)
