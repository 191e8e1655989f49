"""Weights that are not here cost seconds and their row, not minutes and the plan;
a plan that is too long says what would shorten it."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import constants
from rich.console import Console

from ssl_bench.backbones import weights as module
from ssl_bench.backbones.timm_hub import AbsentWeights
from ssl_bench.backbones.weights import open_weights
from ssl_bench.console.live import print_plan
from ssl_bench.errors import SpecError, WeightsError
from ssl_bench.plan.advice import WEEK
from ssl_bench.plan.estimate import Estimate, estimate
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.system.amounts import duration

TINY = {"name": "resnet10t", "width": 0.25, "stem_stride": 2}
DATA = {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 60}}


def matrix(**changes: Any) -> dict[str, Any]:
    base = {
        "name": "m", "data": DATA, "backbone": TINY, "pretrain": {"images": 64, "batch_size": 32, "monitor": 0},
        "tasks": ["rotation"],
        "baselines": ["random"], "evaluate": [{"knn": {"k": [5]}}],
    }  # fmt: skip
    return {**base, **changes}


def printed(run_plan: RunPlan, found: Estimate) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    print_plan(console, run_plan, found)
    return console.export_text()


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses every connection, and nothing opened before."""
    module._OPENED.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_plan_without_the_hub_is_made_of_what_is_here(tmp_path: Path) -> None:
    rows = ["timm:resnet18.a1_in1k", {"source": "timm:resnet50.a1_in1k", "row": "theirs"}]
    start = time.monotonic()
    run_plan = prepare(
        matrix(weights=rows, tasks=["rotation", {"rotation": {"init": "timm:resnet18.a1_in1k", "row": "started"}}]),
        tmp_path / "out",
        pack=False,
    )
    assert time.monotonic() - start < 20
    assert [row.name for row in run_plan.rows] == ["rotation", "random"] and set(run_plan.unseen) == {
        "timm:resnet18.a1_in1k",
        "theirs",
        "started",
    }
    found = estimate(run_plan, "a100")
    text = printed(run_plan, found)
    assert (
        found.missing == 2
        and "not in this plan: theirs: timm:resnet50.a1_in1k is not in timm's cache, and a plan downloads nothing"
        in text
    )
    assert not (tmp_path / "out").exists()


def test_a_run_without_the_hub_stops_before_training_and_within_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        SpecError,
        match=(
            r"timm:resnet18\.a1_in1k is not in timm's cache, "
            "and http://127.0.0.1:9 is out of reach .*or leave the row out"
        ),
    ):
        prepare(matrix(weights=["timm:resnet18.a1_in1k"]), tmp_path / "out")
    assert time.monotonic() - start < 20 and not (tmp_path / "out").exists()
    assert constants.HF_HUB_OFFLINE is False


def test_mistakes_are_told_without_the_hub_as_with_it(tmp_path: Path) -> None:
    for source, message in (
        ("timm:resnet19", "did you mean"),
        ("timm:resnet18.nothing", "no such pretrained weights"),
        ("file:nowhere", "does not exist"),
    ):
        with pytest.raises(SpecError, match=message):
            prepare(matrix(weights=[source]), tmp_path / "out", pack=False)


def test_weights_in_the_cache_need_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = timm.create_model, []

    def create(name: str, pretrained: bool = False, **settings: Any) -> Any:
        asked.append(constants.HF_HUB_OFFLINE)
        return original(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create)
    assert open_weights("timm:resnet18.a1_in1k", download=False).spec is not None
    assert asked == [True] and constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    module._OPENED.clear()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("not there")))
    with pytest.raises(AbsentWeights, match="HF_HUB_OFFLINE is set"):
        open_weights("timm:resnet18.a1_in1k")
    assert issubclass(AbsentWeights, WeightsError)


# ---- long plans
# ----------------------------------------------------------------------------------------------------------------------


def planned(tmp_path: Path, on: str | None = "v100", **changes: Any) -> tuple[RunPlan, Estimate]:
    run_plan = prepare(matrix(**changes), tmp_path / "out", pack=False)
    return run_plan, estimate(run_plan, on)


@pytest.mark.long
def test_a_plan_above_a_week_says_what_would_bring_it_down_and_it_does(tmp_path: Path) -> None:
    backbone = {"name": "resnet18"}
    changes: dict[str, Any] = {
        "seeds": list(range(30)),
        "pretrain": {"epochs": 1_000_000, "batch_size": 32},
        "backbone": backbone,
        "baselines": [],
    }
    run_plan, long = planned(tmp_path, **changes)
    assert long.seconds > WEEK and len(long.advice) == 4
    text = printed(run_plan, long)
    assert "more than a week; to bring it down: " in text
    advice = "; ".join(long.advice)
    assert (
        "one A100 80 GB (about" in advice
        and "one seed in place of 30" in advice
        and "backbone.width 1 -> 0.25" in advice
    )
    fits = float(advice.partition("pretrain.epochs 1,000,000 -> ")[2].partition(" fits")[0].replace(",", ""))
    for followed in (
        {"pretrain": {"epochs": fits, "batch_size": 32}},
        {"seeds": [0]},
        {"backbone": {**backbone, "width": 0.25}},
    ):
        assert planned(tmp_path, **{**changes, **followed})[1].seconds < long.seconds / 2
    assert planned(tmp_path, **{**changes, "pretrain": {"epochs": fits, "batch_size": 32}})[1].seconds == pytest.approx(
        WEEK, rel=0.1
    )
    faster = planned(tmp_path, on="a100", **changes)[1]
    assert f"one A100 80 GB (about {duration(faster.seconds)})" in advice
    assert not any("A100" in way for way in faster.advice)


def test_a_plan_whose_evaluation_is_long_names_the_evaluator(tmp_path: Path) -> None:
    finetune = {
        "finetune": {"labels": [0.5], "draws": 1_000, "steps": 10_000_000, "learning_rates": [0.1], "batch_size": 16}
    }
    _, long = planned(tmp_path, evaluate=[{"knn": {"k": [5]}}, finetune], tasks=[], backbone="resnet18")
    assert long.advice and any("less for the evaluator finetune, which takes" in way for way in long.advice)
    assert not any("pretrain." in way for way in long.advice), "a smaller budget would not help"


def test_a_short_plan_gives_no_advice(tmp_path: Path) -> None:
    run_plan, short = planned(tmp_path)
    assert short.advice == () and "week" not in printed(run_plan, short)


def test_unknown_hardware_is_told(tmp_path: Path) -> None:
    for name in ("h200", "", "x" * 10_000):
        with pytest.raises(SpecError, match="--on .*known are: a100, v100|--on .*did you mean"):
            planned(tmp_path, on=name)


def test_durations_are_read_at_every_length() -> None:
    texts = {
        0.4: "under 1 s",
        42: "42 s",
        7 * 60: "7 min",
        3 * 3600 + 300: "3 h 05 min",
        95 * 3600: "95 h 00 min",
        127 * 3600: "5 days 07 h",
        12 * 365 * 86_400: "12 years",
    }
    assert {seconds: duration(seconds) for seconds in texts} == texts


@pytest.mark.long
def test_a_plan_of_thousands_of_cells_stays_quick(tmp_path: Path) -> None:
    tasks = [{"autoencoder": {"row": str(number), "pad": number, "code_size": 8}} for number in range(8)]
    start = time.process_time()
    _, found = planned(tmp_path, seeds=list(range(200)), tasks=tasks, baselines=["random", "pixels"])
    assert found.missing == 2_000 and time.process_time() - start < 10
