"""Tasks that decode, draw, have several codes and watch over their health; evaluators say which of it they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ssl_bench
from ssl_bench import Health
from ssl_bench.plugins.registry import EVALUATORS, TASKS, load_plugin
from toys import build

PLUGIN = Path(__file__).with_name("two_codes.py")
DATA = {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}}
NARROW = {"name": "resnet10t", "width": 0.125, "stem_stride": 2}


def test_evaluators_judge_the_rows_that_offer_what_they_need(tmp_path: Path) -> None:
    spec = {
        "name": "codes", "data": DATA, "backbone": NARROW, "pretrain": {"images": 64, "batch_size": 32, "monitor": 0},
        "tasks": ["two_codes", "vae", "rotation"], "baselines": [],
        "evaluate": ["rebuilding", "drawing", {"knn": {"k": [5]}}],
    }  # fmt: skip
    results = ssl_bench.run(spec, tmp_path, plugins=[PLUGIN], skip_checks=True)
    assert not len(results.failures)
    frame = results.frame
    judged = {name: set(frame[frame["evaluator"] == name]["row"]) for name in ("rebuilding", "drawing", "knn")}
    assert judged == {
        "rebuilding": {"two_codes"},
        "drawing": {"two_codes", "vae"},
        "knn": {"two_codes", "vae", "rotation"},
    }
    stages = set(frame[(frame["evaluator"] == "knn") & (frame["row"] == "two_codes")]["stage"])
    assert {"top", "bottom", "both"} <= stages
    errors = frame[(frame["evaluator"] == "rebuilding") & (frame["split"] == "validation")].set_index("metric")["value"]
    assert errors["whole"] != errors["upper_half"] and 0 < errors["whole"] < 1
    health = json.loads(next(tmp_path.glob("cells/two_codes/*/pretrain.json")).read_text())["health"]
    assert health["code_spread"]["low"] == 0.001 and health["code_spread"]["value"] > 0


def test_health_beyond_its_bounds_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ssl_bench.plan.context import RunContext

    told: list[str] = []
    original = RunContext.__init__

    def watched(self: Any, *words: Any, **settings: Any) -> None:
        original(self, *words, **{**settings, "on_note": told.append})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunContext, "__init__", watched)
        ssl_bench.pretrain(
            "two_codes",
            DATA,
            images=64,
            backbone=NARROW,
            options={"batch_size": 32},
            plugins=[PLUGIN],
            skip_checks=True,
        )
    assert any(
        note.startswith("two_codes: never_met is ") and note.endswith(", and must be at least 1000") for note in told
    )
    assert not any("code_spread" in note for note in told)


@pytest.mark.parametrize(
    ("sign", "alarm"),
    [
        (Health(1.0), ""),
        (Health(0.5, low=0.5, high=0.5), ""),
        (Health(0.4, low=0.5), "is 0.4, and must be at least 0.5"),
        (Health(2.0, high=1.0), "is 2, and must be at most 1"),
        (Health(float("nan"), low=0.0), "is nan, and must be at least 0"),
    ],
)
def test_an_alarm_says_what_is_wrong(sign: Health, alarm: str) -> None:
    assert sign.alarm == alarm


def test_built_in_autoencoders_decode_their_codes() -> None:
    task = build(TASKS.get("vae")).eval()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        decoded = task.decode(task.codes(images)["mu"])
        expected = (task.reconstruct(images) * task.backbone.std + task.backbone.mean).clamp(0, 1)
        drawn = task.sample(3)
    assert torch.equal(decoded, expected) and drawn.shape == (3, 3, 32, 32) and 0 <= drawn.min() <= drawn.max() <= 1
    assert TASKS.get("vae").offers() == {"codes", "decode", "sample"} and TASKS.get("rotation").offers() == frozenset()


def test_an_evaluator_that_needs_a_task_cannot_judge_a_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TASKS, EVALUATORS):
        monkeypatch.setattr(registry, "_added", {})
    load_plugin(PLUGIN)
    network = build(TASKS.get("rotation")).backbone
    with pytest.raises(
        ssl_bench.SSLBenchError, match="'drawing' needs 'sample' of a task, and a network is all there is"
    ):
        ssl_bench.evaluate(network, DATA, ["drawing"])


def test_an_unknown_need_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EVALUATORS, "_added", {})
    (tmp_path / "odd.py").write_text(
        PLUGIN.read_text().replace('{"sample"}', '{"samples"}').replace('"two_codes"', '"odd_codes"')
    )
    with pytest.raises(
        ssl_bench.SSLBenchError, match=r"has needs = frozenset\(\{'samples'\}\), and it must be a set of some of codes"
    ):
        load_plugin(tmp_path / "odd.py")
