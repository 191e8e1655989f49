"""Numbers that are not what they seem: optima that are none, answers nobody gave,
choices that only one machine makes, draws that decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssl_bench.data import Labelled
from ssl_bench.data.images import ImageSet
from ssl_bench.errors import DataError
from ssl_bench.evaluators.knn import vote
from ssl_bench.evaluators.linear.logistic import SoftmaxRegression
from ssl_bench.evaluators.scores import accuracies
from ssl_bench.plan.prepare import prepare
from ssl_bench.plan.run_plan import RunPlan
from ssl_bench.plan.run_record import _majority_class

SMALL = {"source": "shapes", "size": 32, "limit": {"train": 200, "test": 60}}


def matrix(**changes: Any) -> dict[str, Any]:
    return {
        "name": "numbers",
        "data": SMALL,
        "backbone": {"name": "resnet10t", "width": 0.25, "stem_stride": 2},
        "seeds": [0, 1],
        "pretrain": {"images": 64},
        "tasks": [{"rotation": {"batch_size": 16}}],
        "baselines": ["random", "pixels", "pca"],
        "evaluate": ["linear", "knn"],
    } | changes


def planned(run_plan: RunPlan, name: str) -> list[Any]:
    return [one for cell in run_plan.cells() for one in cell.evaluations if one.name == name]


def test_a_weak_penalty_ends_at_the_optimum_or_says_that_it_did_not() -> None:
    """450 images, 512 dimensions, 1 / C = 0.1:
    the entries of the gradient are tiny long before the objective is near its minimum."""
    generator = torch.Generator().manual_seed(3)
    causes = torch.randn(900, 20, generator=generator)
    x = torch.relu(causes @ torch.randn(20, 512, generator=generator) + torch.randn(900, 512, generator=generator))
    y = (causes[:, :12] + torch.randn(900, 12, generator=generator)).argmax(1)
    x = (x - x[:450].mean(0)) / x[:450].std(0)
    expected = LogisticRegression(C=10.0, tol=1e-8, max_iter=20_000).fit(x[:450].double().numpy(), y[:450].numpy())
    problem = SoftmaxRegression(x[:450], y[:450], 12)
    agree = {}
    for most in (25, 2_000):
        found = problem.fit(0.1 / 450, max_iterations=most)
        agree[found.converged] = (
            found.logits(x[450:]).argmax(1).numpy() == expected.predict(x[450:].double().numpy())
        ).mean()
    assert agree[True] >= 0.99 and agree[False] < agree[True]


def test_a_class_without_a_vote_is_no_answer() -> None:
    """25 classes, three neighbours of the classes 24, 24 and 7: two answers, and not five with 0, 1 and 2."""
    scores = vote(torch.tensor([[0.9, 0.8, 0.1]]).expand(25, 3), torch.tensor([[24, 24, 7]]).expand(25, 3), 25)
    values = accuracies(scores, torch.arange(25), 25)
    assert values == {"top1": pytest.approx(1 / 25), "top5": pytest.approx(2 / 25)}
    # a vote too small for a float is one all the same
    low = vote(torch.tensor([[0.9, 0.1]]), torch.tensor([[3, 9]]), 25, temperature=1e-4)
    assert accuracies(low, torch.tensor([9]), 25)["top5"] == 1.0


@pytest.mark.parametrize(
    ("classes", "largest", "told"),
    [(2, 95, True), (2, 67, True), (2, 66, False), (3, 67, True), (3, 66, False), (10, 21, True), (10, 20, False)],
)
def test_always_answering_the_largest_class_is_told_also_of_two(classes: int, largest: int, told: bool) -> None:
    """With two classes 2 / K is all of the images, so that no set would ever be above it."""
    labels = np.concatenate([np.zeros(largest, np.int64), 1 + np.arange(100 - largest) % (classes - 1)])
    scores = torch.zeros(100, classes)
    scores[:, 0] = 1  # always the largest
    values = accuracies(scores, torch.from_numpy(labels), classes)
    assert values == {"top1": largest / 100} | ({"balanced_top1": pytest.approx(1 / classes)} if told else {})
    images = ImageSet(
        np.zeros((100, 8, 8, 3), np.uint8), np.arange(100), labels, tuple(map(str, range(classes))), "toy", ""
    )
    assert bool(_majority_class(Labelled("toy", images, images, images))) == told


def test_folds_are_decided_alike_for_every_row_and_stand_in_the_id(tmp_path: Path) -> None:
    ids: dict[str, set[str]] = {}
    for name, changes in {
        "little training": {},
        "much training": {"pretrain": {"images": 1_000_000}},
        "as asked": {"evaluate": [{"linear": {"folds": 5}}]},
        "few labels alone": {"evaluate": [{"linear": {"labels": [0.5]}}]},
    }.items():
        probes = planned(prepare(matrix(**changes), tmp_path / "run"), "linear")
        assert len(probes) == 8 and len({one.options.folds for one in probes}) == 1
        ids[name] = {one.id for one in probes if one.spec["pretraining"]}
        assert {one.options.folds for one in probes} == ({0} if name == "little training" else {5})
    # Rows without training are the same cells under both budgets: what was decided tells their numbers apart, and how
    # it was decided does not.
    assert len(ids["as asked"] & ids["much training"]) == 6 and not ids["as asked"] & ids["little training"]


def test_another_draw_of_validation_is_another_split_and_the_usual_one_no_setting(tmp_path: Path) -> None:
    usual, written, other = (
        prepare(matrix(data=SMALL | seed), tmp_path) for seed in ({}, {"validation_seed": 0}, {"validation_seed": 7})
    )
    assert [cell.id for cell in usual.cells()] == [cell.id for cell in written.cells()]
    assert not {cell.id for cell in usual.cells()} & {cell.id for cell in other.cells()}
    first, second = usual.data.evaluate[0], other.data.evaluate[0]
    assert len(first.validation) == len(second.validation) and first.test.fingerprint == second.test.fingerprint
    drawn = [
        set(map(bytes, np.asarray(one.validation.pixels)[one.validation.rows].reshape(len(one.validation), -1)))
        for one in (first, second)
    ]
    assert len(drawn[0] & drawn[1]) < len(drawn[0]) / 2
    assert {split: len(getattr(first, split)) for split in ("train", "validation", "test")} == {
        "train": 180,
        "validation": 20,
        "test": 60,
    }


@pytest.mark.parametrize("name", ["linear", "finetune"])
def test_a_share_of_labels_that_leaves_a_class_empty_is_refused_with_its_subject_once(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(
        DataError,
        match=(
            f"^evaluator '{name}' on shapes: "
            r"label fraction 1e-09 of 180 images is 0 labels .*fraction that works is 0.0\d+$"
        ),
    ):
        prepare(matrix(evaluate=[{name: {"labels": [1e-9]}}]), tmp_path / "run")
