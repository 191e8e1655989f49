"""Neighbours against brute force and scikit-learn; the monitor leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from ssl_bench.errors import Interrupted, SpecError
from ssl_bench.evaluators.base import Evaluation, Subject
from ssl_bench.evaluators.knn import KNN, knn_accuracy, nearest, vote
from ssl_bench.spec.model import parse

Make = Callable[..., Subject]


def ask(subject: Subject, **options: Any) -> Evaluation:
    return KNN(parse(KNN.Options, options, "knn")).evaluate(subject)


def brute_force(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int, classes: int, temperature: float
) -> np.ndarray:
    """The definition, one query at a time, in float64."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    found = []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        cosines = bank @ query
        scores = np.zeros(classes)
        for at in np.argsort(-cosines, kind="stable")[:k]:
            scores[labels[at]] += np.exp(cosines[at] / temperature)
        found.append(scores)
    return np.stack(found)


@settings(max_examples=25)
@given(
    k=st.integers(1, 20),
    classes=st.integers(2, 7),
    dimensions=st.integers(2, 40),
    seed=st.integers(0, 999),
    temperature=st.floats(0.05, 1.0),
)
def test_scores_are_those_of_the_definition(
    k: int, classes: int, dimensions: int, seed: int, temperature: float
) -> None:
    generator = np.random.default_rng(seed)
    bank, queries = (10 * generator.standard_normal((n, dimensions)).astype(np.float32) for n in (60, 15))
    labels = generator.integers(0, classes, 60)
    similar, found = nearest(torch.from_numpy(queries), torch.from_numpy(bank), k)
    scores = vote(torch.from_numpy(similar), torch.from_numpy(labels[found]), classes, temperature)
    expected = brute_force(queries.astype(float), bank.astype(float), labels, k, classes, temperature)
    expected /= np.exp(similar[:, :1].astype(float) / temperature)  # the nearest one's vote counts 1
    voted = np.isfinite(scores.numpy())
    np.testing.assert_allclose(np.where(voted, scores.numpy(), 0), expected, rtol=2e-4, atol=1e-6 * expected.max())
    asked = [set(labels[row]) for row in found]
    assert [set(np.flatnonzero(row)) for row in voted] == asked  # what got no vote is no answer


def test_answers_are_scikit_learns(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.6}, sizes=(400, 100, 300))
    found = ask(subject, k=20)
    bank = torch.cat([subject.features.get(split, "pooled") for split in ("train", "validation")]).double().numpy()
    labels = np.concatenate([subject.labels(split) for split in ("train", "validation")])

    def theirs() -> KNeighborsClassifier:
        return KNeighborsClassifier(
            20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )

    expected = theirs().fit(bank, labels).predict(subject.features.get("test", "pooled").double().numpy())
    np.testing.assert_array_equal(found.predictions["pooled@20"], expected)
    score = theirs().fit(bank[:400], labels[:400]).score(bank[400:], labels[400:])
    # an image is not its own neighbour
    assert [m.value for m in found.measurements if m.split == "validation"] == [pytest.approx(score)]


def test_equal_scores_go_to_the_lower_class() -> None:
    scores = vote(torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[3, 1, 0]]), 5)
    assert scores.argmax(1).tolist() == [1] and scores.shape == (1, 5)


def test_a_low_temperature_asks_the_nearest_alone() -> None:
    scores = vote(torch.tensor([[0.95, 0.90, 0.90]]), torch.tensor([[1, 0, 0]]), 2, temperature=1e-4)
    assert torch.isfinite(scores).all() and scores.argmax(1).tolist() == [1]


def test_length_says_nothing(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.5})
    features: Any = subject.features
    plain = ask(subject)
    for split in ("train", "validation", "test"):
        features.values[split]["pooled"] *= torch.logspace(-3, 3, len(features.values[split]["pooled"]))[:, None]
    assert [m.value for m in ask(subject).measurements] == pytest.approx(
        [m.value for m in plain.measurements], abs=0.011
    )


def test_k_is_capped_at_the_smallest_class_of_the_bank(make_subject: Make) -> None:
    labels = {
        "train": np.array([0] * 50 + [1] * 30 + [2] * 7),
        "validation": np.arange(30) % 3,
        "test": np.arange(30) % 3,
    }
    found = ask(make_subject({"pooled": 1.0}, sizes=(87, 30, 30), classes=3, labels=labels))
    assert found.details["neighbours"] == {"validation": {"20": 7, "200": 7}, "test": {"20": 17, "200": 17}}
    values = {(m.metric, m.split): m.value for m in found.measurements}
    assert values["top1@20", "test"] == values["top1@200", "test"]


def test_only_classes_with_a_vote_are_answers(make_subject: Make) -> None:
    """25 classes of noise: fewer than five classes among the neighbours are fewer than five answers, and not filled up
    with the lowest ids."""
    generator = np.random.default_rng(3)
    labels = {
        split: generator.permutation(np.arange(count) % 25)
        for split, count in (("train", 400), ("validation", 200), ("test", 400))
    }
    # one image of class 0, so that one neighbour is asked
    labels["train"] = np.concatenate([np.arange(1, 25).repeat(17)[:399], [0]])
    subject = make_subject({"pooled": 0.0}, sizes=(400, 200, 400), classes=25, labels=labels)
    found = ask(subject, k=[2, 20])
    values = {(m.metric, m.split): m.value for m in found.measurements}
    assert found.details["neighbours"] == {"validation": {"2": 1, "20": 1}, "test": {"2": 2, "20": 9}}
    assert values["top5@20", "validation"] == values["top1@20", "validation"]
    bank = torch.cat([subject.features.get(split, "pooled") for split in ("train", "validation")]).double().numpy()
    known = np.concatenate([labels["train"], labels["validation"]])
    for k, capped in ((2, 2), (20, 9)):
        scores = brute_force(subject.features.get("test", "pooled").double().numpy(), bank, known, capped, 25, 0.07)
        answers = [[c for c in np.argsort(-row, kind="stable")[:5] if row[c] > 0] for row in scores]
        expected = np.mean([label in answer for label, answer in zip(labels["test"], answers, strict=True)])
        assert values[f"top5@{k}", "test"] == pytest.approx(expected, abs=1.1 / 400)


@pytest.mark.parametrize(("classes", "version"), [(20, 1), (21, 2)])
def test_an_id_changes_only_where_top5_is_measured(make_set: Callable[..., Any], classes: int, version: int) -> None:
    images = make_set(np.arange(100) % classes, "train", classes)
    assert KNN.version_on(KNN.Options(), SimpleNamespace(train=images, validation=images, test=images)) == version


@pytest.mark.parametrize("largest", [0.45, 0.7])
def test_balanced_accuracy_where_one_class_has_more_than_twice_its_share(make_subject: Make, largest: float) -> None:
    """Four classes: 2 / K is a half. Against scikit-learn, on each split by its own labels."""
    generator = np.random.default_rng(0)
    shares = [largest] + 3 * [(1 - largest) / 3]
    labels = {
        split: generator.choice(4, count, p=shares)
        for split, count in (("train", 400), ("validation", 200), ("test", 300))
    }
    subject = make_subject({"pooled": 0.4}, sizes=(400, 200, 300), labels=labels)
    found = ask(subject, k=5)
    balanced = {(m.metric, m.split): m for m in found.measurements if m.metric.startswith("balanced")}
    assert set(balanced) == (
        {("balanced_top1@5", "validation"), ("balanced_top1@5", "test")} if largest > 0.5 else set()
    )
    recalls = found.details["per_class"]["pooled@5"]["test"]
    predicted = found.predictions["pooled@5"]
    assert recalls == pytest.approx([(predicted[labels["test"] == k] == k).mean() for k in range(4)])
    if balanced:
        expected = balanced_accuracy_score(labels["test"], predicted)
        assert (
            balanced["balanced_top1@5", "test"].value == pytest.approx(expected)
            and balanced["balanced_top1@5", "test"].n == 300
        )


def test_codes_are_asked_too_but_stages_are_not(make_subject: Make) -> None:
    found = ask(make_subject({"s1": 0.1, "pooled": 0.5, "code": 0.5}))
    assert {m.stage for m in found.measurements} == {"pooled", "code"}
    assert set(found.predictions) == {"pooled@20", "pooled@200", "code@20", "code@200"}


def test_test_stays_closed(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.5}, final=False)
    features: Any = subject.features
    assert not ask(subject).predictions and ("test", "pooled") not in features.asked


def test_zero_features_are_no_reason_to_fail(make_subject: Make) -> None:
    subject = make_subject({"pooled": 0.5})
    features: Any = subject.features
    for split in ("train", "validation", "test"):
        features.values[split]["pooled"].zero_()
    assert all(np.isfinite(m.value) for m in ask(subject).measurements)


def test_stop_and_bad_options(make_subject: Make) -> None:
    with pytest.raises(Interrupted):
        ask(make_subject({"pooled": 0.5}, stop=lambda: True))
    with pytest.raises(SpecError, match="k"):
        parse(KNN.Options, {"k": [0]}, "knn")
    with pytest.raises(SpecError, match="temperature"):
        parse(KNN.Options, {"temprature": 0.1}, "knn")


def test_neighbours_along_a_run_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, q = rng.standard_normal((90, 6)), rng.standard_normal((70, 6))
    labels, answers = rng.integers(0, 3, 90), rng.integers(0, 3, 70)
    expected = (brute_force(q, x, labels, 20, 3, 0.07).argmax(1) == answers).mean()
    tensors = [torch.from_numpy(part) for part in (x, labels, q, answers)]
    assert knn_accuracy(*tensors, 3, k=20, batch_size=32) == pytest.approx(expected, abs=1e-9)
    assert knn_accuracy(tensors[0], tensors[1], tensors[0], tensors[1], 3, k=1) == 1.0
