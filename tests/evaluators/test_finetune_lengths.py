"""Fine-tuning that chooses its length: which pairs are tried, on what, and which is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_bench.data.splits import draw
from ssl_bench.errors import Interrupted, SpecError, TrainingError
from ssl_bench.evaluators import training as _training
from ssl_bench.evaluators.finetune import runs
from ssl_bench.evaluators.finetune.evaluator import Finetune
from ssl_bench.evaluators.finetune.halving import choose_by_halving, rungs, trial_steps
from ssl_bench.spec.model import parse
from ssl_bench.spec.task_role import TaskRole
from ssl_bench.training.optimizers import learning_rate_at
from tests.evaluators.test_finetune import by_place, subject_of, tinted


def options_of(**options: Any) -> Any:
    return parse(Finetune.Options, options, "finetune")


def lengths(subject: Any, *steps: int, **options: Any) -> Any:
    """A fine-tuning that chooses among lengths, without the ``steps`` that the other tests give."""
    defaults = {"lengths": list(steps), "batch_size": 16, "learning_rates": [0.01, 0.03, 0.1]}
    return Finetune(options_of(**defaults | options)).evaluate(subject)


def test_the_longer_length_wins_where_the_short_one_has_not_learned_yet() -> None:
    run = lengths(subject_of(), 3, 60).details["runs"][0]
    assert (run["steps"], run["longest"], run["lengths"]) == (60, True, [3, 60])
    assert [trial["steps"] for trial in run["tried"]] == [1, 1, 1, 3, 3, 60]
    scores = {(trial["steps"], trial["learning_rate"]): trial["score"] for trial in run["tried"]}
    assert min(scores.values()) == scores[60, run["learning_rate"]]


def test_the_shorter_length_wins_where_the_long_one_learns_noise_by_heart() -> None:
    """Labels that say nothing: what is learned on them only costs on others."""
    train, validation = tinted(60, 0), tinted(60, 1)
    noise = np.random.default_rng(3)
    subject = replace(
        subject_of(),
        train=replace(train, labels=noise.permutation(train.labels)),
        validation=replace(validation, labels=noise.permutation(validation.labels)),
    )
    run = lengths(subject, 3, 90).details["runs"][0]
    assert (run["steps"], run["longest"]) == (3, False) and run["chosen_by"] == "log loss"


def test_every_trial_is_a_whole_run_with_a_schedule_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with all labels the chosen one is what test is judged on: nothing is trained once more; also of random."""
    taken: list[tuple[int, float, int]] = []
    real = _training.fit

    def counting(task: Any, batches: Any, recipe: Any, steps: int, **settings: Any) -> Any:
        taken.append((steps, recipe.learning_rate, settings["seed"]))
        assert recipe.schedule == "cosine" and recipe.weight_decay == 0
        assert learning_rate_at(recipe, steps - 1, steps) < 0.4 * recipe.learning_rate
        return real(task, batches, recipe, steps, **settings)

    monkeypatch.setattr(_training, "fit", counting)
    found = lengths(subject_of(role=TaskRole.UNTRAINED), 12, 24)
    assert [steps for steps, *_ in taken] == [4, 4, 4, 12, 12, 24] and len({seed for *_, seed in taken}) == 1
    assert set(by_place(found)) == {(1.0, 0, "")} and len(found.details["runs"]) == 1
    assert sum(steps for steps, *_ in taken) == trial_steps([12, 24], 3)
    again = lengths(subject_of(), 12, 24)
    assert again.measurements == found.measurements  # the role changes nothing
    assert all(np.array_equal(again.predictions[key], found.predictions[key]) for key in found.predictions)
    score = next(m.value for m in found.measurements if (m.metric, m.split) == ("top1", "test"))
    assert score == (found.predictions["1/0"] == subject_of().labels("test")).mean()


def test_no_label_outside_the_draw_decides_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of()
    drawn = draw(subject.labels("train"), 0.25, 0, 0)
    monkeypatch.setattr(runs, "draw", lambda *_: drawn)
    lies, pixels = subject.labels("train").copy(), subject.train.pixels.copy()
    outside = np.setdiff1d(np.arange(120), drawn)
    lies[outside], pixels[outside] = (lies[outside] + 1) % 3, 0
    lied_to = replace(
        subject,
        train=replace(subject.train, labels=lies, pixels=pixels),
        validation=replace(subject.validation, labels=(subject.labels("validation") + 1) % 3),
    )
    honest, other = (lengths(asked, 4, 12, labels=0.25) for asked in (subject, lied_to))
    np.testing.assert_array_equal(honest.predictions["0.25/0"], other.predictions["0.25/0"])
    (first,), (second,) = honest.details["runs"], other.details["runs"]
    assert first["tried"] == second["tried"] and len(first["tried"]) == 6
    assert first["images"] == 30 and first["chosen_on"] == "a fifth of the draw"


def test_of_a_share_the_whole_draw_is_trained_on_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    real = _training.fit

    def counting(task: Any, batches: Any, recipe: Any, steps: int, **settings: Any) -> Any:
        taken.append((steps, len(batches.store)))
        return real(task, batches, recipe, steps, **settings)

    monkeypatch.setattr(_training, "fit", counting)
    (run,) = lengths(subject_of(), 3, 9, labels=0.5).details["runs"]
    assert taken[:-1] == [(1, 48), (1, 48), (1, 48), (3, 48), (3, 48), (9, 48)] and taken[-1] == (run["steps"], 60)


def test_where_no_image_can_be_held_back_nothing_is_chosen() -> None:
    (run,) = lengths(subject_of(), 2, 4, 8, labels=0.025).details["runs"]
    assert (run["steps"], run["learning_rate"], run["longest"], run["tried"]) == (4, 0.03, False, [])


@pytest.mark.parametrize("stops_after", [4, 14])
def test_a_stopped_choice_goes_on_to_the_same_bits(tmp_path: Path, stops_after: int) -> None:
    whole = lengths(subject_of(), 3, 9, labels=[0.5, 1.0])
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > stops_after

    kept: dict[str, Any] = {"parts": tmp_path / "parts", "checkpoint_seconds": 1e-9}
    with pytest.raises(Interrupted):
        lengths(subject_of(stop=stop, **kept), 3, 9, labels=[0.5, 1.0])
    told: list[str] = []
    again = lengths(subject_of(progress=told.append, **kept), 3, 9, labels=[0.5, 1.0])
    assert again.measurements == whole.measurements
    assert all(np.array_equal(again.predictions[key], whole.predictions[key]) for key in whole.predictions)
    tried = [[run["tried"], run["steps"]] for run in again.details["runs"]]
    assert tried == [[run["tried"], run["steps"]] for run in whole.details["runs"]]


# -- the choice alone, on losses made by hand --


def chosen(losses: dict[tuple[int, float], float | None], steps: Sequence[int], rates: Sequence[float]) -> Any:
    tried: list[tuple[int, float]] = []

    def trial(length: int, rate: float) -> float | None:
        tried.append((length, rate))
        return losses[length, rate]

    return choose_by_halving(steps, rates, trial), tried


def test_the_best_whole_run_is_taken_and_the_first_rung_only_ranks() -> None:
    losses = {
        (333, 0.01): 0.1, (333, 0.03): 0.3, (333, 0.1): 0.2,
        (1000, 0.01): 0.6, (1000, 0.1): 0.5, (3000, 0.1): 0.55,
    }  # fmt: skip
    best, tried = chosen(losses, [3000, 1000], [0.1, 0.01, 0.03])
    assert best == (1000, 0.1)  # not 333 steps, however low their loss
    assert tried == [(333, 0.01), (333, 0.03), (333, 0.1), (1000, 0.01), (1000, 0.1), (3000, 0.1)]


def test_equal_losses_take_the_shorter_run() -> None:
    losses = dict.fromkeys([(333, 0.01), (333, 0.1), (1000, 0.01), (3000, 0.01)], 0.5)
    assert chosen(losses, [1000, 3000], [0.01, 0.1])[0] == (1000, 0.01)


def test_a_run_that_diverges_gives_way_to_the_next_best() -> None:
    losses: dict[tuple[int, float], float | None] = {
        (1, 0.01): 0.3, (1, 0.03): 0.2, (1, 0.1): 0.1,
        (3, 0.1): None, (3, 0.03): 0.4, (3, 0.01): 0.5, (9, 0.03): None, (9, 0.01): 0.2,
    }  # fmt: skip
    best, tried = chosen(losses, [3, 9], [0.01, 0.03, 0.1])
    assert best == (9, 0.01) and len(tried) == 8
    nothing = {(3, 0.1): None, (9, 0.1): None}
    assert chosen(nothing, [3, 9], [0.1])[0] is None


def test_divergence_everywhere_fails() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        lengths(subject_of(), 6, 12, learning_rates=[1e5, 1e6])


@pytest.mark.parametrize("rates", [1, 2, 3])
@pytest.mark.parametrize("steps", [[1000, 3000], [300, 1000, 3000], [100, 300, 900, 2700], [1000, 2000]])
def test_what_a_choice_costs(steps: list[int], rates: int) -> None:
    made = rungs(steps, rates)
    assert [length for length, _ in made][-len(steps) :] == steps and trial_steps(steps, rates) <= 2.5 * max(steps)
    if all(longer >= 3 * shorter for shorter, longer in pairwise(steps)):
        assert trial_steps(steps, rates) <= 2 * max(steps)


# -- what is written --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [10, 30], "steps": 20}, "steps and lengths are both given"),
        ({"lengths": [10]}, "2 to 100 entries"),
        ({"lengths": [10, 15]}, "lengths must be at least 2 times apart (got 10 and 15 steps)"),
        ({"lengths": [10, 10]}, "lengths must be at least 2 times apart (got 10 and 10 steps)"),
        ({"lengths": [0, 30]}, "should be a whole number from 1 to 10,000,000"),
    ],
)
def test_wrong_lengths_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        options_of(**options)
    assert message in str(caught.value)


def test_lengths_are_left_out_of_an_id_where_they_are_not_given() -> None:
    assert "lengths" not in options_of().model_dump(mode="json")
    asked = options_of(lengths=[30, 10])
    assert options_of(**asked.model_dump(mode="json")) == asked and asked.model_dump(mode="json")["lengths"] == [30, 10]
    sets = SimpleNamespace(train=range(900), validation=range(100))
    assert Finetune.version_on(options_of(learning_rates=0.1), sets) == 1
    assert Finetune.version_on(options_of(learning_rates=0.1, lengths=[10, 30]), sets) == 2
    assert Finetune.smoke(asked).lengths is None and Finetune.smoke(asked).steps == 2


def test_the_plan_counts_the_trials() -> None:
    whole = options_of(lengths=[1000, 3000], batch_size=10)
    assert Finetune.training_passes(whole, range(900), 32) == 10 * (999 + 2000 + 3000)
    assert Finetune.training_passes(whole, range(900), 32, untrained=True) == 10 * (999 + 2000 + 3000)
    few = options_of(lengths=[1000, 3000], batch_size=10, labels=0.1, draws=4)
    assert Finetune.training_passes(few, range(900), 32) == 4 * 10 * (999 + 2000 + 3000 + 3000)
