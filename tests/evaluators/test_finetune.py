"""Fine-tuning: what it learns from, what it leaves alone, and who gets how many steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ssl_bench.backbones.resnet import Backbone
from ssl_bench.data.images import ImageSet
from ssl_bench.data.splits import draw, holdout
from ssl_bench.errors import DataError, Interrupted, SpecError, TrainingError
from ssl_bench.evaluators import training as _training
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.finetune import evaluator, runs
from ssl_bench.evaluators.finetune.evaluator import Finetune
from ssl_bench.spec.model import parse
from ssl_bench.spec.task_role import TaskRole
from toys import TINY


def tinted(count: int, seed: int, classes: int = 3) -> ImageSet:
    """Noise with one channel brighter: the class."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % classes)
    pixels = generator.integers(0, 160, (count, 16, 16, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 60
    return ImageSet(
        pixels, np.arange(count), labels, tuple(f"class {k}" for k in range(classes)), "tinted", f"tinted-{seed}"
    )


def subject_of(final: bool = True, **settings: Any) -> Subject:
    torch.manual_seed(0)
    backbone = Backbone(TINY, 16)
    features: Any = None  # never asked: nothing here is frozen
    return Subject(
        backbone=backbone,
        fresh_backbone=lambda: copy.deepcopy(backbone),
        features=features,
        train=tinted(120, 0),
        validation=tinted(60, 1),
        test=tinted(60, 2) if final else None,
        seed=0,
        device=torch.device("cpu"),
        precision="fp32",
        **settings,
    )


def tune(subject: Subject, **options: Any) -> Evaluation:
    defaults: dict[str, Any] = {"steps": 12, "batch_size": 16, "learning_rates": 0.05}
    return Finetune(parse(Finetune.Options, defaults | options, "finetune")).evaluate(subject)


def by_place(found: Evaluation, split: str = "test") -> dict[tuple[float, int, str], float]:
    return {(m.labels, m.draw, m.row): m.value for m in found.measurements if m.metric == "top1" and m.split == split}


def test_it_learns_and_leaves_the_pretrained_backbone_alone() -> None:
    subject = subject_of()
    before = {name: tensor.clone() for name, tensor in subject.backbone.state_dict().items()}
    found = tune(subject, steps=30)
    assert by_place(found)[1.0, 0, ""] > 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.backbone.state_dict().items())
    assert found.predictions["1/0"].dtype == np.int16
    assert by_place(found)[1.0, 0, ""] == (found.predictions["1/0"] == subject.labels("test")).mean()
    run = found.details["runs"][0]
    assert (run["learning_rate"], run["steps"], run["tried"], run["weight_decay"]) == (0.05, 30, {}, 0.0)


def test_the_same_seed_gives_the_same_answers() -> None:
    first, second, other = (tune(replace(subject_of(), seed=seed), labels=0.5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predictions["0.5/0"], second.predictions["0.5/0"])
    assert (first.predictions["0.5/0"] != other.predictions["0.5/0"]).any()


def test_no_label_outside_the_draw_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels and labels outside the draw, and validation labels, may be anything: rate and answers stay as they are."""
    subject = subject_of()
    drawn = draw(subject.labels("train"), 0.25, 0, 0)
    monkeypatch.setattr(runs, "draw", lambda *_: drawn)
    honest = tune(subject, labels=0.25, learning_rates=[0.01, 0.05])
    lies, pixels = subject.labels("train").copy(), subject.train.pixels.copy()
    outside = np.setdiff1d(np.arange(120), drawn)
    lies[outside] = (lies[outside] + 1) % 3
    pixels[outside] = 0
    wrong = (subject.labels("validation") + 1) % 3
    lied_to = tune(
        replace(
            subject,
            train=replace(subject.train, labels=lies, pixels=pixels),
            validation=replace(subject.validation, labels=wrong),
        ),
        labels=0.25,
        learning_rates=[0.01, 0.05],
    )
    np.testing.assert_array_equal(honest.predictions["0.25/0"], lied_to.predictions["0.25/0"])
    assert (
        honest.details["runs"][0]["tried"] == lied_to.details["runs"][0]["tried"]
        and len(honest.details["runs"][0]["tried"]) == 2
    )
    assert honest.details["runs"][0]["images"] == 30 and honest.details["runs"][0]["chosen_on"] == "a fifth of the draw"


def test_the_rate_is_chosen_on_validation_with_all_labels_and_a_hopeless_one_is_not() -> None:
    run = tune(subject_of(), steps=24, learning_rates=[1e-7, 0.05]).details["runs"][0]
    assert run["chosen_on"] == "validation" and run["learning_rate"] == 0.05 and set(run["tried"]) == {"1e-07", "0.05"}
    assert run["chosen_by"] == "log loss" and run["tried"]["0.05"] < run["tried"]["1e-07"] == pytest.approx(
        np.log(3), rel=1e-3
    )


def test_on_few_images_a_rate_is_chosen_by_log_loss_and_on_many_by_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores made by hand: the first rate is right more often, the second is surer where it is right and mildly wrong
    elsewhere."""
    subject = subject_of()
    labels = torch.from_numpy(subject.labels("validation"))
    right = torch.nn.functional.one_hot(labels, 3).float()
    wrong = torch.nn.functional.one_hot((labels + 1) % 3, 3).float()
    few, more = torch.arange(len(labels)) % 10 == 0, torch.arange(len(labels)) % 10 < 3
    scores = {
        0.01: torch.where(few[:, None], 30 * wrong, 0.1 * right),
        0.05: torch.where(more[:, None], 0.1 * wrong, 3 * right),
    }
    monkeypatch.setattr(runs.FinetuneRuns, "_train", lambda work, train, rate, *rest: rate)
    monkeypatch.setattr(runs.FinetuneRuns, "_scores", lambda work, rate, images: scores[rate])
    chosen = {}
    for least in (len(labels) + 1, len(labels)):
        monkeypatch.setattr(runs, "FEW_IMAGES", least)
        chosen[least] = tune(subject, learning_rates=[0.01, 0.05]).details["runs"][0]
    small, large = chosen.values()
    assert (small["learning_rate"], small["chosen_by"]) == (0.05, "log loss") and (
        large["learning_rate"],
        large["chosen_by"],
    ) == (0.01, "accuracy")
    expected = torch.nn.functional.cross_entropy(scores[0.05].double(), labels)
    assert small["tried"]["0.05"] == pytest.approx(float(expected)) and large["tried"]["0.01"] == pytest.approx(
        float((~few).double().mean())
    )


def test_the_version_is_raised_only_where_a_rate_is_chosen_on_few_images() -> None:
    def version(train: int, validation: int, **options: Any) -> int:
        sets = SimpleNamespace(train=range(train), validation=range(validation))
        return Finetune.version_on(parse(Finetune.Options, options, "finetune"), sets)

    assert version(900, 100, learning_rates=0.03) == 1
    assert version(900, 100) == 2 and version(45_000, 4_999) == 2 and version(45_000, 5_000) == 1
    assert version(45_000, 5_000, labels=[0.5, 1.0]) == 2 and version(60_000, 5_000, labels=[0.5, 1.0]) == 1


def test_a_version_and_the_choice_that_it_stands_for_go_by_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a draw of 24 is 4.8 images, and 6 once each of three classes is rounded: between the two, an id would
    stand for another choice."""
    subject = subject_of()
    monkeypatch.setattr(runs.FinetuneRuns, "_train", lambda work, train, rate, *rest: rate)
    monkeypatch.setattr(
        runs.FinetuneRuns,
        "_scores",
        lambda work, rate, images: torch.eye(3)[torch.from_numpy(images.labels)] * rate,
    )
    options: dict[str, Any] = {"labels": 0.2, "learning_rates": [0.01, 0.05], "steps": 2}
    ways = set()
    for few in range(3, 9):
        monkeypatch.setattr(runs, "FEW_IMAGES", few)
        (run,) = tune(subject, **options).details["runs"]
        version = Finetune.version_on(
            parse(Finetune.Options, options, "finetune"),
            SimpleNamespace(train=subject.train, validation=subject.validation),
        )
        assert (run["chosen_by"], version) in {("log loss", 2), ("accuracy", 1)}
        ways.add(run["chosen_by"])
    assert len(ways) == 2


def test_accuracy_within_classes_and_what_a_draw_does_to_their_proportions() -> None:
    subject = subject_of()
    labels = np.where(
        np.arange(len(subject.train)) % 12 == 0, 1, np.where(np.arange(len(subject.train)) % 12 == 1, 2, 0)
    ).astype(np.int64)
    found = tune(replace(subject, train=replace(subject.train, labels=labels)), labels=[0.2, 1.0])
    facts = found.details["draw_changes_proportions"]
    assert (
        set(facts) == {"0.2"}
        and facts["0.2"]["train"] == pytest.approx(10 / 12, abs=0.01)
        and facts["0.2"]["draw"] < 0.5
    )
    right = found.predictions["1/0"] == subject.labels("test")
    assert found.details["per_class"]["1/0"]["test"] == pytest.approx(
        [right[subject.labels("test") == k].mean() for k in range(3)]
    )
    assert set(found.details["per_class"]) == {"0.2/0", "1/0"}


def test_trials_take_a_third_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, float]] = []
    real = _training.fit

    def counting(task: Any, batches: Any, recipe: Any, steps: int, **settings: Any) -> Any:
        taken.append((steps, recipe.weight_decay))
        assert recipe.optimizer == "sgd" and recipe.nesterov and recipe.momentum == 0.9 and recipe.schedule == "cosine"
        return real(task, batches, recipe, steps, **settings)

    monkeypatch.setattr(_training, "fit", counting)
    tune(subject_of(role=TaskRole.UNTRAINED), learning_rates=[0.01, 0.03, 0.1])
    assert taken == [(4, 0.0)] * 3 + [(12, 0.0), (36, 5e-4)]


def test_a_rate_that_diverges_is_not_chosen_and_only_divergence_everywhere_fails() -> None:
    run = tune(subject_of(), learning_rates=[0.03, 1e6]).details["runs"][0]
    assert run["learning_rate"] == 0.03 and run["tried"]["1e+06"] is None
    with pytest.raises(TrainingError, match="not finite"):
        tune(subject_of(), learning_rates=[1e5, 1e6])


def test_only_a_random_backbone_gets_a_longer_run() -> None:
    usual, longer = tune(subject_of()), tune(subject_of(role=TaskRole.UNTRAINED))
    assert set(by_place(usual)) == {(1.0, 0, "")} and set(by_place(longer)) == {(1.0, 0, ""), (1.0, 0, "longer")}
    assert set(longer.predictions) == {"1/0", "1/0/longer"}
    assert by_place(usual)[1.0, 0, ""] == by_place(longer)[1.0, 0, ""]


def test_shares_and_draws() -> None:
    found = tune(subject_of(), labels=[0.1, 1.0], draws=2, steps=2)
    assert set(by_place(found)) == {(0.1, 0, ""), (0.1, 1, ""), (1.0, 0, "")}
    assert [run["images"] for run in found.details["runs"]] == [12, 12, 120]
    assert (found.predictions["0.1/0"] != found.predictions["0.1/1"]).any()


def test_every_share_may_have_steps_of_its_own() -> None:
    found = tune(subject_of(role=TaskRole.UNTRAINED), labels=[1.0, 0.1], steps=[5, 3], learning_rates=[0.01, 0.05])
    assert [(run["labels"], run["row"], run["steps"]) for run in found.details["runs"]] == [
        (1.0, "", 5), (1.0, "longer", 15), (0.1, "", 3), (0.1, "longer", 9)
    ]  # fmt: skip
    options = {"labels": [1.0, 0.1], "steps": [5, 3], "learning_rates": 0.03, "draws": 2, "batch_size": 10}
    asked = parse(Finetune.Options, options, "finetune")
    assert parse(Finetune.Options, asked.model_dump(mode="json"), "finetune") == asked
    assert Finetune.training_passes(asked, range(100), 32) == 10 * (5 + 3 + 3)
    assert Finetune.training_passes(asked, range(100), 32, untrained=True) == 4 * 10 * (5 + 3 + 3)


@pytest.mark.parametrize("steps", [0, 2.5, "many", True, [3, 0], [1, 2, 3], []])
def test_wrong_numbers_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(SpecError, match="a whole number from 1 to 10,000,000|one for each"):
        parse(Finetune.Options, {"labels": [0.1, 1.0], "steps": steps}, "finetune")


def test_one_image_a_class_takes_the_middle_rate() -> None:
    run = tune(subject_of(), labels=0.025, steps=2, learning_rates=[0.1, 0.01, 0.03]).details["runs"][0]
    assert run["images"] == 3 and run["learning_rate"] == 0.03 and run["tried"] == {} and "nothing" in run["chosen_on"]


def test_test_stays_closed_and_changes_nothing_on_validation() -> None:
    closed, opened = tune(subject_of(final=False)), tune(subject_of())
    assert not closed.predictions and {m.split for m in closed.measurements} == {"validation"}
    assert by_place(closed, "validation") == by_place(opened, "validation")


def test_a_frozen_copy_is_thawed() -> None:
    """A plugin may hand out its backbone without gradients; fine-tuning means all of it."""
    subject = subject_of()
    given = copy.deepcopy(subject.backbone).requires_grad_(False)
    thawed = tune(replace(subject, fresh_backbone=lambda: copy.deepcopy(given)))
    np.testing.assert_array_equal(thawed.predictions["1/0"], tune(subject).predictions["1/0"])


def test_the_new_head_starts_at_zero() -> None:
    classifier = runs._Classifier(Backbone(TINY, 16), classes=3, pad=4)
    assert torch.equal(classifier.logits(torch.rand(2, 3, 16, 16)), torch.zeros(2, 3))


def test_length_of_a_run_and_the_plans_estimate() -> None:
    assert evaluator._auto_steps(0.01, 450, 128) == 211 and evaluator._auto_steps(0.1, 4_500, 128) == 1_055
    assert evaluator._auto_steps(0.01, 10, 128) == 50 and evaluator._auto_steps(1.0, 10**7, 128) == 20_000
    one = parse(Finetune.Options, {"labels": 0.1, "steps": 60, "learning_rates": 0.03}, "finetune")
    three = parse(Finetune.Options, {"labels": 0.1, "steps": 60, "draws": 5}, "finetune")
    some = range(45_000)
    assert (
        Finetune.training_passes(one, some, 32) == 60 * 128
        and Finetune.training_passes(three, some, 32) == 5 * 120 * 128
    )
    assert Finetune.smoke(three).steps == 2 and Finetune.smoke(three).labels == (1.0,)


@pytest.mark.parametrize("stops_after", [2, 10, 22])
def test_a_stopped_evaluation_goes_on_to_the_same_bits(tmp_path: Path, stops_after: int) -> None:
    options: dict[str, Any] = {"labels": [0.5, 1.0], "steps": 9, "learning_rates": [0.01, 0.05]}
    whole = tune(subject_of(), **options)
    asked, told = [], []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > stops_after

    kept = {"parts": tmp_path / "parts", "checkpoint_seconds": 1e-9}
    with pytest.raises(Interrupted):
        tune(subject_of(stop=stop, **kept), **options)
    assert list((tmp_path / "parts").glob("*.safetensors"))
    again = tune(subject_of(progress=told.append, **kept), **options)
    assert again.measurements == whole.measurements
    assert all(np.array_equal(again.predictions[key], whole.predictions[key]) for key in whole.predictions)
    steps = sum("step" in text for text in told)
    # two shares, two trials and a run each; what was reached is not trained again
    assert 0 < steps < 2 * (3 + 3 + 9), told


def test_what_cannot_work_is_refused_before_training() -> None:
    subject = subject_of()
    with pytest.raises(DataError, match="would leave class"):
        Finetune.check(parse(Finetune.Options, {"labels": [0.01, 1.0]}, "finetune"), subject.train, subject.validation)
    Finetune.check(parse(Finetune.Options, {"labels": [0.1]}, "finetune"), subject.train, subject.validation)
    for bad in (
        {"learning_rates": []},
        {"learning_rates": [0.0]},
        {"batch_size": 1},
        {"steps": 0},
        {"learning_rate": 0.1},
    ):
        with pytest.raises(SpecError):
            parse(Finetune.Options, bad, "finetune")


def test_stop_is_heard_between_steps() -> None:
    calls = iter(range(100))
    stop: Callable[[], bool] = lambda: next(calls) > 4  # noqa: E731
    with pytest.raises(Interrupted, match="stopped"):
        tune(subject_of(stop=stop))


def test_a_rate_is_judged_on_other_groups_than_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[np.ndarray, np.ndarray]] = []

    def watched(labels: np.ndarray, *arguments: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        parts.append(tuple(settings["groups"][part] for part in holdout(labels, *arguments, **settings)))  # type: ignore[arg-type]
        return holdout(labels, *arguments, **settings)

    monkeypatch.setattr(runs, "holdout", watched)
    subject = subject_of()
    groups = np.arange(120) // 4
    found = tune(
        replace(subject, train=replace(subject.train, columns={"group": groups})),
        labels=0.5,
        learning_rates=[0.01, 0.05],
        steps=2,
    )
    assert found.details["runs"][0]["chosen_on"] == "a fifth of the draw"
    ((kept, held),) = parts
    assert len(held) and not set(kept) & set(held)
    one = np.where(subject.labels("train") == 2, 0, 1 + np.arange(120))
    found = tune(
        replace(subject, train=replace(subject.train, columns={"group": one})),
        labels=0.5,
        learning_rates=[0.01, 0.05, 0.1],
        steps=2,
    )
    run = found.details["runs"][0]
    assert run["learning_rate"] == 0.05 and run["chosen_on"].startswith("nothing: one group of a class")
