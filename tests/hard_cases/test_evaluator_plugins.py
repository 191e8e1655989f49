"""Evaluators of plugins: an answer that cannot be used is refused in words,
and nothing they do reaches another evaluator or row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import TINY, written
from ssl_bench.errors import SpecError
from ssl_bench.plan.prepare import prepare
from ssl_bench.plugins.loading import load_plugin
from ssl_bench.plugins.registry import EVALUATORS, TASKS
from ssl_bench.records.schema import EvaluationRecord, Failure, failure_files, read_record
from ssl_bench.runner.observer import Observer
from ssl_bench.runner.scheduler import carry_out

HEAD = """
import numpy as np, torch
from ssl_bench import Evaluation, Evaluator, Measurement

def one(**changes):
    facts = {"metric": "score", "split": "validation", "value": 0.5, "n": 20, **changes}
    return Measurement(**facts)
"""
JUDGE = '''
class Judge_{name}(Evaluator):
    """Judge."""
    name = "{name}"
    protocol = "mine"
    opens_test = False

    def evaluate(self, subject):
        {body}
'''
ANSWERS = {
    "nothing": (
        "return None",
        r"nothing returned a NoneType from evaluate\(subject\), and it must return an ssl_bench.Evaluation",
    ),
    "plain": (
        "return Evaluation([{'metric': 'score', 'value': 0.5}])",
        "plain measured a dict, and measurements must be a list of ssl_bench.Measurement",
    ),
    "percent": ("return Evaluation([one(metric='top1', value=50.0)])", r"top1 must be from 0 to 1 \(got 50\)"),
    "split": ("return Evaluation([one(split='val')])", "split: Input should be 'validation' or 'test'"),
    "twice": (
        "return Evaluation([one(), one(value=0.7)])", r"twice measured score on validation twice \(0.5 and 0.7\)",
    ),
    "unnamed": ("return Evaluation([one(metric='')])", "names a metric ''; a name is printable text"),
    "many": (
        "return Evaluation([one(metric='top1', n=10**6)])",
        "top1 is over 1,000,000 images, and validation has 24: its interval would be too narrow",
    ),
    "short": (
        "return Evaluation([one(metric='top1')], predictions={'top1': np.zeros(5, int)})",
        r"predictions 'top1' of shape \(5,\) and type int64, and there are 96 test images",
    ),
    "objects": (
        "return Evaluation([one()], predictions={'a': [object()]})", "predictions 'a' that are no array of numbers",
    ),
    "details": (
        "return Evaluation([one()], details={'a': torch.ones(3)})",
        "details that do not fit into JSON .* make tensors and arrays numbers",
    ),
}  # fmt: skip
DEEDS = {
    "trains": "[parameter.data.mul_(0) for parameter in subject.backbone.parameters()]",
    "hooks": "subject.backbone.register_forward_hook(lambda module, inputs, output: output * 0)",
    "patches": (
        "subject.backbone.stages = None; subject.backbone.train(); subject.backbone(torch.rand(8, 3, 32, 32) * 9)"
    ),
    "features": "[subject.features.get(split, 'pooled').numpy().fill(0) for split in ('train', 'validation', 'test')]",
    "labels": "subject.labels('train').fill(0)",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_added", {})
    monkeypatch.setattr(EVALUATORS, "_added", {})


class Watching(Observer):
    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def cell_failed(self, cell: Any, failure: Failure) -> None:
        assert not failure.traceback
        self.failed[failure.where] = failure.message


def run(folder: Path, plugin: str, evaluate: list[Any], out: str = "out") -> dict[str, str]:
    written(folder, HEAD + plugin)
    watcher = Watching()
    carry_out(prepare(TINY | {"evaluate": evaluate}, folder / out, plugins=(folder / "plugin.py",)), watcher)
    return watcher.failed


def test_answers_that_cannot_be_used_are_refused_and_say_what_to_return(tmp_path: Path) -> None:
    failed = run(
        tmp_path, "".join(JUDGE.format(name=name, body=body) for name, (body, _) in ANSWERS.items()), list(ANSWERS)
    )
    assert failed.keys() == ANSWERS.keys()
    for name, (_, words) in ANSWERS.items():
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(failed[name])
    assert len(failure_files(next((tmp_path / "out").glob("cells/random/*")))) == len(ANSWERS)


def test_what_an_evaluator_changes_reaches_no_other(tmp_path: Path) -> None:
    plugin = "".join(
        JUDGE.format(name=name, body=f"{deed}\n        return Evaluation([one()])") for name, deed in DEEDS.items()
    )
    assert (
        run(tmp_path, plugin, [{"knn": {"k": [5]}}], "alone")
        == run(tmp_path, plugin, [*DEEDS, {"knn": {"k": [5]}}], "after")
        == {}
    )
    alone, after = (
        [
            m.value
            for path in (tmp_path / out).glob("cells/random/*/knn-*.json")
            for m in read_record(path, EvaluationRecord).measurements
        ]
        for out in ("alone", "after")
    )
    assert alone and alone == after


def test_a_plugin_that_replaces_the_suite_s_functions_is_refused_when_imported(tmp_path: Path) -> None:
    from ssl_bench.evaluators.knn import KNN

    before = KNN.evaluate
    (tmp_path / "mine.py").write_text(
        HEAD
        + JUDGE.format(name="mine", body="return Evaluation([one()])")
        + "\nfrom ssl_bench.evaluators.knn import KNN\nKNN.evaluate = Judge_mine.evaluate\n"
    )
    with pytest.raises(
        SpecError,
        match=(
            r"changes functions of ssl_bench \(ssl_bench.evaluators.knn.KNN.evaluate\) "
            "for the whole program when it is imported"
        ),
    ):
        load_plugin(tmp_path / "mine.py")
    assert KNN.evaluate is before


TASK = '''
import torch
from ssl_bench import PretextTask, Recipe

class Mine(PretextTask):
    """Mine."""
    name = "mine"

    def views(self, batch):
        return batch.images

    def forward(self, views):
        return {{"loss": self.backbone(views).mean()}}

    @classmethod
    def short_recipe(cls, options, image_size):
        {body}
'''


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "return Recipe(learning_rate=0.0)",
            (
                "task 'mine': its code makes a Recipe that is refused: "
                r"learning_rate: .* greater than 0, not 0.0 \(.*line 17\)"
            ),
        ),
        ("return {'learning_rate': 1e-3}", "task 'mine': its recipe gave a dict, and it must give a Recipe"),
        ("return 1 / 0", r"task 'mine': its code raised ZeroDivisionError: division by zero \(.*line 17\)"),
    ],
    ids=["rate", "dict", "raises"],
)
def test_a_task_whose_recipe_cannot_be_made_is_told_before_anything_trains(
    tmp_path: Path, body: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(TASK.format(body=body))
    with pytest.raises(SpecError, match=words):
        prepare(json.loads(json.dumps(TINY | {"tasks": ["mine"]})), tmp_path / "out", plugins=(tmp_path / "mine.py",))
