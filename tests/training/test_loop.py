"""The loop: same bits after a kill, honest failures, schedules and groups as declared."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batches
from ssl_bench.errors import Interrupted, Notice, SpecError, TrainingError, WeightsError
from ssl_bench.spec.model import parse
from ssl_bench.spec.recipe import Recipe
from ssl_bench.training.cost import measure_cost
from ssl_bench.training.device import choose_device
from ssl_bench.training.loop import fit
from ssl_bench.training.monitor import Monitor
from ssl_bench.training.optimizers import build_optimizer, learning_rate_at
from toys import Brightness, build, noise_set

RECIPE = Recipe(batch_size=16, learning_rate=1e-3)


def train(steps: int = 6, seed: int = 0, task: Any = None, **settings: Any) -> tuple[Any, Any]:
    task = build(seed=seed) if task is None else task
    return task, fit(task, Batches(noise_set(), 16, seed), RECIPE, steps, seed=seed, **settings)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_same_seed_same_bits_and_another_seed_others() -> None:
    assert same(train()[0], train()[0])
    assert not same(train()[0], train(seed=1)[0])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    recipe = Recipe(batch_size=16, learning_rate=1e-2, optimizer=optimizer, weight_decay=1e-3)
    whole, stopped = build(), build()
    expected = fit(whole, Batches(noise_set(), 16, 0), recipe, 6, seed=0)
    checkpoint, asked = tmp_path / "c.safetensors", iter([False, False, True])
    with pytest.raises(Interrupted):
        fit(stopped, Batches(noise_set(), 16, 0), recipe, 6, seed=0, checkpoint=checkpoint, stop=lambda: next(asked))
    fresh = build(seed=5)  # other weights: everything must come from the checkpoint
    found = fit(fresh, Batches(noise_set(), 16, 0), recipe, 6, seed=0, checkpoint=checkpoint)
    assert same(whole, fresh)
    assert fresh.steps_seen == 6
    assert found.curves == expected.curves
    assert found.images_seen == expected.images_seen == 96


SCRIPT = """
import sys, time, pathlib
sys.path.insert(0, {tests!r})
from training.test_loop import *
task = build()
fit(task, Batches(noise_set(), 16, 0), RECIPE, 40, seed=0,
    checkpoint=pathlib.Path({checkpoint!r}), checkpoint_seconds=0.0,
    on_progress=lambda p: (print(p.step, flush=True), time.sleep(0.02)))
from safetensors.torch import save_file
save_file({{k: v.contiguous() for k, v in task.state_dict().items()}}, {final!r})
"""


def test_kill_9_in_the_middle_then_resume_gives_the_same_bits(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def start() -> subprocess.Popen[str]:
        script = SCRIPT.format(
            tests=str(Path(__file__).parents[1]), checkpoint=str(tmp_path / "ck"), final=str(tmp_path / "final")
        )
        return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)

    killed = start()
    assert killed.stdout is not None
    while int(killed.stdout.readline()) < 9:
        pass
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "final").exists()
    resumed = start()
    assert resumed.stdout is not None and int(resumed.stdout.readline()) >= 9  # went on, did not start again
    resumed.communicate()
    whole, _ = train(steps=40)
    found = load_file(tmp_path / "final")
    assert found.keys() == whole.state_dict().keys() and all(
        torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items()
    )


def test_a_checkpoint_of_another_run_is_refused_and_a_pickle_or_damage_starts_anew(tmp_path: Path) -> None:
    checkpoint, whole = tmp_path / "c.safetensors", train()[0].state_dict()
    with pytest.raises(Interrupted):
        train(checkpoint=checkpoint, stop=lambda asked=iter([False, True]): next(asked))
    with pytest.raises(WeightsError, match="another run: seed is 0 there and 1 here"):
        train(seed=1, checkpoint=checkpoint)
    saved = checkpoint.read_bytes()
    for content, told in (
        (saved[:1000], "damaged"),
        (b"", "is empty"),
        (pickle.dumps({"a": 1}), "no safetensors file"),
        (saved[:-1] + b"?", "not those"),
    ):
        checkpoint.write_bytes(content)
        with pytest.warns(Notice, match=f"{told}.* starts anew"):
            found = train(checkpoint=checkpoint)[0].state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in whole.items())
    checkpoint.unlink(missing_ok=True)
    checkpoint.mkdir()
    with pytest.raises(WeightsError, match="cannot be read: Is a directory; remove it"):
        train(checkpoint=checkpoint)


class Diverging(Brightness):
    """Loses its senses at the fourth step."""

    def forward(self, views: Any) -> dict[str, torch.Tensor]:
        found = super().forward(views)
        return {"loss": found["loss"] * float("nan")} if self.steps_seen >= 3 else found


def test_a_loss_that_is_not_finite_names_task_step_and_last_values() -> None:
    with pytest.raises(TrainingError, match=r"brightness: loss not finite at step 4; last finite values: loss 0\.\d+"):
        train(task=build(Diverging))


def test_learning_rate_against_the_formula() -> None:
    recipe = Recipe(learning_rate=2.0, warmup=0.2)
    rates = [learning_rate_at(recipe, step, 10) for step in range(10)]
    assert rates[:2] == pytest.approx([1.0, 2.0])
    assert rates[2:] == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(8)])
    assert min(rates) > 0  # no step is wasted on a rate of zero
    steps = Recipe(learning_rate=1.0, warmup=0, schedule="steps", milestones=(0.3, 0.6), gamma=0.2)
    assert [learning_rate_at(steps, step, 10) for step in (0, 2, 3, 5, 6, 9)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04, 0.04]
    )


def test_biases_and_norms_are_not_decayed() -> None:
    task = build()
    for optimizer in ("adamw", "sgd", "lars"):
        groups = build_optimizer(
            task.phase_parameters("main"), Recipe(optimizer=optimizer, weight_decay=0.1)
        ).param_groups
        assert {len(p.shape) > 1 for p in groups[0]["params"]} == {True} and groups[0]["weight_decay"] == 0.1
        assert {len(p.shape) > 1 for p in groups[1]["params"]} == {False} and groups[1]["weight_decay"] == 0
        assert sum(len(g["params"]) for g in groups) == len(list(task.parameters()))


def test_cost_counts_passes_and_flops() -> None:
    batch = Batches(noise_set(), 16, 0).batch(0)

    class Twice(Brightness):
        """Two passes, one of them at half size."""

        def forward(self, views: Any) -> dict[str, torch.Tensor]:
            images, target = views
            small = F.avg_pool2d(images, 2)
            return {"loss": F.mse_loss(self.head(self.backbone(images) + self.backbone(small))[:, 0], target)}

    assert measure_cost(build(), batch).passes == 1.0
    task = build(Twice)
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    assert measure_cost(task, batch).passes == 1.25
    assert all(torch.equal(before[name], tensor) for name, tensor in task.state_dict().items())

    class Line(Brightness):
        """A network whose FLOPs are known: 3072 -> 8 -> 1."""

        @classmethod
        def build_backbone(cls, make: Any, options: Any) -> nn.Module:
            network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8))
            network.num_features = 8
            return network

    forward_and_weights = 2 * (2 * 3072 * 8 + 2 * 8)  # products with data and for weight gradients
    # and the gradient that flows into the 8
    assert measure_cost(build(Line), batch).flops == forward_and_weights + 2 * 8


class Duel(Brightness):
    """Two phases with parameters of their own."""

    name = "duel"
    phases = ("first", "second")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.other = nn.Linear(self.backbone.num_features, 1)
        self.order: list[str] = []

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        wanted = ("other.",) if phase == "second" else ("backbone.", "head.")
        return [(name, p) for name, p in self.named_parameters() if name.startswith(wanted)]

    def forward(self, views: Any, phase: str = "first") -> dict[str, torch.Tensor]:  # type: ignore[override]
        images, target = views
        self.order.append(phase)
        head = self.head if phase == "first" else self.other
        features = self.backbone(images)
        return {"loss": F.mse_loss(head(features if phase == "first" else features.detach())[:, 0], target)}


def test_phases_are_stepped_in_order_and_recorded_apart() -> None:
    task = build(Duel)
    result = fit(task, Batches(noise_set(), 16, 0), RECIPE, 3, seed=0, cost=False)
    assert task.order == ["first", "second"] * 3
    assert {"first/loss", "second/loss"} <= set(result.curves)


def test_monitor_looks_and_never_changes_the_run() -> None:
    looked: list[int] = []

    def look(backbone: nn.Module) -> dict[str, float]:
        looked.append(1)
        torch.rand(100)  # a monitor may draw at random
        return {"knn": 0.5, "features/rankme": 3.0}

    rare = Monitor(lambda _: {"probe": 0.25}, 2)
    watched, result = train(steps=10, monitors=(Monitor(look, 5), rare))
    assert same(watched, train(steps=10)[0])
    assert result.curves["knn"].step == [2, 4, 6, 8, 10] and len(looked) == 5
    assert result.curves["features/rankme"].value == [3.0] * 5
    assert result.curves["probe"].step == [5, 10] and result.metrics["probe"] == 0.25


def test_progress_and_time_split() -> None:
    seen: list[Any] = []
    _, result = train(on_progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 7)) and seen[-1].seconds_left == 0
    parts = sum(seconds for name, seconds in result.seconds.items() if name not in ("total", "cpu"))
    assert 0 < parts <= result.seconds["total"] and result.seconds["cpu"] > 0 and result.seconds["backward"] > 0
    assert result.peak_memory > 1e7


def test_no_steps_and_unknown_devices_are_refused() -> None:
    with pytest.raises(SpecError, match="0 training steps"):
        train(steps=0)
    with pytest.raises(SpecError, match="device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"):
        choose_device("gpu")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_precision_asked_for_is_that_of_the_convolutions(precision: str, dtype: torch.dtype) -> None:
    task, seen = build(), set()
    for module in task.backbone.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    _, result = train(task=task, precision=precision, steps=2, cost=False)
    assert seen == {dtype}
    assert math.isfinite(result.metrics["loss"]) and {p.dtype for p in task.parameters()} == {torch.float32}


def test_what_is_measured_before_training_is_measured_once_a_run(tmp_path: Path) -> None:
    class Measured(Brightness):
        """Counts how often it is asked, and what it draws."""

        asked: list[float] = []

        def before_training(self) -> None:
            assert self.training
            self.asked.append(float(torch.rand(())))

    checkpoint, asked = tmp_path / "c.safetensors", iter([False, True])
    with pytest.raises(Interrupted):
        train(task=build(Measured), checkpoint=checkpoint, stop=lambda: next(asked), cost=False)
    train(task=build(Measured, seed=3), checkpoint=checkpoint)
    assert len(Measured.asked) == 1
    other = build(Measured)
    torch.rand(5)
    train(task=other, cost=False)
    assert Measured.asked[0] == Measured.asked[1]


def test_the_last_step_is_saved_for_a_caller_who_asks(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    train(checkpoint=checkpoint)
    assert not checkpoint.exists()
    task, whole = train(checkpoint=checkpoint, final_checkpoint=True)
    steps: list[Any] = []
    again, found = train(task=build(seed=5), checkpoint=checkpoint, final_checkpoint=True, on_progress=steps.append)
    assert (
        same(task, again)
        and not steps
        and (found.curves, found.images_seen, found.metrics) == (whole.curves, whole.images_seen, whole.metrics)
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"momentum": 0.5},
            "momentum = 0.5 changes nothing: it is a setting of optimizer: sgd and lars, and optimizer is adamw here",
        ),
        ({"nesterov": True}, "optimizer is adamw"), ({"momentum": 0.9}, "leave it out"),
        ({"trust_coefficient": 0.1}, "a setting of optimizer: lars"),
        ({"optimizer": "sgd", "trust_coefficient": 0.02}, "optimizer is sgd"),
        ({"optimizer": "lars", "betas": (0.9, 0.95)}, "a setting of optimizer: adamw"),
        ({"milestones": (0.5,)}, "a setting of schedule: steps"),
        ({"schedule": "constant", "gamma": 0.5}, "schedule is constant"),
        ({"schedule": "steps"}, "steps without milestones"),
        ({"schedule": "steps", "gamma": 0.5}, "steps without milestones"),
    ],
)  # fmt: skip
def test_settings_that_would_change_nothing_are_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(Recipe, written, "recipe")
    with pytest.raises(SpecError, match=f"task 'x': .*{message}"):
        Recipe().overridden(written, "task 'x'")


def test_what_a_recipe_leaves_unused_is_not_held_against_who_changes_another_setting() -> None:
    steps = Recipe(optimizer="sgd", momentum=0.8, nesterov=True, schedule="steps", milestones=(0.3, 0.6), gamma=0.2)
    found = steps.overridden({"optimizer": "adamw", "schedule": "cosine", "betas": (0.9, 0.95)}, "x")
    assert found.model_dump() == steps.model_dump() | {"optimizer": "adamw", "schedule": "cosine", "betas": (0.9, 0.95)}
    assert steps.overridden({"momentum": 0.5, "milestones": [0.5]}, "x").milestones == (0.5,)
    for recipe in (steps, found, Recipe(), Recipe(optimizer="lars", trust_coefficient=0.02)):
        assert parse(Recipe, recipe.model_dump(mode="json"), "a record") == recipe
    with pytest.raises(SpecError, match="learning_rate"):
        steps.overridden({"learning_rate": -1}, "x")
