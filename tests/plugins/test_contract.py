"""What the contract of a method allows, each shown by a plugin that needs it: it passes its battery and a real run."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from commands import TINY, call, start
from toys import noise_set
from ssl_bench import PretextTask, load_backbone
from ssl_bench.backbones import inputs
from ssl_bench.data.batches import Batches
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.contracts import contract_problem
from ssl_bench.testing import check_task, task_checks

from . import gan, input_kinds, multi_crop, scheduled_momentum, second_column

HERE = Path(__file__).parent
PLUGINS = [
    gan.Gan,
    scheduled_momentum.ScheduledMomentum,
    input_kinds.TurnedColours,
    multi_crop.MultiCrop,
    second_column.SecondColumn,
]


def words(folder: Path, plugin: str, *rows: Any, **changes: Any) -> list[str]:
    """A command's words for a tiny matrix of one plugin."""
    matrix = TINY | {"tasks": list(rows or [plugin])} | changes
    (folder / "tiny.yaml").write_text(json.dumps(matrix))
    return ["tiny.yaml", "--plugin", str(HERE / f"{plugin}.py"), "--skip-checks"]


def record(folder: Path, row: str) -> dict[str, Any]:
    (file,) = (folder / "runs" / "tiny" / "cells" / row).glob("*/pretrain.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("task", PLUGINS, ids=lambda task: task.name)
def test_it_passes_its_battery(task: type[PretextTask]) -> None:
    results = check_task(task)
    assert not [(result.name, result.message) for result in results if result.status in ("failed", "warning")]


@pytest.mark.parametrize("name", ["gan", "scheduled_momentum", "multi_crop", "second_column"])
def test_it_runs_in_a_matrix(tmp_path: Path, name: str) -> None:
    ended = call(tmp_path, "run", *words(tmp_path, name))
    assert ended.code == 0, ended.err
    assert name in ended.out and record(tmp_path, name)["steps"] == 2


def test_a_gan_killed_between_its_optimisers_steps_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    changes = {"pretrain": {"images": 32 * 30, "batch_size": 32, "monitor": 0, "checkpoint_seconds": 0.001}}
    weights = []
    for folder, kill in ((tmp_path / "whole", False), (tmp_path / "killed", True)):
        folder.mkdir()
        command = words(folder, "gan", **changes)
        if kill:
            running = start(folder, "run", *command)
            running.until(lambda folder=folder: list((folder / "runs").glob("tiny/cells/gan/*/checkpoint*")))
            running.send(signal.SIGKILL)
            assert running.wait().code == -signal.SIGKILL
            assert not list((folder / "runs").glob("tiny/cells/gan/*/pretrain.json"))
        ended = call(folder, "run", *command)
        assert ended.code == 0, ended.err
        (file,) = (folder / "runs").glob("tiny/cells/gan/*/task.safetensors")
        weights.append(load_file(file))
    whole, resumed = weights
    assert whole.keys() == resumed.keys() and all((whole[name] == resumed[name]).all() for name in whole)


def test_settings_of_a_phase_stand_below_its_name_and_enter_the_id(tmp_path: Path) -> None:
    rows = [
        {"gan": {"row": "plain"}},
        {"gan": {"row": "fast", "recipe": {"learning_rate": 0.01}}},
        {"gan": {"row": "critic", "recipe": {"critic": {"learning_rate": 0.01, "clip_norm": 1.0}}}},
    ]
    plan = prepare({**TINY, "tasks": rows}, tmp_path / "run", plugins=(HERE / "gan.py",))
    cells = {row.name: plan.cell(row, row.candidates[0], 0) for row in plan.rows if row.name != "random"}
    recipes = {name: cell.candidate.recipes for name, cell in cells.items()}
    rates = {name: (of["critic"].learning_rate, of["generator"].learning_rate) for name, of in recipes.items()}
    base = rates["plain"][0]
    assert rates == {"plain": (base, base / 2), "fast": (0.01, 0.005), "critic": (0.01, base / 2)}
    assert recipes["critic"]["critic"].clip_norm == 1.0 and recipes["critic"]["generator"].clip_norm is None
    assert len({cell.id for cell in cells.values()}) == 3
    assert set(cells["plain"].spec["phase_recipes"]) == {"critic", "generator"}
    assert "weight_decay_end" not in cells["plain"].spec["recipe"]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"judge": {"learning_rate": 0.1}}, "unknown setting 'judge'"),
        ({"critic": {"batch_size": 16}}, "batch_size is that of the row (32), because phases share a batch"),
        ({"critic": {"rate": 0.1}}, "recipe of phase 'critic': unknown key 'rate'"),
        ({"critic": 0.1}, "settings are written as {setting: value}"),
        ({"critic": {"momentum": 0.5}}, "momentum = 0.5 changes nothing"),
    ],
)
def test_wrong_settings_of_a_phase_are_refused(tmp_path: Path, recipe: dict[str, Any], told: str) -> None:
    ended = call(tmp_path, "run", *words(tmp_path, "gan", {"gan": {"recipe": recipe}}))
    assert ended.code == 2 and told in ended.err


def test_a_schedule_can_be_varied_by_a_matrix(tmp_path: Path) -> None:
    rows = [
        {"scheduled_momentum": {"row": "constant", "options": {"momentum": 0.5}}},
        {"scheduled_momentum": {"row": "line", "options": {"momentum": {"start": 0.5, "end": 1, "curve": "linear"}}}},
    ]
    ended = call(tmp_path, "run", *words(tmp_path, "scheduled_momentum", *rows))
    assert ended.code == 0, ended.err
    options = [record(tmp_path, row)["spec"]["options"]["momentum"] for row in ("constant", "line")]
    assert [(of["start"], of["end"], of["curve"]) for of in options] == [(0.5, 0.5, "cosine"), (0.5, 1.0, "linear")]
    assert record(tmp_path, "line")["spec"]["recipe"]["weight_decay_end"] == 0.4


def test_kinds_of_input_that_a_task_brings_are_measured_judged_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"evaluate": ["linear", {"knn": {"k": [5]}}]}
    ended = call(tmp_path, "run", *words(tmp_path, "input_kinds", "turned_colours", "turned_edges", **changes))
    assert ended.code == 0, ended.err
    files = [
        next((tmp_path / "runs/tiny/cells" / row).glob("*/backbone.safetensors"))
        for row in ("turned_colours", "turned_edges")
    ]
    backbones = [load_backbone(file) for file in files]  # this process has the plugin
    assert [(backbone.input.kind, backbone.input.channels) for backbone in backbones] == [("ab", 2), ("sobel", 2)]
    with_colours, with_edges = (backbone.input for backbone in backbones)
    assert all(1 < deviation < 60 for deviation in with_colours.std)  # of a and b in CIE Lab
    assert all(
        abs(mean) < 0.02 < deviation < 0.5 for mean, deviation in zip(with_edges.mean, with_edges.std, strict=True)
    )
    assert record(tmp_path, "turned_edges")["describe"]["input"] == "sobel"
    monkeypatch.delitem(inputs._KINDS, "ab")
    told = call(tmp_path, "run", *words(tmp_path, "gan", {"rotation": {"init": f"file:{files[0]}"}}))
    assert told.code == 2 and "unknown input kind 'ab'" in told.err and "--plugin FILE" in told.err


def test_a_column_may_hold_an_image_beside_each_image() -> None:
    depth = np.arange(64 * 8 * 8, dtype=np.float32).reshape(64, 1, 8, 8)  # a second modality, or the next frame
    batches = Batches(replace(noise_set(), columns={"depth": depth}), 16, 0, columns=frozenset({"depth"}))
    batch = batches.batch(2)
    assert torch.equal(batch.extra["depth"], torch.from_numpy(depth)[batch.index])


def test_a_column_that_the_images_lack_is_told_before_training(tmp_path: Path) -> None:
    plugin = tmp_path / "posed.py"
    text = (HERE / "second_column.py").read_text()
    plugin.write_text(text.replace("second_column", "posed").replace('"hue"', '"pose"'))
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY | {"tasks": ["posed"]}))
    ended = call(tmp_path, "run", "tiny.yaml", "--plugin", "posed.py")
    assert ended.code == 2 and "task 'posed' needs the column 'pose', which shapes lacks; it has: " in ended.err


def test_the_examples_of_the_guide_are_working_code() -> None:
    """Every class in docs/new_task.md is registered as a plugin would be, and the complete task passes its quick
    checks."""
    guide = HERE.parents[1] / "docs" / "new_task.md"
    if not guide.is_file():
        pytest.skip("no checkout: the guide is not installed")
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks:
        exec(compile(block, str(guide), "exec", dont_inherit=True), names)
    tasks = [value for value in names.values() if isinstance(value, type) and issubclass(value, PretextTask)]
    assert len(blocks) >= 5 and {"upside_down", "teacher", "contest"} <= {task.__dict__.get("name") for task in tasks}
    for task in tasks:
        if "name" in task.__dict__:
            assert not contract_problem(task, PretextTask, "task")
            needed = ("options", "builds", "loss", "gradients", "phases", "hooks", "trained", "interruption")
            results = [check.run() for check in task_checks(task) if check.name in needed]
            assert not [result for result in results if not result], results
