"""Phases: recipes, views and steps of their own, hooks around every optimiser step, and the same bits after an
interruption."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batches
from ssl_bench.errors import Interrupted, TrainingError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.schedule import Schedule
from ssl_bench.training.cost import measure_cost
from ssl_bench.training.loop import fit
from ssl_bench.training.optimizers import build_optimizer, learning_rate_at, weight_decay_at
from ssl_bench.training.phases import Phases
from toys import Brightness, build, noise_set

RECIPES = {
    "network": Recipe(batch_size=16, learning_rate=1e-3, weight_decay=0.1, weight_decay_end=0.4),
    "critic": Recipe(batch_size=16, optimizer="sgd", learning_rate=0.05, weight_decay=0.0, schedule="constant"),
}


class Contest(Brightness):
    """A critic with views, a recipe and a rhythm of its own: two steps of it for each of the network, which starts
    late."""

    name = "contest"
    phases = ("network", "critic")

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.critic = nn.Linear(self.backbone.num_features, 1)
        self.calls: list[tuple[str, str]] = []
        self.rates: list[tuple[str, float]] = []

    def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
        return ("critic",) if step < 2 else ("critic", "critic", "network")

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if name.startswith("critic") == (phase == "critic")]

    def views(self, batch: Any, phase: str = "network") -> Any:
        self.calls.append(("views", phase))
        images = batch.images[:, :, :16, :16] if phase == "critic" else batch.images
        return super().views(type(batch)(images, batch.index))

    def forward(self, views: Any, phase: str = "network") -> dict[str, torch.Tensor]:  # type: ignore[override]
        if phase == "network":
            return super().forward(views)
        images, target = views
        return {"loss": F.mse_loss(self.critic(self.backbone(images).detach())[:, 0], target)}

    def before_step(self, phase: str = "network") -> None:
        self.calls.append(("before", phase))
        assert all(p.grad is not None for _, p in self.phase_parameters(phase))

    def after_step(self, phase: str = "network") -> None:  # type: ignore[override]
        self.calls.append(("after", phase))
        super().after_step()


def contest(steps: int = 6, task: Any = None, **settings: Any) -> tuple[Any, Any]:
    task = task or build(Contest)
    return task, fit(task, Batches(noise_set(), 16, 0), RECIPES, steps, seed=0, cost=False, **settings)


def test_every_phase_has_its_views_its_rhythm_and_its_hooks() -> None:
    task, result = contest(steps=4)
    critic, network = ([(call, phase) for call in ("views", "before", "after")] for phase in ("critic", "network"))
    assert task.calls == 2 * critic + 2 * (2 * critic + network)
    assert task.steps_seen == 2 + 2 * 3  # after_step after each optimiser step
    assert result.images_seen == 4 * 16
    assert {"critic/loss", "network/loss"} == set(result.metrics)


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 5])
def test_several_optimisers_go_on_to_the_same_bits_wherever_they_were_stopped(
    tmp_path: Any, stopped_after: int
) -> None:
    """Before and after the first step of the second optimiser, whose state is empty until then."""
    whole, expected = contest()
    checkpoint, steps = tmp_path / "c.safetensors", iter(range(1, 10))
    with pytest.raises(Interrupted):
        contest(checkpoint=checkpoint, stop=lambda: next(steps) == stopped_after)
    resumed, result = contest(task=build(Contest, seed=5), checkpoint=checkpoint)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert result.curves == expected.curves


def test_rates_follow_the_own_steps_of_a_phase() -> None:
    task = build(Contest)
    phases = Phases(task, RECIPES, 8)
    assert phases.totals == {"critic": 2 + 2 * 6, "network": 6}
    found = []
    for _ in range(6):
        groups = phases.next_step_of("network").param_groups
        found.append((groups[0]["lr"], groups[0]["weight_decay"], groups[1]["weight_decay"]))
    recipe = RECIPES["network"]
    assert [rate for rate, _, _ in found] == [learning_rate_at(recipe, step, 6) for step in range(6)]
    decay = [0.4 + (0.1 - 0.4) * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(6)]  # DINO's formula
    assert [decayed for _, decayed, _ in found] == pytest.approx(decay)
    assert {norms for _, _, norms in found} == {0.0}
    again = Phases(task, RECIPES, 8)
    again.begin_at(4)
    assert again.taken == {"critic": 2 + 4, "network": 2}


def test_a_recipe_without_a_schedule_decays_as_before() -> None:
    recipe = Recipe(weight_decay=0.1)
    assert {weight_decay_at(recipe, step, 5) for step in range(5)} == {0.1}
    groups = build_optimizer(build().phase_parameters("main"), recipe).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


class Frozen(Brightness):
    """Its head stays as it is in the first half of a run, although it would decay."""

    name = "frozen"

    def before_step(self) -> None:
        for parameter in self.head.parameters():
            assert parameter.grad is not None
            if self.progress < 0.5:
                parameter.grad = None


def test_what_loses_its_gradient_before_the_step_stays_as_it_is() -> None:
    recipe = Recipe(batch_size=16, learning_rate=1e-2, weight_decay=0.5, clip_norm=1.0)
    heads = []

    def watch(progress: Any) -> None:
        heads.append(task.head.weight.detach().clone())

    task = build(Frozen)
    start = task.head.weight.detach().clone()
    fit(task, Batches(noise_set(), 16, 0), recipe, 6, seed=0, cost=False, on_progress=watch)
    moved = [not torch.equal(head, before) for before, head in zip([start, *heads], heads, strict=False)]
    assert moved == [False] * 3 + [True] * 3


def test_clipping_comes_after_the_hook() -> None:
    class Large(Brightness):
        name = "large"

        def before_step(self) -> None:
            for parameter in self.parameters():
                parameter.grad = torch.full_like(parameter, 1e6)

    task = build(Large)
    before = [p.detach().clone() for p in task.parameters()]
    recipe = Recipe(
        batch_size=16, optimizer="sgd", learning_rate=1.0, schedule="constant", warmup=0.0, weight_decay=0.0,
        momentum=0.0, clip_norm=0.5,
    )  # fmt: skip
    fit(task, Batches(noise_set(), 16, 0), recipe, 1, seed=0, cost=False)
    change = torch.cat([(p.detach() - old).flatten() for p, old in zip(task.parameters(), before, strict=True)])
    assert float(change.norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("phases", "told"), [((), "no phase"), (("judge",), "the unknown phase 'judge'")])
def test_a_phase_that_there_is_not_is_told(phases: Any, told: str) -> None:
    class Lost(Contest):
        def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
            return super().phases_at(step, steps) if step < 1 else phases

    with pytest.raises(TrainingError, match=rf"contest: phases_at\(1, 6\) gives {told}"):
        contest(task=build(Lost))


def test_the_cost_of_a_phase_counts_as_often_as_it_is_stepped() -> None:
    class Alone(Contest):
        def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
            return (only,)

    batch, task = Batches(noise_set(), 16, 0).batch(0), build(Contest)
    only = "critic"
    critic = measure_cost(build(Alone), batch)
    only = "network"
    network = measure_cost(build(Alone), batch)
    steps = task.setup.steps
    expected = ((2 + 2 * (steps - 2)) * critic.passes + (steps - 2) * network.passes) / steps
    assert network.passes == 1 and critic.passes == 0.25
    assert measure_cost(task, batch, steps=steps).passes == pytest.approx(expected)


def test_schedules_against_their_formulas() -> None:
    momentum = Schedule(start=0.996, end=1.0)
    shares = [0, 0.25, 0.5, 0.9, 1]
    # BYOL: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2
    assert [momentum.at(k) for k in shares] == pytest.approx(
        [1 - 0.004 * (math.cos(math.pi * k) + 1) / 2 for k in shares]
    )
    warming = Schedule(start=0.04, end=0.07, curve="linear", until=0.3)  # DINO's teacher temperature
    assert [warming.at(k) for k in (0, 0.15, 0.3, 1)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert Schedule.model_validate(0.99).at(0.3) == 0.99
    read_back = Schedule.model_validate(warming.model_dump(mode="json"))
    assert read_back == warming
