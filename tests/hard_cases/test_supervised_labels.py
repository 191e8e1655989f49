"""Whose labels `supervised` learns: those that rows are judged on, or none, with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import ssl_bench
from ssl_bench.console.live import print_plan
from ssl_bench.data import load
from ssl_bench.errors import SpecError
from ssl_bench.plan.estimate import estimate
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.run_record import write_run
from ssl_bench.report import load as load_results
from ssl_bench.spec.data import DataSpec
from ssl_bench.spec.model import parse


def tree(folder: Path, classes: list[str], each: int = 8, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for at in range(each):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{at}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tree(tmp_path / "photos", ["2019", "2020", "2021", "2022", "2023"], 4)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    return tree(tmp_path / "judged", ["cat", "dog"], 10, seed=1)


def matrix(data: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": "m", "data": data, "backbone": {"name": "resnet18", "width": 0.125},
        "pretrain": {"images": 16, "batch_size": 8},
        "tasks": ["rotation"], "evaluate": [{"knn": {"k": [1]}}], **more,
    }  # fmt: skip


def made(data: Any, tmp_path: Path, **more: Any) -> RunPlan:
    return prepare(matrix(data, **more), tmp_path / "run", device="cpu")


def apart(photos: Path, judged: Path) -> dict[str, Any]:
    return {"pretrain": f"folder:{photos}", "evaluate": {"source": f"folder:{judged}", "test": 0.3}}


def test_years_are_no_labels(photos: Path, judged: Path, tmp_path: Path) -> None:
    run_plan = made(apart(photos, judged), tmp_path)
    assert run_plan.data.pretrain.labels is None and run_plan.data.pretrain.classes == ()
    assert [row.name for row in run_plan.rows] == ["rotation", "random", "pixels", "pca"]
    note = next(note for note in run_plan.data.notes if note.startswith("supervised is no row here: it needs labels"))
    with pytest.raises(SpecError, match="--only 'supervised': supervised is no row here: it needs labels"):
        prepare(run_plan.matrix, tmp_path / "run", device="cpu", only=("supervised",))
    assert (
        "the pretraining images (photos) are not the ones that rows are judged on (judged)" in note
        and "fine-tuning" in note
    )
    stream = io.StringIO()
    print_plan(Console(file=stream, width=400), run_plan, estimate(run_plan))
    assert note in stream.getvalue()
    write_run(run_plan)
    assert any(note in text for _, text in load_results(tmp_path / "run").table().legend), "the table says it too"


@pytest.mark.parametrize(
    "where",
    [{"tasks": ["supervised"], "baselines": []}, {"baselines": ["supervised"]}, {"tasks": ["supervised+rotation"]}],
)
def test_asked_for_it_is_refused_with_the_reason(photos: Path, judged: Path, tmp_path: Path, where: Any) -> None:
    reason = (
        r"supervised.* needs labels, and the pretraining images \(photos\) "
        r"are not the ones that rows are judged on \(judged\)"
    )
    with pytest.raises(SpecError, match=reason):
        made(apart(photos, judged), tmp_path, **where)
    with pytest.raises(SpecError, match="needs labels"):
        ssl_bench.pretrain("supervised", apart(photos, judged), images=16, options={"batch_size": 8}, device="cpu")


def test_the_images_that_are_judged_keep_their_labels(photos: Path, judged: Path, tmp_path: Path) -> None:
    source = f"folder:{judged}"
    for data in ({"source": source, "test": 0.3}, {"pretrain": source, "evaluate": {"source": source, "test": 0.3}}):
        run_plan = made(data, tmp_path)
        assert [row.name for row in run_plan.rows][-1] == "supervised" and run_plan.data.pretrain.classes == (
            "cat",
            "dog",
        )
        assert not any("no row here" in note for note in run_plan.data.notes)
    alone = load(parse(DataSpec, {"pretrain": f"folder:{photos}", "evaluate": []}, "data"), cache=tmp_path / "cache")
    assert len(alone.pretrain.classes) == 5, "nothing is judged: a caller who asks for supervised means these folders"


def test_what_is_pretrained_on_is_known_by_the_same_hash(photos: Path, judged: Path, tmp_path: Path) -> None:
    """Taking the labels away changes no number of any other row, and no id."""
    both = load(parse(DataSpec, apart(photos, judged), "data"), cache=tmp_path / "cache")
    alone = load(parse(DataSpec, {"pretrain": f"folder:{photos}", "evaluate": []}, "data"), cache=tmp_path / "cache")
    assert both.pretrain.fingerprint == alone.pretrain.fingerprint
