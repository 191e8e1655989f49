"""A schedule that is cut short: the beginning of a long run, to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_bench.data.batches import Batches
from ssl_bench.errors import Interrupted, SpecError, WeightsError
from ssl_bench.spec.recipe import Recipe
from ssl_bench.spec.schedule import Schedule
from ssl_bench.training.loop import fit
from ssl_bench.training.optimizers import learning_rate_at, weight_decay_at
from ssl_bench.training.phases import Phases
from toys import Brightness, build, noise_set

LONG, SHORT = 40, 6
RECIPE = Recipe(
    batch_size=16, learning_rate=1e-2, warmup=0.1, weight_decay=0.1, weight_decay_end=0.4, optimizer="adamw"
)


class Watched(Brightness):
    """A momentum by the progress of the run, which acts on the weights; phases whose order hangs on its length."""

    name = "watched"
    phases = ("network", "head")

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.slow = nn.Linear(self.backbone.num_features, 1)
        self.seen: list[float] = []

    def phases_at(self, step: int, steps: int) -> tuple[str, ...]:
        return ("head",) if step < 0.05 * steps else ("network", "head")

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if name.startswith("head") == (phase == "head")]

    def forward(self, views: Any, phase: str = "network") -> dict[str, torch.Tensor]:  # type: ignore[override]
        images, target = views
        loss = F.mse_loss(self.head(self.backbone(images))[:, 0], target)
        return {"loss": loss + 0 * self.slow.weight.sum() + 0 * self.slow.bias.sum()}

    def after_step(self, phase: str = "network") -> None:  # type: ignore[override]
        super().after_step()
        self.seen.append(self.progress)
        momentum = Schedule(start=0.5, end=1.0).at(self.progress)
        with torch.no_grad():
            self.slow.weight.mul_(momentum).add_(self.head.weight, alpha=1 - momentum)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """(phase, learning rate, weight decay) of every step taken."""
    taken: list[tuple[str, float, float]] = []
    real = Phases.next_step_of

    def watched(phases: Phases, phase: str) -> Any:
        optimizer = real(phases, phase)
        taken.append((phase, optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))
        return optimizer

    monkeypatch.setattr(Phases, "next_step_of", watched)
    return taken


def train(task: Any, steps: int, **settings: Any) -> Any:
    """64 images in batches of 16: the long run is of ten epochs, the short one ends in its second."""
    fit(task, Batches(noise_set(), 16, 0), RECIPE, steps, seed=0, cost=False, **settings)
    return task


def begun(task: Any, **settings: Any) -> Any:
    """The long run, stopped after the steps of the short one."""
    asked = iter([False] * (SHORT - 1) + [True])
    with pytest.raises(Interrupted):
        train(task, LONG, stop=lambda: next(asked), **settings)
    return task


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", [Brightness, Watched])
def test_rates_progress_and_weights_are_those_of_the_long_run(
    kind: type[Brightness], rates: list[tuple[str, float, float]]
) -> None:
    long = begun(build(kind))
    of_long = rates.copy()
    rates.clear()
    cut = train(build(kind), SHORT, schedule_steps=LONG)
    assert rates == of_long and same(cut, long)
    rates.clear()
    short = train(build(kind), SHORT)
    assert rates != of_long and not same(short, long)
    if isinstance(long, Watched):
        assert long.seen == cut.seen == [0, 1 / LONG, *(step / LONG for step in (2, 2, 3, 3, 4, 4, 5, 5))]


def test_rates_against_the_formula(rates: list[tuple[str, float, float]]) -> None:
    train(build(), SHORT, schedule_steps=LONG)
    assert [rate for _, rate, _ in rates] == [learning_rate_at(RECIPE, step, LONG) for step in range(SHORT)]
    assert [decay for *_, decay in rates] == [weight_decay_at(RECIPE, step, LONG) for step in range(SHORT)]
    # a tenth of the long run warms up: four steps, of the short one it would be one
    assert rates[3][1] == pytest.approx(RECIPE.learning_rate) and rates[0][1] < 0.3 * RECIPE.learning_rate


def test_a_cut_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, file = train(build(Watched), SHORT, schedule_steps=LONG), tmp_path / "c.safetensors"
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        train(build(Watched), SHORT, schedule_steps=LONG, checkpoint=file, stop=lambda: next(asked))
    for other in ({}, {"schedule_steps": LONG + 1}):
        with pytest.raises(WeightsError, match="belongs to another run: schedule_steps is 40 there"):
            train(build(Watched), SHORT, checkpoint=file, **other)
    assert same(train(build(Watched, seed=5), SHORT, schedule_steps=LONG, checkpoint=file), whole)


def test_a_schedule_is_not_drawn_out() -> None:
    with pytest.raises(SpecError, match="a schedule of 5 steps ends before the 6 steps trained"):
        train(build(), SHORT, schedule_steps=5)
    assert same(train(build(), SHORT, schedule_steps=SHORT), train(build(), SHORT))
