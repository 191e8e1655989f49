"""The probe: what is chosen where, what may be looked at, and that it agrees with scikit-learn step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch.utils.flop_counter import FlopCounterMode

from ssl_bench.data.splits import draw, folds
from ssl_bench.errors import DataError, Interrupted, SpecError
from ssl_bench.evaluators.base import Effort, Evaluation, Subject
from ssl_bench.evaluators.linear import probe as linear
from ssl_bench.evaluators.linear import stage as _stage
from ssl_bench.evaluators.linear import strengths as _strengths
from ssl_bench.evaluators.linear.logistic import USUAL_STEPS, SoftmaxRegression, fit_flops
from ssl_bench.evaluators.linear.probe import Linear
from ssl_bench.spec.model import parse

Make = Callable[..., Subject]
WEAK = {"s1": 0.3, "s2": 0.7, "pooled": 0.2}


def probe(subject: Subject, **options: Any) -> Evaluation:
    return Linear(parse(Linear.Options, options, "linear")).evaluate(subject)


def value(found: Evaluation, metric: str, split: str, stage: str, **place: Any) -> float:
    rows = [m for m in found.measurements if (m.metric, m.split, m.stage) == (metric, split, stage)]
    rows = [m for m in rows if all(getattr(m, key) == wanted for key, wanted in place.items())]
    assert len(rows) == 1
    return rows[0].value


def standardised(subject: Subject, split: str, stage: str) -> np.ndarray:
    train = subject.features.get("train", stage).double().numpy()
    return (subject.features.get(split, stage).double().numpy() - train.mean(0)) / train.std(0, ddof=1)


def test_a_plan_counts_the_fits_that_are_made(make_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own counter of products of matrices, in steps of the length that a plan takes for usual."""
    made: dict[int, list[Any]] = {}  # the problem, and how often it was fitted
    real = SoftmaxRegression.fit

    def watching(problem: Any, *args: Any, **settings: Any) -> Any:
        made.setdefault(id(problem), [problem, 0])[1] += 1
        return real(problem, *args, **settings)

    monkeypatch.setattr(SoftmaxRegression, "fit", watching)
    monkeypatch.setattr(_strengths, "EXTENSIONS", 0)
    monkeypatch.setattr(_strengths, "RISEN", 1e9)
    monkeypatch.setattr(_strengths, "PATIENCE", 99)
    monkeypatch.setattr(_stage.StageFits, "shuffled", lambda stage: _stage.ShuffledControl([], {}))
    for extra in ({"search_images": 150}, {}, {"folds": 4}):
        made.clear()
        subject = make_subject({"s1": 0.6, "pooled": 0.4}, dimensions=30)
        options = parse(Linear.Options, {"labels": [0.1, 1.0], "draws": 3, "strengths": 4} | extra, "linear")
        Linear(options).evaluate(subject)
        sizes = [(len(problem.labels), fits) for problem, fits in made.values()]
        assert sum(n == 500 for n, _ in sizes) == 2  # on train + validation, which a plan takes for one on train
        cut = 400 / 500 if "folds" in extra else 1  # and so it takes folds of both for folds of train
        expected = sum(
            fit_flops(round(n * cut) if 300 < n < 400 and cut < 1 else min(n, 400), 30, 4, fits) for n, fits in sizes
        )
        assert Linear.fitting_flops(options, subject.train, [30, 30]) == pytest.approx(expected, rel=0.03)
    x = torch.randn(500, 40)
    problem = SoftmaxRegression(x, torch.arange(500) % 7, 7)
    with FlopCounterMode(display=False) as counter:
        solution = problem.fit(1e-3, tolerance=1e-8)
    assert counter.get_total_flops() / solution.iterations * USUAL_STEPS == pytest.approx(
        fit_flops(500, 40, 7), rel=0.4
    )


def test_every_number_is_scikit_learns(make_subject: Make) -> None:
    """Strengths scored on validation by fits on train, the chosen one refitted on train + validation, tested once."""
    subject = make_subject({"pooled": 0.45}, sizes=(300, 200, 250))
    found = probe(subject)
    facts = found.details["fits"][0]
    x, v, t = (standardised(subject, split, "pooled") for split in ("train", "validation", "test"))
    y, w = subject.labels("train"), subject.labels("validation")
    for penalty, loss in facts["tried"].items():
        fitted = LogisticRegression(C=1 / float(penalty), max_iter=3_000, tol=1e-8).fit(x, y)
        assert loss == pytest.approx(log_loss(w, fitted.predict_proba(v)), rel=5e-3)
    assert facts["tried"][f"{facts['penalty']:.6g}"] == min(facts["tried"].values())
    chosen = LogisticRegression(C=1 / facts["penalty"], max_iter=3_000, tol=1e-8).fit(x, y)
    assert facts["log_loss"] == pytest.approx(log_loss(w, chosen.predict_proba(v)), rel=1e-4)
    assert value(found, "top1", "validation", "pooled") == pytest.approx(chosen.score(v, w), abs=1.1 / 200)
    final = LogisticRegression(C=1 / facts["penalty"], max_iter=3_000, tol=1e-8).fit(
        np.concatenate((x, v)), np.concatenate((y, w))
    )
    assert value(found, "top1", "test", "pooled") == pytest.approx(
        final.score(t, subject.labels("test")), abs=2.1 / 250
    )
    assert (found.predictions["pooled"] == final.predict(t)).mean() > 0.99
    assert value(found, "top1", "test", "pooled") == (found.predictions["pooled"] == subject.labels("test")).mean()
    assert facts["final_fit"]["images"] == 500 and facts["final_fit"]["converged"] and facts["fit"]["images"] == 300
    assert facts["final_fit"]["l2"] == pytest.approx(facts["penalty"] / 500)


def test_the_best_stage_is_the_best_by_validation_and_never_a_code(make_subject: Make) -> None:
    found = probe(make_subject(WEAK | {"code": 3.0}))
    best = {(m.stage, m.split) for m in found.measurements if m.best}
    assert best == {("s2", "validation"), ("s2", "test")}
    assert value(found, "top1", "validation", "code") > value(found, "top1", "validation", "s2")
    assert set(found.predictions) == {"s1", "s2", "pooled", "code"} and found.predictions["s2"].dtype == np.int16
    assert found.details["best"] == {"": "s2"} and set(found.details["per_class"]) == {"s2", "pooled"}


def test_nothing_of_test_is_touched_before_the_matrix_is_final(make_subject: Make) -> None:
    subject = make_subject(WEAK, final=False)
    features: Any = subject.features
    found = probe(subject, labels=[0.1, 1.0])
    assert {split for split, _ in features.asked} == {"train", "validation"}
    assert {m.split for m in found.measurements} == {"validation"} and not found.predictions


def test_validation_numbers_do_not_depend_on_whether_test_is_open(make_subject: Make) -> None:
    closed, opened = probe(make_subject(WEAK, final=False)), probe(make_subject(WEAK))
    assert closed.measurements == [m for m in opened.measurements if m.split == "validation"]


def test_a_share_of_labels_uses_no_label_outside_the_draw(make_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other labels, of train and validation, may be anything: strength, stage and test answers stay as they are."""
    subject = make_subject(WEAK, sizes=(400, 100, 200))
    drawn = draw(subject.labels("train"), 0.1, 0, subject.seed)
    for module in (linear, _stage):
        monkeypatch.setattr(module, "draw", lambda *_: drawn)
    honest = probe(subject, labels=0.1)
    lies = subject.labels("train").copy()
    outside = np.setdiff1d(np.arange(400), drawn)
    lies[outside] = (lies[outside] + 1) % 4
    wrong = replace(subject.validation, labels=(subject.labels("validation") + 1) % 4)
    lied_to = probe(replace(subject, train=replace(subject.train, labels=lies), validation=wrong), labels=0.1)
    assert honest.details["best"] == lied_to.details["best"] == {"@0.1/0": "s2"}
    for mine, theirs in zip(honest.details["fits"], lied_to.details["fits"], strict=True):
        assert mine["fit"] == theirs["fit"] and mine["tried"] == theirs["tried"]
    for name in ("s2@0.1/0", "pooled@0.1/0"):
        np.testing.assert_array_equal(honest.predictions[name], lied_to.predictions[name])
    assert honest.details["fits"][0]["fit"]["images"] == 40 and "5-fold" in honest.details["fits"][0]["chosen_on"]


def test_draws_differ_and_more_labels_help(make_subject: Make) -> None:
    found = probe(make_subject({"pooled": 0.4}, sizes=(1_000, 100, 1_000)), labels=[0.02, 1.0], draws=3)
    few = [m.value for m in found.measurements if m.split == "test" and m.metric == "top1" and m.labels == 0.02]
    assert len(few) == 3 and len(set(few)) > 1 and max(few) < value(found, "top1", "test", "pooled", labels=1.0)
    assert set(found.predictions) == {"pooled", "pooled@0.02/0", "pooled@0.02/1", "pooled@0.02/2"}


def test_one_image_a_class_falls_back_on_a_declared_strength(make_subject: Make) -> None:
    found = probe(make_subject(WEAK), labels=0.01)
    assert all(fit["penalty"] == 100 and "nothing" in fit["chosen_on"] for fit in found.details["fits"])
    assert found.details["best"] == {"@0.01/0": "pooled"}


def test_an_optimum_at_the_weak_end_extends_the_grid(make_subject: Make) -> None:
    """The class hangs on a tiny difference of two nearly equal dimensions: only large weights see it."""
    subject = make_subject({"pooled": 0.0}, sizes=(400, 200, 200), classes=2, dimensions=2)
    features: Any = subject.features
    for split in ("train", "validation", "test"):
        x = features.values[split]["pooled"]
        x[:, 1] = x[:, 0] + 0.004 * (2 * torch.from_numpy(subject.labels(split)) - 1) + 0.002 * x[:, 1]
    found = probe(subject, strengths=3).details["fits"][0]
    assert len(found["tried"]) > 3 and found["penalty"] < 1


def test_an_optimum_at_the_strong_end_extends_the_grid_but_not_for_ever(make_subject: Make) -> None:
    """All strengths answer alike on features that say nothing at all; the strongest of equals is always at the edge."""
    subject = make_subject({"pooled": 0.0})
    features: Any = subject.features
    for split in ("train", "validation", "test"):
        features.values[split]["pooled"].fill_(1.0)
    found = probe(subject).details["fits"][0]
    assert found["at_the_edge"] and found["penalty"] > 1e4 and len(found["tried"]) <= 9 + 4


def test_searching_on_a_subset_carries_the_penalty_over(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.5}, sizes=(2_000, 300, 1_000))
    some, whole = probe(subject, search_images=500), probe(subject, search_images=None)
    facts = some.details["fits"][0]
    assert (
        facts["searched_on"] == 500
        and facts["fit"]["images"] == 2_000
        and facts["fit"]["l2"] == pytest.approx(facts["penalty"] / 2_000)
    )
    assert whole.details["fits"][0]["searched_on"] == 2_000
    assert value(some, "top1", "test", "pooled") == pytest.approx(value(whole, "top1", "test", "pooled"), abs=0.015)


def test_shuffled_labels_end_at_chance_and_true_ones_do_not(make_subject: Make) -> None:
    found = probe(make_subject({"pooled": 1.0}, sizes=(1_500, 1_000, 1_000)))
    for split in ("validation", "test"):
        assert abs(value(found, "top1_shuffled", split, "pooled") - 0.25) < 4 * (0.25 * 0.75 / 1_000) ** 0.5
        assert value(found, "top1_chance", split, "pooled") == pytest.approx(0.25)
        assert value(found, "top1", split, "pooled") > 0.8


def test_chance_of_the_control_knows_unequal_classes(make_subject: Make) -> None:
    """Seven in ten images of one class: guessing scores 0.7, and must not look like a leak."""
    labels = {
        split: np.arange(count) % 10 // 7 for split, count in (("train", 500), ("validation", 500), ("test", 500))
    }
    found = probe(make_subject({"pooled": 1.0}, classes=2, sizes=(500, 500, 500), labels=labels))
    chance = value(found, "top1_chance", "test", "pooled")
    assert chance > 0.6 and abs(value(found, "top1_shuffled", "test", "pooled") - chance) < 0.07


@pytest.mark.parametrize("classes", [20, 21])
def test_top5_above_twenty_classes_only(make_subject: Make, classes: int) -> None:
    found = probe(make_subject({"pooled": 0.3}, sizes=(420, 210, 210), classes=classes), strengths=3)
    assert ("top5" in {m.metric for m in found.measurements}) == (classes == 21)
    if classes == 21:
        assert value(found, "top5", "test", "pooled") > value(found, "top1", "test", "pooled")


def test_accuracy_per_class(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.6})
    found = probe(subject)
    right = found.predictions["pooled"] == subject.labels("test")
    expected = [right[subject.labels("test") == k].mean() for k in range(4)]
    assert found.details["per_class"]["pooled"]["test"] == pytest.approx(expected)


def test_unequal_classes_are_told_and_scored_class_by_class(make_subject: Make) -> None:
    """Ninety in a hundred images of one class: accuracy above 0.9 says little, and a draw of few labels has other
    proportions."""
    labels = {
        split: np.where(np.arange(count) % 20 == 0, 1, np.where(np.arange(count) % 20 == 7, 2, 0))
        for split, count in (("train", 600), ("validation", 200), ("test", 400))
    }
    subject = make_subject({"s1": 0.2, "pooled": 0.5}, sizes=(600, 200, 400), classes=3, labels=labels)
    found = probe(subject, labels=[0.1, 1.0])
    for name in ("s1", "pooled"):
        expected = balanced_accuracy_score(labels["test"], found.predictions[name])
        assert value(found, "balanced_top1", "test", name, labels=1.0) == pytest.approx(expected)
    changed = found.details["draw_changes_proportions"]
    assert changed == {"0.1": {"class": "class 0", "train": 0.9, "draw": pytest.approx(1 / 3, abs=0.05)}}
    best = {key: found.details["best"][key] for key in ("", "@0.1/0")}
    assert set(found.details["per_class"]) == {best[""], "pooled", best["@0.1/0"] + "@0.1/0", "pooled@0.1/0"}
    assert not any(m.metric.startswith("balanced") for m in probe(make_subject({"pooled": 0.5})).measurements)


def test_a_held_out_image_that_is_odd_counts_a_bounded_loss() -> None:
    scores = torch.tensor([[1e30, 0.0], [float("nan"), 0.0], [3e38, -3e38], [0.0, 0.0]])
    losses = _stage.log_loss(scores, torch.tensor([1, 0, 1, 0]))
    assert losses.tolist() == pytest.approx([20.0, 20.0, 20.0, np.log(2)]) and losses.dtype == torch.float64


def test_folds_of_train_and_validation_choose_for_all_labels(make_subject: Make) -> None:
    """Every image is held out once, by scikit-learn's account;
    which of them are called validation then hardly matters."""
    subject = make_subject({"pooled": 0.45}, sizes=(300, 100, 250))
    facts = probe(subject, folds=5).details["fits"][0]
    assert facts["chosen_on"] == "5-fold cross-validation of train and validation" and (
        facts["folds"],
        facts["searched_on"],
    ) == (5, 400)
    x = np.concatenate([standardised(subject, split, "pooled") for split in ("train", "validation")])
    y = np.concatenate([subject.labels(split) for split in ("train", "validation")])
    for penalty, loss in facts["tried"].items():
        model = LogisticRegression(C=1 / float(penalty), max_iter=3_000, tol=1e-8)
        total = sum(
            log_loss(y[held], model.fit(x[kept], y[kept]).predict_proba(x[held])) * len(held)
            for kept, held in folds(y, 5, subject.seed)
        )
        assert loss == pytest.approx(total / len(y), rel=5e-3)
    assert facts["fit"]["images"] == 300 and facts["final_fit"]["images"] == 400 and facts["fit"]["converged"]


def test_folds_never_divide_a_group(make_subject: Make) -> None:
    """Ten equal photos of every product: beside its copies in train, a held-out image would be known."""
    subject = make_subject({"pooled": 0.0}, sizes=(400, 100, 100))
    features: Any = subject.features
    for split, count in (("train", 400), ("validation", 100)):
        features.values[split]["pooled"] = features.values[split]["pooled"][np.arange(count) // 10]
    labels = {split: np.arange(count) // 10 * 7 % 4 for split, count in (("train", 400), ("validation", 100))}
    alone = {split: replace(getattr(subject, split), labels=labels[split]) for split in labels}
    grouped = {
        split: replace(images, columns={"group": (split == "validation") * 100 + np.arange(len(images)) // 10})
        for split, images in alone.items()
    }
    losses = [probe(replace(subject, **sets), folds=5).details["fits"][0]["log_loss"] for sets in (alone, grouped)]
    assert losses[0] < 1.2 and losses[1] > 1.3  # log 4 is 1.386


def effort(flops: float) -> Effort:
    return Effort(flops, (64, 128))


def test_folds_are_decided_by_what_is_counted_and_alike_for_all(make_set: Callable[..., Any]) -> None:
    def decided(train: int, flops: float, **options: Any) -> Any:
        images = make_set(np.arange(train) % 4, "train", 4)
        return Linear.resolve(
            parse(Linear.Options, options, "linear"), SimpleNamespace(train=images, validation=images), effort(flops)
        ).folds

    folded = parse(Linear.Options, {"folds": 5}, "linear")
    cost = linear.SLOWER * Linear.fitting_flops(folded, make_set(np.arange(900) % 4, "train", 4), (64, 128))
    assert decided(900, 2.01 * cost) == 5 and decided(900, 1.99 * cost) == 0
    assert decided(5_000, 1e30) == 0 and decided(4_999, 1e30) == 5
    assert decided(900, 0.0, folds=3) == 3 and decided(900, 1e30, folds=0) == 0
    # Draws of few labels alone are always folded: what is left open there must not make two ids of one number.
    assert (
        decided(900, 0.0, labels=0.1) == decided(900, 1e30, labels=0.1) == decided(900, 1e30, labels=0.1, folds=0) == 5
    )


@pytest.mark.parametrize("bad", [1, -1, 101, "always", True, 2.5])
def test_folds_that_mean_nothing_are_refused(bad: Any) -> None:
    with pytest.raises(SpecError, match="folds"):
        parse(Linear.Options, {"folds": bad}, "linear")


def test_the_final_fit_goes_on_from_the_path(make_subject: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[bool] = []
    real = SoftmaxRegression.fit

    def watching(problem: Any, l2: float, start: Any = None, *rest: Any) -> Any:
        starts.append(start is not None)
        return real(problem, l2, start, *rest)

    monkeypatch.setattr(SoftmaxRegression, "fit", watching)
    monkeypatch.setattr(_stage.StageFits, "shuffled", lambda stage: _stage.ShuffledControl([], {}))
    for options in ({}, {"search_images": 150}, {"folds": 4}, {"labels": [0.5]}):
        starts.clear()
        probe(make_subject({"pooled": 0.5}), **options)
        # the strongest of every fold
        assert starts.count(False) == (4 if options.get("folds") else 5 if options.get("labels") else 1)


def test_dead_dimensions_do_no_harm(make_subject: Make) -> None:
    """Moving by rounding only, they must not be blown up to unit deviation."""
    subject = make_subject({"pooled": 1.0}, sizes=(400, 100, 200))
    features: Any = subject.features
    clean = value(probe(subject), "top1", "test", "pooled")
    for split in ("train", "validation", "test"):
        dead = 3 + 3e-7 * torch.randn(
            len(features.values[split]["pooled"]), 40, generator=torch.Generator().manual_seed(1)
        )
        if split == "test":
            dead[:, :2] = 3e6  # never moved in training, wild in test
        features.values[split]["pooled"] = torch.cat((features.values[split]["pooled"], dead), 1)
    assert value(probe(subject), "top1", "test", "pooled") == pytest.approx(clean, abs=0.01)


def test_a_request_to_stop_is_heard(make_subject: Make) -> None:
    with pytest.raises(Interrupted):
        probe(make_subject(WEAK, stop=lambda: True))


def test_labels_that_cannot_work_are_refused_before_any_training(make_subject: Make) -> None:
    subject = make_subject(WEAK)
    options = parse(Linear.Options, {"labels": [0.005]}, "linear")
    with pytest.raises(DataError, match="would leave class"):
        Linear.check(options, subject.train, subject.validation)
    with pytest.raises(DataError, match="no labels"):
        Linear.check(Linear.Options(), subject.train.without_labels(), subject.validation)
    with pytest.raises(DataError, match="at least 2"):
        Linear.check(
            Linear.Options(),
            replace(subject.train, classes=("one",), labels=np.zeros(400, np.int64)),
            subject.validation,
        )
    with pytest.raises(DataError, match="'class 3'.*no training image"):
        Linear.check(Linear.Options(), replace(subject.train, labels=subject.labels("train") % 3), subject.validation)
    Linear.check(Linear.Options(), subject.train, subject.validation)


@pytest.mark.parametrize(
    "bad", [{"labels": []}, {"labels": [0.1, 0.1]}, {"labels": 2.0}, {"strengths": 0}, {"label": 0.1}, {"draws": 0}]
)
def test_options_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        parse(Linear.Options, bad, "linear")


def test_copies_of_an_image_are_held_back_together(make_subject: Make) -> None:
    """Ten equal photos of every product, whose class nothing tells: strengths chosen on copies would look perfect."""
    subject = make_subject({"pooled": 0.0}, sizes=(400, 100, 100))
    products = np.arange(400) // 10
    train: Any = subject.features
    train.values["train"]["pooled"] = train.values["train"]["pooled"][products]
    alike = replace(subject.train, labels=(products * 7 % 4).astype(np.int64))
    tried = {}
    for name, columns in (("alone", {}), ("together", {"group": products})):
        found = probe(replace(subject, train=replace(alike, columns=columns)), labels=[0.5, 1.0])
        (facts,) = [fit for fit in found.details["fits"] if fit["labels"] == 0.5]
        tried[name] = facts["log_loss"]
    assert tried["alone"] < 1.0 and tried["together"] > 1.3  # log 4 is 1.386


def test_a_class_of_one_group_gives_nothing_to_choose_on(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.5}, sizes=(400, 100, 100))
    groups = np.where(subject.labels("train") == 3, 0, 1 + np.arange(400))
    found = probe(replace(subject, train=replace(subject.train, columns={"group": groups})), labels=[0.5, 1.0])
    (facts,) = [fit for fit in found.details["fits"] if fit["labels"] == 0.5]
    assert facts["chosen_on"] == "nothing: one group of a class cannot be both fitted and held back"


def test_at_equal_width_every_number_is_that_of_principal_components(make_subject: Make) -> None:
    """Against scikit-learn's PCA and LogisticRegression, at the strength that was chosen."""
    subject = make_subject({"s1": 0.6, "s2": 0.5, "pooled": 0.4}, dimensions=30)
    sets = {name: getattr(subject, name) for name in ("train", "validation", "test")}
    pooled = {split: subject.features.get(split, "pooled")[:, :5] for split in sets}
    whole = subject.features.get

    class Narrow:
        def names(self) -> list[str]:
            return ["s1", "s2", "pooled"]

        def get(self, split: str, name: str) -> torch.Tensor:
            return pooled[split] if name == "pooled" else whole(split, name)

    subject = replace(subject, features=Narrow())
    found = probe(subject, equal_width=True)
    plain = probe(subject)
    assert [m for m in found.measurements if not m.metric.endswith("_equal_width")] == plain.measurements
    facts = {fit["stage"]: fit for fit in found.details["fits"] if "equal_width" in fit}
    assert {name: fit["equal_width"] for name, fit in facts.items()} == {"s1": 5, "s2": 5, "pooled": 5}
    for name in ("s1", "s2", "pooled"):
        x = {split: standardised(subject, split, name) for split in sets}
        axes = PCA(5).fit(x["train"])
        z = {split: axes.transform(values) for split, values in x.items()}
        y = {split: sets[split].labels for split in sets}
        fit = facts[name]
        assert fit["variance_kept"] == pytest.approx(axes.explained_variance_ratio_.sum(), rel=1e-4)
        oracle = LogisticRegression(C=1 / fit["penalty"], tol=1e-9, max_iter=5_000).fit(z["train"], y["train"])
        assert fit["log_loss"] == pytest.approx(
            log_loss(y["validation"], oracle.predict_proba(z["validation"])), abs=1e-3
        )
        both = [np.concatenate([part["train"], part["validation"]]) for part in (z, y)]
        oracle = LogisticRegression(C=1 / fit["penalty"], tol=1e-9, max_iter=5_000).fit(*both)
        accuracy = float((oracle.predict(z["test"]) == y["test"]).mean())
        assert value(found, "top1_equal_width", "test", name) == pytest.approx(accuracy, abs=1.01 / len(y["test"]))
        predicted = found.predictions[f"{name}_equal_width"]
        assert (predicted == y["test"]).mean() == pytest.approx(value(found, "top1_equal_width", "test", name))
    best = min(facts, key=lambda name: facts[name]["log_loss"])
    assert [m.stage for m in found.measurements if m.metric == "top1_equal_width" and m.best] == [best, best]
    # as many values as there are: the same classifier, in other axes
    assert value(found, "top1_equal_width", "test", "pooled") == value(found, "top1", "test", "pooled")
    assert facts["pooled"]["log_loss"] == pytest.approx(plain.details["fits"][-1]["log_loss"], rel=1e-4)


def test_the_components_of_equal_width_know_no_label(make_subject: Make) -> None:
    subject = make_subject({"s1": 0.6, "pooled": 0.4}, dimensions=12)
    options = parse(Linear.Options, {}, "linear")
    axes = _stage.StageFits("s1", subject, options).narrowed(4).axes
    other = replace(subject, train=replace(subject.train, labels=subject.train.labels[::-1].copy()))
    assert torch.equal(axes, _stage.StageFits("s1", other, options).narrowed(4).axes)


@pytest.mark.parametrize("dimensions", [12, 600])  # fewer, and more than there are images
def test_equal_width_works_with_more_values_than_images(make_subject: Make, dimensions: int) -> None:
    subject = make_subject({"s1": 0.6, "pooled": 0.4}, dimensions=dimensions)
    found = probe(subject, equal_width=True)
    assert value(found, "top1_equal_width", "test", "s1") == pytest.approx(value(found, "top1", "test", "s1"), abs=0.01)


def test_equal_width_without_all_labels_is_refused() -> None:
    with pytest.raises(SpecError, match=r"equal_width has no effect here.*1\.0"):
        parse(Linear.Options, {"labels": [0.1], "equal_width": True}, "linear")
