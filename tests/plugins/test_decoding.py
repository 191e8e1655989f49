"""Tasks that decode, draw, have several codes and watch over their health; evaluators say which of it they need."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import ssl_bench
from ssl_bench import Health
from ssl_bench.console.printing import print_cell
from ssl_bench.errors import SpecError
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.schema import safe_name
from toys import build

PLUGIN = Path(__file__).with_name("two_codes.py")
DATA = {"source": "shapes", "size": 32, "limit": {"train": 240, "test": 96}}
NARROW = {"name": "resnet10t", "width": 0.125, "stem_stride": 2}


def test_evaluators_judge_the_rows_that_offer_what_they_need(tmp_path: Path) -> None:
    spec = {
        "name": "codes", "data": DATA, "backbone": NARROW, "pretrain": {"images": 64, "batch_size": 32, "monitor": 0},
        "tasks": ["two_codes", "two_codes+rotation", "vae", "rotation"], "baselines": [],
        "evaluate": ["rebuilding", "drawing", {"knn": {"k": [5]}}],
    }  # fmt: skip
    results = ssl_bench.run(spec, tmp_path, plugins=[PLUGIN], skip_checks=True)
    assert not len(results.failures)
    frame = results.frame
    judged = {name: set(frame[frame["evaluator"] == name]["row"]) for name in ("rebuilding", "drawing", "knn")}
    assert judged == {
        "rebuilding": {"two_codes", "two_codes+rotation"},
        "drawing": {"two_codes", "two_codes+rotation", "vae"},
        "knn": {"two_codes", "two_codes+rotation", "vae", "rotation"},
    }
    stages = set(frame[(frame["evaluator"] == "knn") & (frame["row"] == "two_codes")]["stage"])
    assert {"top", "bottom", "both"} <= stages
    rebuilding = frame[(frame["evaluator"] == "rebuilding") & (frame["split"] == "validation")]
    for row in ("two_codes", "two_codes+rotation"):
        errors = rebuilding[rebuilding["row"] == row].set_index("metric")["value"]
        assert errors["whole"] != errors["upper_half"] and 0 < errors["whole"] < 1
    for row, sign in (("two_codes", "code_spread"), ("two_codes+rotation", "two_codes/code_spread")):
        health = json.loads(next(tmp_path.glob(f"cells/{safe_name(row)}/*/pretrain.json")).read_text())["health"]
        assert health[sign]["low"] == 0.001 and health[sign]["value"] > 0
    _the_alarm_is_told(tmp_path, results, health["two_codes/never_met"]["value"])


def _the_alarm_is_told(folder: Path, results: ssl_bench.Results, value: float) -> None:
    """Below the table, in every form of it, and by ``show``, which prints bounds that are kept too."""
    table = results.table()
    alarm = f"two_codes+rotation, seed 0: two_codes/never_met is {value:.4g}, and must be at least 1000"
    told = [text for sign, text in table.legend if sign == "health"]
    assert len(told) == 2 and alarm in told and told[0].startswith("two_codes, seed 0: never_met is ")
    brief = " ".join(table.terminal(100).split())
    assert "two_codes, seed 0: never_met is" in brief and "and must be at least 1000; one more alarm" in brief
    for name in ("table.md", "table.html"):
        text = html.unescape((folder / name).read_text()).replace("\\", "")
        assert alarm in text, name
    shown = io.StringIO()
    print_cell(Console(file=shown, width=200), folder, "two_codes+rotation", "0")
    assert f"health: two_codes/never_met: {value:.4g} (at least 1000); OUT OF BOUNDS\n" in shown.getvalue()
    assert "(at least 0.001)\n" in shown.getvalue()


def test_a_combination_offers_what_its_members_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TASKS, EVALUATORS):
        monkeypatch.setattr(registry, "_added", {})
    load_plugin(PLUGIN)
    combined = TASKS.get("two_codes+rotation")
    assert combined.offers() == {"codes", "missing", "decode", "sample"}
    assert combined.parts == ("two_codes/top", "two_codes/bottom")
    assert TASKS.get("rotation+colorization").offers() == frozenset()
    task = build(combined).eval()
    member, images = task.tasks[0], torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        codes, missing = task.codes(images), task.codes(images, missing={"two_codes/bottom"})
        assert set(codes) == {"two_codes/top", "two_codes/bottom", "two_codes/both"}
        assert torch.equal(missing["two_codes/both"], member.codes(images, missing={"bottom"})["both"])
        assert torch.equal(task.decode(codes["two_codes/both"]), member.decode(codes["two_codes/both"]))
        assert task.sample(3).shape == (3, 3, 32, 32)
    assert set(task.health()) == {"two_codes/code_spread", "two_codes/never_met"}
    with pytest.raises(SpecError, match="has no part 'bottom'; its parts are two_codes/top, two_codes/bottom"):
        task.codes(images, missing={"bottom"})


def test_a_combination_does_not_guess_which_member_decodes() -> None:
    combined = TASKS.get("autoencoder+vae")
    assert combined.offers() == {"codes", "sample"}
    task = build(combined).eval()
    with torch.no_grad():
        assert task.sample(2).shape == (2, 3, 32, 32)
    with pytest.raises(SpecError, match=r"2 members have decode\(\) \(autoencoder, vae\)"):
        task.decode(torch.zeros(1, 128))


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
